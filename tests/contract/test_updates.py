"""Atomic changes that depend on a key's value: counters, lists, claims, moves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from redis_store import (
    MISSING,
    Conflict,
    CorruptValue,
    InvalidInput,
    InvalidName,
    InvalidType,
    InvalidValue,
    LimitExceeded,
    StoredDataError,
    WrongValueType,
    connect,
    connect_async,
)
from redis_store.flows import optimistic
from redis_store.mapping import StoreMapping
from redis_store.namespace.keys import UserKeys
from tests.conftest import params_of
from tests.support.brokered_side import blocking
from tests.support.servers import Server
from tests.support.sides import SIDES_WITH_FUNCTIONS, Side
from tests.support.threads import all_at_once, in_thread


@pytest.fixture(params=params_of(SIDES_WITH_FUNCTIONS))
def side(request: pytest.FixtureRequest) -> str:
    """The sides outside the sandbox."""
    return str(request.param)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


NUMBERS: list[tuple[Any, Any, Any]] = [
    (None, 1, 1),
    (0, 5, 5),
    (-3, 3, 0),
    (7, -10, -3),
    (10**18 - 1, 1, 10**18),
    (-(10**17), -(10**17), -2 * 10**17),
    (2**63 - 1, 1, 2**63),
    (2**63, -1, 2**63 - 1),
    (-(2**63), -1, -(2**63) - 1),
    (10**40, 10**39, 11 * 10**39),
    (0.1, 0.2, 0.1 + 0.2),
    (1, 0.5, 1.5),
    (1.5, 1, 2.5),
    (None, -0.5, -0.5),
    (1e308, -1e308, 0.0),
]


@pytest.mark.parametrize(("start", "by", "total"), NUMBERS)
def test_increments_equal_python_sums(store: Side, start: Any, by: Any, total: Any) -> None:
    if start is not None:
        store.set("key", start, metadata={"m": 1})
    assert store.increment("key", by) == total
    assert type(store.increment("key", 0)) is type(total)
    assert store.get("key") == total
    assert store.info("key").metadata == ({} if start is None else {"m": 1})
    assert store.list_namespaces() == ["default"]


@pytest.mark.parametrize("text", ["-0", " 7", "7 ", "7.0", "1e3", "00"])
def test_externally_written_numbers(store: Side, raw: redis.Redis, keys: UserKeys, text: str) -> None:
    raw.hset(keys.data(b"default"), "key", text)
    if text == "00":
        with pytest.raises(CorruptValue):
            store.increment("key")
    else:
        assert store.increment("key") == float(text) + 1


@pytest.mark.parametrize("value", ["1", None, True, False, [], {}, [1]], ids=repr)
def test_only_numbers_are_incremented(store: Side, value: Any) -> None:
    store.set("key", value)
    for by in (1, 0.5):
        with pytest.raises(WrongValueType, match="Only a number can be incremented") as caught:
            store.increment("key", by)
        assert caught.value.key == "key"
        assert isinstance(caught.value, TypeError)
    assert store.get("key") == value


@pytest.mark.parametrize(
    ("by", "error"),
    [("1", InvalidType), (True, InvalidType), (None, InvalidType), ([1], InvalidType), (float("nan"), InvalidValue),
     (float("inf"), InvalidValue), (1j, InvalidValue), (10**4300, InvalidValue)],
    ids=["text", "bool", "null", "list", "nan", "inf", "complex", "4301 digits"],
)  # fmt: skip
def test_only_numbers_increment(store: Side, by: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        store.increment("key", by)
    assert store.list_keys() == []


@pytest.mark.parametrize(
    ("start", "by"), [(1.7e308, 1.7e308), (10**400, 0.5), (10**4300 - 1, 1)], ids=["float", "int and float", "digits"]
)
def test_a_sum_out_of_range_is_refused(store: Side, start: Any, by: Any) -> None:
    store.set("key", start)
    with pytest.raises(InvalidInput, match="out of range"):
        store.increment("key", by)
    assert store.get("key") == start


def test_a_list_grows(store: Side) -> None:
    store.append("key", 1, [2], {"a": None})
    store.append("key")
    store.append("key", "é")
    assert store.get("key") == [1, [2], {"a": None}, "é"]
    store.append("key", 5, 6, max_items=3)
    assert store.get("key") == ["é", 5, 6]
    store.append("key", *range(10), max_items=2)
    assert store.get("key") == [8, 9]
    store.append("new", 1, 2, 3, max_items=2)
    assert store.get("new") == [2, 3]


@pytest.mark.parametrize("text", ["[]", " [ ] ", "[ 1 , 2 ]\n", '["]"]', "[[1]]"])
def test_externally_written_lists(store: Side, raw: redis.Redis, keys: UserKeys, text: str) -> None:
    raw.hset(keys.data(b"default"), "key", text)
    before = store.get("key")
    store.append("key", "x")
    assert store.get("key") == [*before, "x"]


@pytest.mark.parametrize("value", [{}, {"a": [1]}, "text", "]", "[", 1, None, True], ids=repr)
@pytest.mark.parametrize("max_items", [None, 3])
def test_only_lists_are_appended_to(store: Side, value: Any, max_items: int | None) -> None:
    store.set("key", value)
    with pytest.raises(WrongValueType, match="Only a list can be appended to"):
        store.append("key", 1, max_items=max_items)
    assert store.get("key") == value


def test_unappendable_values(store: Side) -> None:
    with pytest.raises(InvalidValue) as caught:
        store.append("key", 1, {2})
    assert caught.value.path == "value[1]"
    with pytest.raises(InvalidValue):
        store.append("key", nested(254))
    for max_items, error in (
        (0, InvalidInput),
        (-1, InvalidInput),
        ("1", InvalidType),
        (1.5, InvalidType),
        (True, InvalidType),
    ):
        with pytest.raises(error):
            store.append("key", 1, max_items=max_items)
    assert store.list_keys() == []


def test_a_list_may_not_grow_over_the_limit(server: Server, user: str, side: str) -> None:
    with connect(server.url, user=user, max_value_bytes=100) as outside, blocking(outside, side) as store:
        store.append("key", "x" * 60)
        with pytest.raises(LimitExceeded) as caught:
            store.append("key", "y" * 60)
        assert caught.value.limit == "max_value_bytes"
        assert store.get("key") == ["x" * 60]
        with pytest.raises(LimitExceeded):
            store.update("key", lambda _: "z" * 200)


def test_a_claim_is_won_once(store: Side) -> None:
    assert store.set_if_absent("job", None) is True
    assert store.set_if_absent("job", "other") is False
    assert store.get("job", "absent") is None
    store.delete("job")
    assert store.set_if_absent("job", "other") is True


def test_compare_and_set(store: Side) -> None:
    assert store.compare_and_set("key", None, 1) is False, "an absent key holds no null"
    assert store.compare_and_set("key", MISSING, None) is True
    assert store.compare_and_set("key", MISSING, 1) is False
    assert store.compare_and_set("key", None, {"b": 1, "a": [2]}, ttl=None) is True
    assert store.compare_and_set("key", {"a": [2], "b": 1}, 1) is True, "the order of keys says nothing"
    for other in (1.0, True, "1", [1], None):
        assert store.compare_and_set("key", other, 2) is False
    assert store.compare_and_set("key", 1, 2) is True
    assert store.get("key") == 2
    for expected, value in (({1}, 1), (1, {1})):
        with pytest.raises(InvalidValue):
            store.compare_and_set("key", expected, value)


def test_compare_and_set_of_external_write(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    raw.hset(keys.data(b"default"), "key", ' { "a" : 1.50 } ')
    assert store.compare_and_set("key", store.get("key"), "new") is True


def test_an_update_gets_and_returns(store: Side) -> None:
    assert store.update("key", lambda value: [value]) == [None]
    assert store.update("key", lambda value: [*value, 1], []) == [None, 1]
    assert store.update("new", lambda value: value + 1, 41) == 42
    assert store.update("key", lambda _: (1, 2)) == [1, 2]
    store.set("key", None)
    assert store.update("key", lambda value: [value], "default") == [None]


def test_an_update_that_fails_writes_nothing(store: Side) -> None:
    store.set("key", {"a": [1]})

    def fail(value: Any) -> Any:
        value["a"].append(2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.update("key", fail)
    with pytest.raises(InvalidValue):
        store.update("key", lambda _: {1})
    with pytest.raises(InvalidType):
        store.update("key", 5)
    with pytest.raises(InvalidName):
        store.update("", lambda value: value)
    assert store.get("key") == {"a": [1]}


def test_an_update_is_tried_again_with_the_newer_value(store: Side, server: Server, user: str) -> None:
    seen = []
    with connect(server.url, user=user) as other:

        def change(value: int) -> int:
            seen.append(value)
            if len(seen) < 6:
                other.increment("key", 10)
            return value + 1

        other.set("key", 0)
        assert store.update("key", change) == 51
    assert seen == [0, 10, 20, 30, 40, 50]


def test_update_disturbed_on_every_try_is_a_conflict(
    store: Side, server: Server, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimistic, "UPDATE_TRIES", 5)
    with connect(server.url, user=user) as other, pytest.raises(Conflict, match="during each of 5 tries"):
        store.update("key", lambda _: other.increment("key") and "mine")
    assert store.get("key") == 5


def test_pop(store: Side) -> None:
    store.set("null", None)
    store.set("key", [1])
    assert store.pop("key") == [1]
    assert store.pop("null", "default") is None
    assert store.pop("key", "default") == "default"
    with pytest.raises(KeyError, match="key"):
        store.pop("key")
    assert store.list_namespaces() == []


UNREADABLE = {
    "not JSON": b'{"steps": ["read", "write"],}',
    "not UTF-8": b'"\xff"',
    "cut off": b"[1, 2",
    "of a later version": b"\x01unknown",
    "a broken frame": b"\x01\x28\xb5\x2f\xfdbroken",
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("how", ["pop", "pop with a default", "popitem"])
def test_pop_deletes_nothing_that_it_cannot_read(
    store: Side, raw: redis.Redis, keys: UserKeys, how: str, name: str, side: str
) -> None:
    data = keys.namespace("default").data.decode()
    raw.hset(data, "key", UNREADABLE[name])
    if how == "popitem" and side == "async":
        how = "pop"  # an asynchronous store is no mapping
    calls = {
        "pop": lambda: store.pop("key"),
        "pop with a default": lambda: store.pop("key", "default"),
        "popitem": lambda: store.popitem(),
    }
    with pytest.raises(StoredDataError) as caught:
        calls[how]()
    assert (caught.value.namespace, caught.value.key) == ("default", "key")
    assert raw.hget(data, "key") == UNREADABLE[name]


def test_pop_of_a_value_that_others_change(store: Side, server: Server, user: str) -> None:
    """Each value is popped once, whoever pops it, and none is deleted by a caller that did not get it."""
    put = [f"{writer}-{n}" for writer in range(2) for n in range(8)]
    popped: list[Any] = []

    def write(writer: int) -> None:
        for n in range(8):
            while not other.set_if_absent("key", f"{writer}-{n}"):
                pass

    def pop(on: Any) -> None:
        while len(popped) < len(put):
            value = on.pop("key", None)
            if value is not None:
                popped.append(value)

    with connect(server.url, user=user) as other:
        with in_thread(lambda: write(0)), in_thread(lambda: write(1)), in_thread(lambda: pop(other)):
            pop(store)
        assert sorted(popped) == sorted(put)


def test_rename_moves_all_of_a_key(store: Side) -> None:
    store.set("key", [1], metadata={"m": 1})
    store.set("new", "old", metadata={"old": 1})
    created = store.info("key").created_at
    assert store.rename("key", "new") is True
    assert store.get_all() == {"new": [1]}
    assert store.info("key") is None
    assert store.info("new").metadata == {"m": 1}
    assert store.info("new").created_at == created
    assert store.rename("key", "new") is False
    assert store.rename("new", "new") is True
    assert store.get_all() == {"new": [1]}
    for bad in ("", "\ud800"):
        with pytest.raises(InvalidName):
            store.rename("new", bad)
        with pytest.raises(InvalidName):
            store.rename(bad, "new")


def test_info_left_by_external_delete_does_not_return(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    writes = [
        lambda: store.increment("key"),
        lambda: store.append("key", 1),
        lambda: store.update("key", lambda _: 1),
        lambda: store.set_if_absent("key", 1),
        lambda: store.get_or_set("key", lambda: 1),
        lambda: store.set("other", 1) or store.rename("other", "key"),
    ]
    for write in writes:
        store.set("key", 1, metadata={"old": 1})
        raw.hdel(keys.data(b"default"), "key")
        write()
        assert store.info("key").metadata == {}
        assert store.list_namespaces() == ["default"]
        store.clear()


def test_many_writers_lose_nothing(server: Server, user: str, side: str) -> None:
    """Each of several threads or tasks changes keys that all of them change, and one key of its own."""
    writers, rounds = 8, 10
    if side != "async":
        with connect(server.url, user=user) as outside, blocking(outside, side) as store:

            def work(number: int) -> None:
                for _ in range(rounds):
                    store.increment("int")
                    store.increment("float", 0.5)
                    store.append("list", number)
                    store.append("newest", number, max_items=5)
                    store.update("updated", lambda value: value + 1, 0)
                    store.update(f"own-{number}", lambda value: value + 1, 0)

            all_at_once([lambda number=number: work(number) for number in range(writers)])
            found = store.get_all()
    else:

        async def main() -> dict[str, Any]:
            async with connect_async(server.url, user=user) as store:

                async def work(number: int) -> None:
                    for _ in range(rounds):
                        await store.increment("int")
                        await store.increment("float", 0.5)
                        await store.append("list", number)
                        await store.append("newest", number, max_items=5)
                        await store.update("updated", lambda value: value + 1, 0)
                        await store.update(f"own-{number}", lambda value: value + 1, 0)

                await asyncio.gather(*map(work, range(writers)))
                return await store.get_all()

        found = asyncio.run(main())
    total = writers * rounds
    assert found["int"] == found["updated"] == total
    assert found["float"] == total / 2
    assert sorted(found["list"]) == sorted(list(range(writers)) * rounds)
    assert len(found["newest"]) == 5
    assert [found[f"own-{number}"] for number in range(writers)] == [rounds] * writers


def test_writes_to_other_keys_never_conflict(store: Side, server: Server, user: str) -> None:
    calls = []
    with connect(server.url, user=user) as other:

        def change(value: Any) -> int:
            calls.append(value)
            other.set_many({f"other-{number}": number for number in range(50)})
            other.delete("other-7")
            return 1

        store.update("key", change)
    assert calls == [None]


@pytest.mark.parametrize("side", ["sync", "brokered"], indirect=True)
def test_update_also_follows_mapping_protocol(store: Side) -> None:
    mapping: StoreMapping = store.as_mapping()
    mapping.update({"a": 1}, b=2)
    mapping.update([("c", 3)])
    mapping.update(key=4, function=5)
    assert store.get_all() == {"a": 1, "b": 2, "c": 3, "key": 4, "function": 5}
    for arguments in (("ab",), (1, lambda value: value)):
        with pytest.raises((TypeError, ValueError)):
            mapping.update(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["async", "brokered"], indirect=True)
def test_an_asynchronous_function_may_update(store: Side) -> None:
    async def change(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    assert store.update("key", change, 1) == 2
    assert store.get_or_set("other", lambda: change(2)) == 3
    assert store.get_all() == {"key": 2, "other": 3}


@pytest.mark.parametrize("side", ["sync"], indirect=True)
def test_a_store_that_blocks_refuses_asynchronous_functions(store: Side) -> None:
    async def change(value: int) -> int:
        return value

    with pytest.raises(InvalidType, match="connect_async"):
        store.update("key", change)
    with pytest.raises(InvalidType, match="connect_async"):
        store.get_or_set("key", lambda: change(1))
    assert store.list_keys() == []
