"""Bounds on single calls of an agent's store, so that the server serves others meanwhile. The host's own stores have none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from redis_store import DataStore, limits
from redis_store.brokers import steps
from redis_store.brokers.lease import lease
from redis_store.errors import LimitExceeded
from redis_store.flows.optimistic import TransactionParts
from redis_store.operations import operations_of
from redis_store.ops import listing
from tests.support.servers import Server

MOST = 100_000
BIG, HALF, SMALL = (b'"%b"' % (b"x" * size) for size in (MOST, MOST // 2, 100))
TOKEN = "token-of-mine"


@pytest.fixture
def store(server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(server.url, user)


@pytest.fixture
def texts(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataStore]:
    """The store of an agent whose scripts may copy little."""
    monkeypatch.setattr(limits, "MAX_SCRIPT_BYTES", MOST)
    monkeypatch.setattr(limits, "MAX_READ_BYTES", 2 * MOST)
    monkeypatch.setattr(limits, "MAX_STEP_BYTES", 4 * MOST)
    monkeypatch.setattr(limits, "MAX_CALL_KEYS", 10)
    with lease(store, user=store.user, namespace=store.namespace, max_read_bytes=10**9) as leased:
        yield leased.as_json_text()


def call(store: DataStore, operation: str, *arguments: object) -> object:
    return steps.carry_out(store, operation, *arguments)


def parts(*sets: bytes, expected: bytes = b"1") -> TransactionParts:
    return TransactionParts(
        [("default", "key", expected)], [("default", f"k{at}", text, None) for at, text in enumerate(sets)], [], {}
    )


REFUSED: dict[str, Callable[[DataStore], object]] = {
    "rename": lambda store: call(store, "rename", "big", "new"),
    "rename, bounded": lambda store: call(store.use_namespace("default", max_keys=5), "rename", "big", "new"),
    "set with metadata": lambda store: call(store, "set", "key", BIG, {"a": 1}, None),
    "set, bounded": lambda store: call(store.use_namespace("default", max_keys=5), "set", "key", BIG, None, None),
    "set_many, bounded": lambda store: store.use_namespace("default", max_keys=5).set_many({"a": HALF, "b": HALF}),
    "set_many with metadata": lambda store: store.set_many({"a": HALF, "b": HALF}, metadata={"a": 1}),
    "set_if_absent": lambda store: store.set_if_absent("new", BIG),
    "append to a big value": lambda store: store.append("big", b"1"),
    "append big items": lambda store: store.append("new", HALF),
    "append big items to a list": lambda store: [store.append("list", b'"%b"' % (b"x" * 20_000)) for _ in range(3)],
    "append, bounded list": lambda store: store.append("biglist", b"1", max_items=1),
    "increment": lambda store: store.increment("big", b"1"),
    "compare_and_set": lambda store: store.compare_and_set("key", HALF, HALF),
    "pop": lambda store: call(store, "pop", "big", BIG),
    "replace": lambda store: call(store, "replace", "big", HALF, HALF),
    "commit_value": lambda store: call(store, "commit_value", "key", TOKEN, BIG),
    "transaction": lambda store: call(store, "commit_transaction", parts(HALF, HALF)),
    "transaction, expected": lambda store: call(store, "commit_transaction", parts(HALF, expected=HALF)),
}


@pytest.mark.parametrize("work", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("server", ["fakeredis"], indirect=True)
def test_no_script_copies_more_for_an_agent(
    store: DataStore, texts: DataStore, work: Callable[[DataStore], object]
) -> None:
    store.as_json_text().set_many({"big": BIG, "biglist": b"[%b]" % BIG, "key": b"1"})
    before = store.get_many(["big", "biglist", "key", "new"])
    with pytest.raises(LimitExceeded) as caught:
        work(texts)
    assert (caught.value.limit, caught.value.facts["limit_bytes"]) == ("max_script_bytes", MOST)
    assert caught.value.facts["size_bytes"] > MOST
    assert store.get_many(["big", "biglist", "key", "new"]) == before


def test_values_of_any_size_are_still_set_read_compared_and_deleted(store: DataStore, texts: DataStore) -> None:
    """Where the value need not go through a script."""
    call(texts, "set", "big", b'"%b"' % (b"y" * 2_000_000), None, None)
    assert store["big"] == "y" * 2_000_000
    assert texts.get("big") == b'"%b"' % (b"y" * 2_000_000)
    call(texts, "set_many", {"one": BIG, "two": BIG, "small": b"1"}, None, None)
    assert store.get_many(["one", "small"]) == {"one": "x" * MOST, "small": 1}
    assert texts.compare_and_set("one", b"2", b"3") is False
    assert call(texts, "replace", "one", b"2", b"3") == (False, BIG)
    assert call(texts, "pop", "one", b"2") == (False, BIG)
    assert call(texts, "pop", "one") == (False, BIG)
    assert call(texts, "claim_value", "one", TOKEN) == (BIG,)
    assert texts.delete("one") is True


@pytest.mark.parametrize("size", [100, 65_536, 200_000])
def test_a_value_is_compared_whatever_its_size(store: DataStore, size: int) -> None:
    text = b'"%b"' % (b"x" * size)
    other = b'"%b"' % (b"y" * size)
    texts = store.as_json_text()
    texts.set("key", text)
    assert call(texts, "replace", "key", other, b"1") == (False, text)
    assert call(texts, "replace", "key", b"1", b"1") == (False, text)
    assert call(texts, "pop", "key", other) == (False, text)
    assert call(texts, "replace", "key", text, other) == (True, other)
    assert texts.pop("key") == other
    assert texts.pop("key", b"none") == b"none"


def test_reads_are_measured_before_the_server_builds_its_reply(store: DataStore, texts: DataStore) -> None:
    store.as_json_text().set_many({"one": BIG, "two": HALF, "three": BIG})
    assert texts.get_many(["one", "two", "none"]) == {"one": BIG, "two": HALF}
    with pytest.raises(LimitExceeded) as caught:
        texts.get_many(["one", "two", "three"])
    assert caught.value.limit == "max_read_bytes"
    store.as_json_text().set("huge", b'"%b"' % (b"x" * 3 * MOST))
    assert len(texts.get_many(["huge"])["huge"]) == 3 * MOST + 2, "as get does"


@pytest.mark.parametrize("server", ["fakeredis"], indirect=True)
def test_names_of_the_keys_of_one_call_are_measured(
    store: DataStore, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_CALL_NAME_BYTES", 1000)
    names = ["a" * 600, "b" * 600]
    with lease(store, user=user, namespace=store.namespace, max_read_bytes=10**9) as leased:
        for refused in (
            lambda: leased.set_many(dict.fromkeys(names, 1)),
            lambda: leased.get_many(names),
            lambda: leased.delete_many(names),
        ):
            with pytest.raises(LimitExceeded) as caught:
                refused()
            assert caught.value.limit == "max_call_name_bytes"
        leased.set("a" * 2000, 1)
        leased.set_many(dict.fromkeys([names[0], "b" * 400], 1))
    assert len(store.list_keys()) == 3


def test_keys_of_one_call_are_counted(store: DataStore, texts: DataStore) -> None:
    keys = [f"k{number}" for number in range(11)]
    for work in (
        lambda: texts.get_many(keys),
        lambda: texts.delete_many(keys),
        lambda: texts.set_many(dict.fromkeys(keys, b"1")),
        lambda: texts.set_many(dict.fromkeys(keys, b"1"), metadata={"a": 1}),
    ):
        with pytest.raises(LimitExceeded) as caught:
            work()
        assert (caught.value.limit, caught.value.facts["limit_count"]) == ("max_call_keys", 10)
    with pytest.raises(LimitExceeded) as caught:
        texts.set_many(dict.fromkeys(keys[:5], BIG))
    assert (caught.value.limit, caught.value.facts["limit_bytes"]) == ("max_batch_bytes", 4 * MOST)
    assert texts.set_many({"one": b'"%b"' % (b"x" * 5 * MOST)}) == 1
    assert texts.delete("one") is True
    assert texts.set_many(dict.fromkeys(keys[:10], b"1")) == 10
    assert len(texts.get_many(keys[:10])) == texts.delete_many(keys[:10]) == 10


def test_the_host_has_no_such_bounds(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SCRIPT_BYTES", MOST)
    texts = store.as_json_text()
    texts.set("key", BIG, metadata={"a": 1})
    assert texts.rename("key", "new") is True
    texts.set("list", b"[%b]" % BIG)
    texts.append("list", BIG)
    assert store.pop("list") == ["x" * MOST] * 2


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_a_few_big_values_among_many_small_ones_are_found(store: DataStore) -> None:
    """A script that reads a small namespace whole copies it; a sample of its memory nearly always missed them."""
    on = operations_of(store)
    store.set_many(
        {**{f"k{number}": number for number in range(490)}, **{f"big{n}": "x" * 6_000_000 for n in range(3)}}
    )
    count, memory_bytes, whole = on.driver.run(listing._small(on.scope, "items"))
    assert (count, whole) == (493, None)
    assert memory_bytes > 18_000_000
    assert len(store.get_all()) == 493


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_pages_of_keys_are_small_where_their_values_come_along(store: DataStore) -> None:
    store.set_many({f"k{number}": "x" * 100_000 for number in range(100)})
    _, keys = store._operations.call("scan_page", "0", None)
    assert 0 < len(keys) < 50
    assert len(list(store.iter_keys())) == len(store.list_keys()) == 100
