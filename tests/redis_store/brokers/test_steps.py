"""The steps of flows that brokers carry out: plain data in and out, values as JSON text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_store import MISSING, DataStore, InvalidInput
from tests.support.servers import KINDS_WITH_TTL, Server, wait_until
from tests.support.steps import Steps

MINE, YOURS = "token-of-mine", "token-of-yours"


@pytest.fixture
def store(server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(server.url, user)


@pytest.fixture
def steps(store: DataStore) -> Steps:
    return Steps(store.as_json_text())


def test_a_value_is_computed_between_a_claim_and_a_commit(store: DataStore, steps: Steps) -> None:
    assert steps.claim_value("key", MINE, tags=["tag"]).state == "claimed"
    busy = steps.claim_value("key", YOURS)
    assert busy.state == "busy"
    assert busy.since_ms > 0
    assert steps.renew_value("key", MINE, tags=["tag"]) is True
    assert steps.renew_value("key", YOURS) is False
    assert steps.commit_value("key", YOURS, b"1") is False
    assert steps.commit_value("key", MINE, b'{"a": 1}', tags=["tag"]) is True
    assert steps.claim_value("key", YOURS).value == b'{"a": 1}'
    assert store.get("key") == {"a": 1}
    assert store.invalidate_tag("tag") == 1


def test_claim_expires_beside_a_longer_one(steps: Steps) -> None:
    """The hash that contains the claims lives as long as the longest of them."""
    assert steps.claim_value("other", "token-number-1", lock_timeout=1000).state == "claimed"
    assert steps.claim_value("key", "token-number-2", lock_timeout=0.05).state == "claimed"
    wait_until(lambda: steps.claim_value("key", "token-number-3").state == "claimed", "another takes over")
    assert steps.claim_value("other", "token-number-4").state == "busy"


def test_error_reaches_waiters(steps: Steps) -> None:
    steps.claim_value("key", MINE)
    since_ms = steps.claim_value("key", YOURS).since_ms
    assert steps.fail_value("key", YOURS, "ValueError", "no") is False
    assert steps.fail_value("key", MINE, "ValueError", "no") is True
    failed = steps.claim_value("key", YOURS, since_ms=since_ms)
    assert (failed.state, failed.error_type, failed.error_message) == ("error", "ValueError", "no")
    assert steps.claim_value("key", YOURS).state == "claimed"
    assert steps.fail_value("key", YOURS) is True
    assert steps.claim_value("key", MINE, since_ms=since_ms + 10**9).state == "claimed"


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_a_ttl_of_a_computed_value(store: DataStore, steps: Steps) -> None:
    assert steps.claim_value("key", MINE, ttl=1000, stale=500).state == "claimed"
    assert steps.commit_value("key", MINE, b"1", ttl=1000, stale=500) is True
    info = store.info("key")
    assert info is not None
    assert info.expires_at is not None
    assert info.created_at is not None
    assert (info.expires_at - info.created_at).total_seconds() == pytest.approx(1500, abs=0.002)


def test_an_update_is_a_read_and_a_replace(store: DataStore, steps: Steps) -> None:
    assert steps.replace("key", MISSING, b"1") == (True, b"1")
    assert steps.replace("key", MISSING, b"2") == (False, b"1")
    assert steps.replace("key", b"1", b"2") == (True, b"2")
    assert steps.replace("key", b"1", b"3") == (False, b"2")
    store.delete("key")
    assert steps.replace("key", b"2", b"3") == (False, MISSING)


def test_locks_and_slots(store: DataStore, steps: Steps) -> None:
    first = steps.acquire_lock("name", MINE)
    assert first.acquired
    other = steps.acquire_lock("name", YOURS)
    assert (other.acquired, other.place) == (False, 0)
    assert other.retry_ms > 0
    assert steps.renew_lock("name", YOURS) is False
    assert steps.renew_lock("name", MINE) is True
    assert steps.release_lock("name", MINE) is True
    assert steps.acquire_lock("name", "token-of-a-third", wait=False).acquired is False, "it is kept for who waits"
    second = steps.acquire_lock("name", YOURS)
    assert second.acquired
    assert second.fence > first.fence
    assert steps.release_lock("name", MINE) is False
    assert steps.release_lock("name", YOURS) is True
    assert steps.acquire_place("places", MINE, 1).acquired
    assert not steps.acquire_place("places", YOURS, 1, wait=False).acquired
    assert steps.renew_place("places", MINE, 1)
    assert steps.release_place("places", MINE, 1)
    assert steps.take_moment("rate", 1, 1000) == (True, 0)
    taken, wait_ms = steps.take_moment("rate", 1, 1000, timeout=0)
    assert not taken
    assert 900_000 < wait_ms <= 1_000_000


def test_a_transaction_in_one_step(store: DataStore, steps: Steps) -> None:
    store.set("read", 1)
    reads: list[Any] = [("default", "read", b"1"), ("other", "absent", MISSING)]
    assert steps.commit_transaction(reads, [("other", "new", b"[1]", None)], [("default", "read")]) is None
    assert store.get_all() == {}
    assert store.use_namespace("other").get_all() == {"new": [1]}
    assert steps.commit_transaction(reads, [("other", "new", b"[2]", None)], []) == ("default", "read")
    assert store.use_namespace("other").get("new") == [1]
    assert steps.commit_transaction([], [], []) is None


@pytest.mark.parametrize(
    "token", ["", "short", "a token of words", 'x","owner":"y12', "x" * 65, "tokenés123", 12345678, None]
)
def test_a_token_is_checked(steps: Steps, token: Any) -> None:
    for call in (
        lambda: steps.claim_value("key", token),
        lambda: steps.renew_value("key", token),
        lambda: steps.commit_value("key", token, b"1"),
        lambda: steps.fail_value("key", token),
        lambda: steps.acquire_lock("name", token),
        lambda: steps.renew_lock("name", token),
        lambda: steps.release_lock("name", token),
        lambda: steps.acquire_place("name", token, 1),
        lambda: steps.renew_place("name", token, 1),
        lambda: steps.release_place("name", token, 1),
    ):
        with pytest.raises(InvalidInput, match="token"):
            call()
