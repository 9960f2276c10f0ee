"""Single flight: what callers get, what is stored, and the effect of a delete in between."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from redis_store import (
    ComputeFailed,
    DataStore,
    InvalidInput,
    InvalidName,
    InvalidType,
    InvalidValue,
    LimitExceeded,
    WrongKeyType,
    connect,
    connect_async,
)
from redis_store.flows import compute_once
from redis_store.flows.flow import Rand
from redis_store.namespace.keys import UserKeys
from tests.support.brokered_side import blocking
from tests.support.servers import KINDS_WITH_TTL, Server, wait_until
from tests.support.sides import SIDES_WITH_FUNCTIONS, Side
from tests.support.threads import in_thread

pytestmark = pytest.mark.parametrize("side", SIDES_WITH_FUNCTIONS, indirect=True)


class Work:
    """A function that computes on command, and counts its calls."""

    def __init__(self, result: Any = "computed") -> None:
        self.calls = 0
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.result = result

    def __call__(self) -> Any:
        self.calls += 1
        self.begun.set()
        assert self.go_on.wait(20)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def when_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Arrange for a call as soon as a caller has found that another one is computing."""

    def arrange(call: Callable[[], None]) -> None:
        def first_pause(pause_s: float, rand: Rand) -> float:
            call()
            return pause_s

        monkeypatch.setattr(compute_once, "spread", first_pause)

    return arrange


@pytest.fixture
def other(server: Server, user: str, open_store: Callable[..., DataStore]) -> DataStore:
    """A second, blocking store of the user."""
    return open_store(server.url, user)


@pytest.mark.parametrize("value", [None, 0, "", False, [], {"a": [1, None]}], ids=repr)
def test_any_computed_value_is_a_hit(store: Side, value: Any) -> None:
    calls = []
    for _ in range(3):
        assert store.get_or_set("key", lambda: calls.append(1) or value) == value
    assert len(calls) == 1
    assert store.get("key", "absent") == value
    assert store.info("key").created_by == "tester"


def test_every_caller_gets_the_json_value(store: Side) -> None:
    kept = [1]
    assert store.get_or_set("key", lambda: (kept, {1: 2})) == [[1], {"1": 2}]
    kept.append(2)
    assert store.get_or_set("key", lambda: None) == [[1], {"1": 2}]


