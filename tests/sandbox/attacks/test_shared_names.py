"""Attacks on what the agents and the host of a user share by name: locks, semaphores, rate limits, tags and consumers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from redis_store import DataStore, LockTimeout, connect
from redis_store.namespace.keys import UserKeys
from sandbox import Permissions
from tests.support.steps import Steps

from .corpus import NO_CONTROL_NEEDED, Attack

OWN = Permissions(namespaces=["scratch"], read=["jobs"])
SHARED = Permissions(
    namespaces=["scratch"], locks=["gpu", "deploy"], limits=["llm"], tags=["repo:{repo}"], consumers=["mine:*"]
)

EVERY_NAME = Attack(
    "every name of the host's, and names made up to reach one",
    """
    token = "token-of-mine"
    made_up = ["own:agent:rate:llm", "own:host", "../rate:llm", "rate:llm", "lock:deploy", "llm\\0", "%6Clm", f"user:{world['user']}:rate:llm"]
    for name in ["deploy", "gpu", "llm", "repo:x", *made_up]:
        for call in (
            ("take_moment", name, 1, 0.001, 0), ("take_moment", name, 1, 86_400, None), ("acquire_lock", name, token, 80_000, 1),
            ("release_lock", name, "0123456789"), ("acquire_place", name, token, 1000, 80_000, 1), ("release_place", name, token, 1),
        ):
            try:
                data_store._operations.send(*call)
            except Exception as error:
                assert type(error).__name__ == "InvalidInput" and call[0] == "take_moment", error
        data_store.use_namespace("scratch").get_or_set("key", lambda: 1, tags=[name])
        won = won or data_store.invalidate_tag(name) != 1
    with data_store.use_namespace("jobs").watch(consumer="indexer", initial=True) as watch:
        while watch.next_change(timeout=0) is not None:
            pass
    """,
    NO_CONTROL_NEEDED,
)

OTHER_TERMS = Attack(
    "other terms for limits that are shared, and names that are not",
    """
    token = "token-of-mine"
    for error_type, *calls in (
        (
            "InvalidInput",
            ("take_moment", "llm", 2, 0.001, 0), ("take_moment", "llm", 1, 60, 0), ("take_moment", "llm", 1_000_000, 60, None),
            ("take_moment", "llm", 2, 3e9, None), ("take_moment", "llm", 2, 86_401, None),
            ("acquire_place", "gpu", token, 3, 30, 0), ("acquire_place", "gpu", token, 1_000_000, 30, 1),
            ("acquire_place", "gpu", token, 2, 3e9, 0), ("acquire_lock", "deploy", token, 86_401, 1),
        ),
        (
            "AccessDenied",
            ("take_moment", "gpu", 2, 60, 0), ("take_moment", "LLM", 2, 60, 0), ("acquire_lock", "llm", token, 30, 0),
            ("release_lock", "other", token), ("acquire_place", "gpu2", token, 2, 30, 0), ("invalidate_tag", "repo:y", 1, "*"),
            ("claim_value", "key", token, None, None, 30, 0, "repo:y"),
        ),
    ):
        for call in calls:
            try:
                data_store.use_namespace("scratch")._operations.send(*call)
                won = True
            except Exception as error:
                assert type(error).__name__ == error_type, (call, error)
    for _ in range(500):
        data_store._operations.send("take_moment", "llm", 2, 60, None)
    try:
        data_store.use_namespace("scratch").watch(consumer="indexer").next_change(timeout=0)
        won = True
    except Exception as error:
        assert type(error).__name__ == "AccessDenied" and "'mine:*'" in str(error), error
    """,
    NO_CONTROL_NEEDED,
)

INVALIDATION = Attack(
    "an entry under a tag of all, to spoil its invalidation",
    """
    made = data_store.use_namespace("scratch")
    made.get_or_set("key", lambda: 1, tags=["repo:x"])
    won = data_store.invalidate_tag("repo:x") != 1
    made.get_or_set("key", lambda: 1, tags=["repo:x"])
    """,
    NO_CONTROL_NEEDED,
)


@pytest.fixture
def shared(store: DataStore, user: str) -> Callable[[], dict[bytes, bytes]]:
    """The host's limits, locks, tags and consumer; returns their Redis keys with what these hold."""
    prefix = UserKeys.of(user).prefix
    kinds = (b"lock:[^c]", b"limit:", b"rate:", b"tag:", b"consumer:", b"queue:", b"tries:", b"fence")
    with connect(store.url, user=user) as host, host.use_namespace("jobs").watch(consumer="indexer") as watch:
        for name in ("llm", "repo:x"):
            store.use_namespace("jobs").get_or_set(name, lambda: 1, tags=[name])
            assert watch.next_change(timeout=10) is not None
        assert watch.next_change(timeout=0.01) is None

    def held() -> dict[bytes, bytes]:
        with redis.Redis.from_url(store.url) as raw:
            names = [name for kind in kinds for name in raw.scan_iter(prefix + kind + b"*", 1000)]
            return {name: raw.dump(name) or b"" for name in names}

    assert store.rate_limit("llm", 2, per=60).try_acquire()
    # As steps: nothing is to be renewed, and no thread of the host remains.
    hold = Steps(store)
    hold.acquire_place("gpu", "token-of-the-host", 2, 1000)
    hold.acquire_lock("deploy", "token-of-the-host", 1000)
    return held


def test_names_of_a_restricted_agent_are_its_own(strike: Any, store: DataStore, shared: Any) -> None:
    before = shared()
    assert len(before) == 7
    assert strike(EVERY_NAME, OWN).check() == {"won": False}
    assert shared() == before
    assert store.invalidate_tag("llm") == 1


def test_terms_of_shared_limits_stay(strike: Any, store: DataStore, shared: Any, user: str) -> None:
    before, rate = shared(), UserKeys.of(user).rate(b"llm")
    assert strike(OTHER_TERMS, SHARED).check() == {"won": False}
    after = shared()
    assert after.pop(rate) != before.pop(rate)
    assert after == before
    with pytest.raises(LockTimeout) as caught:
        store.rate_limit("llm", 2, per=60, timeout=1).acquire()
    assert caught.value.retry_after_ms is not None
    assert caught.value.retry_after_ms <= 120_000, "an agent takes no turn further ahead than one period"


def test_tag_of_all_is_invalidated_as_far_as_allowed(strike: Any, store: DataStore, shared: Any) -> None:
    jobs = store.use_namespace("jobs")
    assert strike(INVALIDATION, SHARED).check() == {"won": False}
    assert jobs.restricted(write=["jobs"]).invalidate_tag("repo:x") == 1
    assert (jobs.list_keys(), store.use_namespace("scratch").list_keys()) == (["llm"], ["key"])
