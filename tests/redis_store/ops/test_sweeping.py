"""What tags keep of values that are gone: about as much as of the living ones at most, however long values come and go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from redis_store import DataStore
from tests.support.servers import Server

ROUNDS = 400
ALIVE = 20


@pytest.fixture
def store(one_server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(one_server.url, user)


@pytest.fixture
def raw(one_server: Server, raw_of: Callable[..., redis.Redis]) -> redis.Redis:
    return raw_of(one_server)


def entries(raw: redis.Redis, user: str) -> int:
    """The number of entries of all tags of a user."""
    return sum(int(raw.zcard(key)) for key in raw.scan_iter(match=f"user:{user}:tag:*", count=1000))


def compute(cache: DataStore, key: str, number: int) -> None:
    """Compute a value with a tag that all carry, one that some carry, and one of its own."""
    cache.get_or_set(key, lambda: 1, tags=["all", f"some-{number // 50}", f"own-{number}"])


def _delete(cache: DataStore, number: int) -> None:
    compute(cache, f"{number}", number)
    cache.delete(f"{number - ALIVE}")


def _evict(cache: DataStore, number: int) -> None:
    compute(cache.use_namespace("bounded", max_keys=ALIVE), f"{number}", number)


def _clear(cache: DataStore, number: int) -> None:
    compute(cache, f"{number}", number)
    if number % ALIVE == 0:
        cache.clear()


def _rename(cache: DataStore, number: int) -> None:
    compute(cache, f"{number}", number)
    cache.rename(f"{number}", f"{number % ALIVE}-renamed")


def _other_tags(cache: DataStore, number: int) -> None:
    key = f"{number % ALIVE}"
    cache.get_or_set(key, lambda: 1, tags=[f"{number}-{n}" for n in range(3)])
    cache.delete(key)
    cache.get_or_set(key, lambda: 1, tags=[f"{number}-other-{n}" for n in range(3)])


@pytest.mark.parametrize("turn", [_delete, _evict, _clear, _rename, _other_tags])
def test_entries_of_values_that_are_gone_do_not_pile_up(
    store: DataStore, raw: redis.Redis, user: str, turn: Callable[[DataStore, int], None]
) -> None:
    for number in range(ROUNDS):
        turn(store, number)
    assert entries(raw, user) <= 8 * 3 * ALIVE, f"of {3 * ROUNDS} entries, those of {ALIVE} values and some"
    assert raw.zcard(f"user:{user}:tags") <= 8 * 3 * ALIVE


@pytest.mark.parametrize("tag", ["tag", "tag ü", 'tag "quoted" \\ {}', "a:tag:b"])
def test_entries_of_living_values_stay(store: DataStore, raw: redis.Redis, user: str, tag: str) -> None:
    store.get_or_set("kept", lambda: 1, tags=[tag])
    store.set("kept", 2)
    with_namespace = store.use_namespace("1:2:")
    with_namespace.get_or_set("kept: too", lambda: 1, tags=[tag])
    for number in range(100):
        store.get_or_set(f"{number}", lambda: 1, tags=["others"])
        store.delete(f"{number}")
    assert store.invalidate_tag(tag) == 2


def test_entries_of_values_being_computed_stay(store: DataStore) -> None:
    def compute_slowly() -> int:
        for number in range(20):
            store.get_or_set(f"{number}", lambda: 1, tags=["others"])
        store.invalidate_tag("tag")
        return 1

    store.get_or_set("slow", compute_slowly, tags=["tag"])
    assert "slow" not in store, "its tag was invalidated meanwhile"


def test_a_tag_of_another_type_does_not_stop_the_sweeping(store: DataStore, raw: redis.Redis, user: str) -> None:
    raw.zadd(f"user:{user}:tags", {f"user:{user}:tag:broken": 1})
    raw.set(f"user:{user}:tag:broken", "text")
    for number in range(100):
        store.get_or_set(f"{number}", lambda: 1, tags=["tag"])
        store.delete(f"{number}")
    assert raw.zcard(f"user:{user}:tag:tag") < 50
    assert raw.get(f"user:{user}:tag:broken") == b"text"