def test_failed_computation_is_not_stored(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    with pytest.raises(ZeroDivisionError):
        store.get_or_set("key", lambda: 1 / 0)
    with pytest.raises(InvalidValue) as caught:
        store.get_or_set("key", lambda: [{1}])
    assert caught.value.path == "value[0]"
    assert store.list_namespaces() == []
    assert store.get_or_set("key", lambda: "at last") == "at last"
    assert not raw.exists(keys.namespace("default").flight)


def test_bad_input(store: Side) -> None:
    def never() -> None:
        raise AssertionError("nothing is computed")

    calls: list[tuple[Callable[[], Any], type[Exception]]] = [
        (lambda: store.get_or_set("", never), InvalidName),
        (lambda: store.get_or_set("key", "value"), InvalidType),
        (lambda: store.get_or_set("key", None), InvalidType),
        (lambda: store.get_or_set("key", never, stale=1), InvalidInput),
        (lambda: store.get_or_set("key", never, lock_timeout=0), InvalidInput),
        (lambda: store.get_or_set("key", never, lock_timeout=None), InvalidType),
        (lambda: store.get_or_set("key", never, tags="tag"), InvalidType),
        (lambda: store.get_or_set("key", never, tags=[1]), InvalidType),
        (lambda: store.get_or_set("key", never, tags=[""]), InvalidName),
        (lambda: store.get_or_set("key", never, tags=["\ud800"]), InvalidName),
        (lambda: store.get_or_set("key", never, tags=["t" * 2000]), LimitExceeded),
        (lambda: store.invalidate_tag(1), InvalidType),
        (lambda: store.invalidate_tag(""), InvalidName),
    ]
    for call, error in calls:
        with pytest.raises(error):
            call()
    with pytest.raises(
        InvalidType, match=r"get_or_set takes a function .*, not a str: write `lambda: \.\.\.` around it"
    ):
        store.get_or_set("key", "value")
    with pytest.raises(InvalidType, match=r"update takes a function of the value, not an int: write `lambda value: "):
        store.update("key", 5)
    assert store.list_namespaces() == []


def test_recursive_computation_is_refused(other: DataStore, server: Server, user: str, side: str) -> None:
    if side != "async":
        with blocking(other, side) as same:
            with pytest.raises(InvalidInput, match="never end"):
                same.get_or_set("key", lambda: same.get_or_set("key", lambda: 1))
            assert same.get_or_set("key", lambda: same.get_or_set("another", lambda: 1)) == 1
        return

    async def main() -> None:
        async with connect_async(server.url, user=user) as store:

            async def own() -> Any:
                return await store.get_or_set("key", lambda: 1)

            with pytest.raises(InvalidInput, match="never end"):
                await store.get_or_set("key", own)

    asyncio.run(main())


def test_concurrent_callers_compute_once(
    store: Side, other: DataStore, when_somebody_waits: Callable[[Callable[[], None]], None]
) -> None:
    work = Work()
    with in_thread(lambda: other.get_or_set("key", work)) as first:
        work.begun.wait(20)
        when_somebody_waits(work.go_on.set)
        assert store.get_or_set("key", lambda: "mine") == "computed"
    assert first.result == "computed"
    assert work.calls == 1


def test_error_reaches_waiters(
    store: Side, other: DataStore, when_somebody_waits: Callable[[Callable[[], None]], None]
) -> None:
    work = Work(ValueError("no such thing: é\ud800"))
    with in_thread(lambda: other.get_or_set("key", work)) as first:
        work.begun.wait(20)
        when_somebody_waits(work.go_on.set)
        with pytest.raises(ComputeFailed, match="ValueError") as caught:
            store.get_or_set("key", lambda: "mine")
    assert isinstance(first.error, ValueError)
    assert (caught.value.key, caught.value.error_type) == ("key", "ValueError")
    assert caught.value.error_message == "no such thing: é\\ud800"
    assert store.get("key", "absent") == "absent"
    assert store.get_or_set("key", lambda: "mine") == "mine", "who comes later computes"


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("this class is broken")


def test_error_without_text_ends_the_computation(store: Side) -> None:
    def fails() -> None:
        raise NoText

    with pytest.raises(NoText):
        store.get_or_set("key", fails)
    assert store.get_or_set("key", lambda: "mine") == "mine"


def test_interrupt_lets_another_caller_compute(
    store: Side, other: DataStore, when_somebody_waits: Callable[[Callable[[], None]], None]
) -> None:
    work = Work(KeyboardInterrupt())
    with in_thread(lambda: other.get_or_set("key", work)) as first:
        work.begun.wait(20)
        when_somebody_waits(work.go_on.set)
        assert store.get_or_set("key", lambda: "mine") == "mine"
    assert isinstance(first.error, KeyboardInterrupt)


DELETES: dict[str, Callable[[Any], Any]] = {
    "delete": lambda store: store.delete("key"),
    "delete_many": lambda store: store.delete_many(["other", "key"]),
    "clear": lambda store: store.clear(),
    "pop": lambda store: store.pop("key", None),
    "rename": lambda store: store.set("other", 1) or (store.rename("other", "key") and store.delete("key")),
    "invalidate_tag": lambda store: store.use_namespace("elsewhere").invalidate_tag("tag"),
}


@pytest.mark.parametrize("name", DELETES)
def test_key_deleted_during_computation_stays_deleted(store: Side, other: DataStore, name: str) -> None:
    work = Work()
    with in_thread(lambda: other.get_or_set("key", work, tags=["tag"])) as first:
        work.begun.wait(20)
        DELETES[name](store)
        work.go_on.set()
    assert first.result == "computed", "who asked before the delete gets what he computed"
    assert store.get("key", "absent") == "absent"
    assert store.list_keys() == []


def test_write_during_computation_stays(store: Side, other: DataStore) -> None:
    work = Work()
    with in_thread(lambda: other.get_or_set("key", work)) as first:
        work.begun.wait(20)
        store.set("key", "newer")
        work.go_on.set()
    assert first.result == "newer"
    assert store.get("key") == "newer"


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_stale_value_is_served_during_refresh(store: Side, other: DataStore) -> None:
    options = {"ttl": 0.03, "stale": 1000}
    assert store.get_or_set("key", lambda: "old", **options) == "old"
    work = Work("new")
    with in_thread(lambda: wait_until(lambda: other.get_or_set("key", work, **options) == "new", "refreshed")):
        work.begun.wait(20)
        for _ in range(5):
            assert store.get_or_set("key", lambda: "mine", **options) == "old"
        work.go_on.set()
    assert work.calls >= 1
    assert store.get("key") == "new"


class Refresh:
    """A refresh by `other` of a value that has just become stale."""

    def __init__(self, store: Side, other: DataStore, begin: Any, stale: float = 1000) -> None:
        self.work, self._other = Work("refreshed"), other
        other.get_or_set("key", lambda: begin, ttl=0.02, stale=stale)
        wait_until(lambda: self._is_stale(stale), "the value is stale")

    def _is_stale(self, stale: float) -> bool:
        info = self._other.info("key")
        assert info is not None
        assert info.expires_at is not None
        return (info.expires_at - datetime.now(UTC)).total_seconds() < stale - 0.01

    def __call__(self, stale: float) -> Any:
        return self._other.get_or_set("key", self.work, ttl=1000, stale=stale)


CHANGES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "increment": (1, lambda store: store.increment("key")),
    "increment of a float": (1.5, lambda store: store.increment("key", 2)),
    "append": ([1], lambda store: store.append("key", 2)),
    "append with a bound": ([1], lambda store: store.append("key", 2, max_items=5)),
    "update": ({"stock": 5}, lambda store: store.update("key", lambda value: {**value, "stock": 0})),
    "update to the same": ({"stock": 5}, lambda store: store.update("key", lambda value: {**value})),
    "set": ("old", lambda store: store.set("key", "set")),
    "set_many": ("old", lambda store: store.set_many({"key": "set", "other": 1})),
    "transaction": ("old", lambda store: store.transact(lambda draft: draft.set("key", "set"))),
    "rename": ("old", lambda store: store.set("other", "moved") or store.rename("other", "key")),
    "persist": ("old", lambda store: store.persist("key")),
    "expire": ("old", lambda store: store.expire("key", 500)),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_refresh_undoes_no_change_made_meanwhile(store: Side, other: DataStore, keys: UserKeys, name: str) -> None:
    begin, change = CHANGES[name]
    refresh = Refresh(store, other, begin)
    with in_thread(lambda: refresh(stale=1000)) as call:
        refresh.work.begun.wait(20)
        change(store)
        changed, expires = store.get("key"), other.info("key").expires_at  # type: ignore[union-attr]
        refresh.work.go_on.set()
    assert call.result == changed, "what is newer is returned"
    assert store.get("key") == changed
    assert other.info("key").expires_at == expires  # type: ignore[union-attr]


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_refresh_undoes_no_external_write(store: Side, other: DataStore, raw: redis.Redis, keys: UserKeys) -> None:
    refresh = Refresh(store, other, 1)
    with in_thread(lambda: refresh(stale=1000)):
        refresh.work.begun.wait(20)
        raw.hincrby(keys.namespace("default").data.decode(), "key", 100)  # keeps the expiry, and knows of no info
        refresh.work.go_on.set()
    assert store.get("key") == 101


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_refresh_that_outlasts_the_stale_value_is_stored(store: Side, other: DataStore) -> None:
    refresh = Refresh(store, other, "old", stale=0.2)
    with in_thread(lambda: refresh(stale=0.2)) as call:
        refresh.work.begun.wait(20)
        wait_until(lambda: store.get("key") is None, "the stale value has expired")
        refresh.work.go_on.set()
    assert call.result == "refreshed"
    assert store.get("key") == "refreshed"


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_failed_refresh_leaves_stale_value(store: Side) -> None:
    store.get_or_set("key", lambda: "old", ttl=0.01, stale=1000)

    def refreshed() -> bool:
        try:
            return store.get_or_set("key", lambda: 1 / 0, ttl=0.01, stale=1000) != "old"
        except ZeroDivisionError:
            return True

    wait_until(refreshed, "the value is stale, and the refresh has failed")
    assert store.get("key") == "old"


def test_tags_reach_every_namespace_of_the_user(
    store: Side, server: Server, raw: redis.Redis, keys: UserKeys, open_store: Callable[..., DataStore]
) -> None:
    there = store.use_namespace("a:b é")
    store.get_or_set("one", lambda: 1, tags=["repo:x", "y"])
    there.get_or_set("two:é", lambda: 2, tags=["repo:x", "repo:x"])
    store.get_or_set("three", lambda: 3, tags=["y"])
    store.set("untagged", 4)
    stranger = open_store(server.url, "somebody else")
    stranger.get_or_set("one", lambda: 1, tags=["repo:x"])
    assert store.invalidate_tag("repo:x") == 2
    assert store.invalidate_tag("repo:x") == 0
    assert store.get_all() == {"three": 3, "untagged": 4}
    assert there.list_keys() == []
    assert store.list_namespaces() == ["default"]
    assert stranger.get("one") == 1
    stranger.clear()
    assert not raw.exists(keys.tag(b"repo:x"))


LIVE_ON: dict[str, Callable[[Any], Any]] = {
    "persist": lambda store: store.persist("key"),
    "expire": lambda store: store.expire("key", 60),
    "set": lambda store: store.set("key", "new"),
    "set with a ttl": lambda store: store.set("key", "new", ttl=60),
    "set with metadata": lambda store: store.set("key", "new", metadata={"tags": [',"tags":["x"]']}, ttl=60),
    "set of a default ttl": lambda store: store.use_namespace("default", ttl=60).set("key", "new"),
    "set_many": lambda store: store.set_many({"key": "new", "other": 1}),
    "set_many with a ttl": lambda store: store.set_many({"key": "new", "other": 1}, ttl=60),
    "set_many with metadata": lambda store: store.set_many({"key": "new", "other": 1}, metadata={"m": 1}),
    "set_many of big values": lambda store: store.set_many({"key": "x" * 5000, "other": "y" * 5000}),
    "compare_and_set": lambda store: store.compare_and_set("key", "old", "new"),
    "transaction": lambda store: store.transact(lambda draft: draft.set("key", "new", ttl=60)),
    "rename": lambda store: store.expire("key", 60) and store.rename("key", "moved"),
    "rename of a rename": lambda store: (
        store.rename("key", "x") and store.rename("x", "moved") and store.persist("moved")
    ),
    "update, then persist": lambda store: store.update("key", lambda value: value + "er") and store.persist("key"),
    "set, then increment": lambda store: store.set("key", 1) or store.increment("key"),
    "set, then append": lambda store: store.set("key", [1]) or store.append("key", 2),
    "refresh": lambda store: store.get_or_set("key", lambda: "new", ttl=60, stale=1000, tags=ODD_TAGS),
}
ODD_TAGS = ["repo:x", 'a"b]c\\d é,"metadata":{}', "}", "]"]


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
@pytest.mark.parametrize("name", LIVE_ON)
def test_tag_reaches_a_value_that_lives_longer_than_at_first(
    store: Side, other: DataStore, raw: redis.Redis, keys: UserKeys, name: str
) -> None:
    first: dict[str, Any] = {"ttl": 0.02, "stale": 1000} if name == "refresh" else {"ttl": 30}
    other.get_or_set("key", lambda: "old", **first, tags=ODD_TAGS)
    if name == "refresh":
        wait_until(lambda: LIVE_ON[name](store) == "new", "the value was stale")
    else:
        LIVE_ON[name](store)
    key = "moved" if name.startswith("rename") else "key"
    info = other.info(key)
    assert info is not None
    expires_ms = float("inf") if info.expires_at is None else info.expires_at.timestamp() * 1000
    for tag in ODD_TAGS:
        members = dict(raw.zrange(keys.tag(tag.encode()), 0, -1, withscores=True))
        assert list(members) == [f"7:default:{key}".encode()]
        assert members[f"7:default:{key}".encode()] >= expires_ms - 1
    assert store.invalidate_tag(ODD_TAGS[len(name) % 4]) == 1
    assert key not in other.list_keys()


@pytest.mark.parametrize("server", ["redis8", "valkey9"], indirect=True)
def test_value_outlives_its_first_ttl_with_its_tags(store: Side, other: DataStore) -> None:
    for number, ttl in enumerate((None, 1000)):
        store.get_or_set(f"k{number}", lambda: "old", ttl=1, lock_timeout=0.5, tags=["tag"])
        store.set(f"k{number}", "new", ttl=ttl)
    store.get_or_set("bounded", lambda: "old", ttl=1, lock_timeout=0.5, tags=["tag"])
    other.use_namespace("default", max_keys=500).set("bounded", "new")
    store.get_or_set("first", lambda: 1, ttl=1, lock_timeout=0.5, tags=["other tag"])
    wait_until(lambda: "first" not in other, "the first ttl is over")
    assert store.invalidate_tag("tag") == 3


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_recomputed_value_has_the_tags_that_it_was_given_last(
    store: Side, other: DataStore, raw: redis.Redis, keys: UserKeys
) -> None:
    other.get_or_set("key", lambda: "old", ttl=0.02, stale=1000, tags=["one", "both"])
    wait_until(
        lambda: store.get_or_set("key", lambda: "new", ttl=30, stale=1000, tags=["both", "two"]) == "new", "stale"
    )
    assert json.loads(raw.hget(keys.namespace("default").info, "key") or "")["tags"] == {
        keys.tag(b"both").decode(): 1,
        keys.tag(b"two").decode(): 1,
    }
    store.delete("key")
    store.set("key", "of its own")
    assert "tags" not in json.loads(raw.hget(keys.namespace("default").info, "key") or "")


def test_tag_replaced_by_hand_is_no_obstacle(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    store.get_or_set("key", lambda: 1, tags=["tag"])
    raw.set(keys.tag(b"tag"), "by hand")
    store.set("key", 2)
    store.increment("key")
    store.set_many({"key": 4, "other": 5})
    assert store.get_many(["key", "other"]) == {"key": 4, "other": 5}


@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
def test_tag_of_thousands_of_keys(store: Side) -> None:
    for number in range(2100):
        store.get_or_set(f"k{number}", lambda: 1, tags=["tag"])
    assert store.invalidate_tag("tag") == 2100
    assert store.list_keys() == []


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_tag_does_not_outlive_its_keys(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    tag = keys.tag(b"tag")
    store.get_or_set("short", lambda: 1, ttl=0.02, tags=["tag"], lock_timeout=0.02)
    wait_until(lambda: not raw.exists(tag), "the tag has gone with its last value")
    store.get_or_set("short", lambda: 1, ttl=0.02, tags=["tag"], lock_timeout=0.02)
    wait_until(lambda: store.get("short", "gone") == "gone", "the value has expired")
    store.get_or_set("long", lambda: 1, ttl=1000, tags=["tag"])
    assert raw.zrange(tag, 0, -1) == [b"7:default:long"]
    store.get_or_set("ever", lambda: 1, tags=["tag"])
    store.get_or_set("long too", lambda: 1, ttl=1000, tags=["tag"])
    assert raw.ttl(tag) == -1
    assert store.invalidate_tag("tag") == 3


@pytest.mark.parametrize("server", ["redis8"], indirect=True)
def test_old_failures_are_removed(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    """The hash of computations does not grow with keys that are never requested again."""
    flight = keys.namespace("default").flight
    raw.hset(flight, mapping={f"e{number}": "1000 {}" for number in range(500)})
    raw.hset(flight, mapping={f"c{number}": "1000 - token" for number in range(500)})
    for number in range(1500):
        store.get_or_set(f"key-{number}", lambda: 1)
    assert raw.hlen(flight) < 100


def test_a_wrong_type_is_named(store: Side, raw: redis.Redis, keys: UserKeys, server: Server, user: str) -> None:
    flight = keys.namespace("default").flight
    raw.set(flight, "text")
    store.set("key", 1)
    for call in (lambda: store.get_or_set("new", lambda: 1), lambda: store.delete("key"), lambda: store.pop("key")):
        with pytest.raises(WrongKeyType) as caught:
            call()
        assert caught.value.redis_key == flight.decode()
    assert store.get("key") == 1
    raw.delete(flight)
    raw.set(keys.tag(b"tag"), "text")
    with pytest.raises(WrongKeyType) as caught:
        store.get_or_set("new", lambda: 1, tags=["tag"])
    assert caught.value.redis_key == keys.tag(b"tag").decode()
    with connect(server.url, user=user) as blocking, pytest.raises(WrongKeyType):
        blocking.invalidate_tag("tag")
