"""Records of runs that are kept: their bounds, who sees them, and what goes with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from redis_store import Client, connect
from redis_store.admin import Admin, AsyncAdmin, KeptOperation, KeptRun, RunError
from redis_store.brokers import kept_runs
from redis_store.errors import CorruptValue, LimitExceeded, UnsupportedEncoding, WrongKeyType
from redis_store.ops.kept_runs import DROPPED_AT_ONCE
from redis_store.ops.run_record import MAX_RECORD_BYTES
from tests.redis_store.admin.conftest import HARD_USERS, Ended
from tests.support.servers import wait_until

BEGAN = datetime(2026, 11, 30, 12, tzinfo=UTC)
DAY_MS = 86_400_000

Keep = Callable[..., None]


def a_run(number: int, agent: str = "index", **facts: Any) -> KeptRun:
    began = BEGAN + timedelta(seconds=number)
    return KeptRun(f"run{number}", agent, began, 0.5, "full", "default", "{}", **{"output": "{}", **facts})


def an_operation(number: int, key: str = "k") -> KeptOperation:
    return KeptOperation(BEGAN, "index", "set", "default", f"{key}{number}", 1, None, 20, 0.1, None, "run1", '"x"')


@pytest.fixture
def keep(client: Client) -> Keep:
    def keep(run: KeptRun, runs: int = 500, size: int = 2**24, life_ms: int = DAY_MS, user: str = "alice") -> None:
        kept_runs.keep(client.store(user=user), run, runs, size, life_ms)

    return keep


def names(admin: Admin, user: str = "alice") -> list[str]:
    return [one.run for one in admin.list_runs(user)]


def test_a_record_comes_back_whole(admin: Admin, keep: Keep) -> None:
    record = a_run(
        1,
        output=None,
        error=RunError("AgentRaised", "Agent 'index' raised KeyError: 'x\x1b\u202e'", "Traceback"),
        stdout="ä\0",
        operations=(an_operation(1, key="\x1b<script>"),),
        nested=("deep1", "deep2"),
    )
    keep(record)
    keep(a_run(2, agent='a "b" \\ c'))
    assert admin.get_run("alice", "run1") == record
    assert [(one.run, one.agent, one.error, one.operations, one.nested) for one in admin.list_runs("alice")] == [
        ("run2", 'a "b" \\ c', None, 0, 0),
        ("run1", "index", "AgentRaised", 1, 2),
    ]


def test_a_nested_run_leads_to_the_record_of_its_run(admin: Admin, keep: Keep) -> None:
    keep(a_run(1))
    keep(a_run(2, nested=("deep", "deeper")))
    found = admin.get_run("alice", "deeper")
    assert found is not None
    assert found.run == "run2"
    assert admin.get_run("alice", "deep deeper") is None
    assert admin.get_run("alice", "none") is None


def test_the_oldest_go_above_the_number(admin: Admin, keep: Keep, raw: redis.Redis) -> None:
    for number in range(5):
        keep(a_run(number), runs=3)
    assert names(admin) == ["run4", "run3", "run2"]
    assert len(raw.keys("user:alice:run:*")) == 3


def test_the_bound_on_bytes_counts_the_memory(admin: Admin, keep: Keep, raw: redis.Redis) -> None:
    most = 256 * 1024
    for number in range(20):
        keep(a_run(number, stdout="x" * 40_000), size=most)
    kept = admin.list_runs("alice")
    assert [one.run for one in kept] == [f"run{number}" for number in range(19, 19 - len(kept), -1)]
    assert 4 <= len(kept) <= 6
    assert sum(one.bytes for one in kept) <= most
    taken = sum(raw.memory_usage(key) for key in raw.keys("user:alice:run*"))
    assert taken <= 1.5 * most


def test_an_agent_with_many_runs_pushes_out_its_own(admin: Admin, keep: Keep) -> None:
    keep(a_run(1, agent="other"), runs=10)
    for number in range(2, 40):
        keep(a_run(number, agent="busy"), runs=10)
    assert names(admin) == [f"run{number}" for number in range(39, 30, -1)] + ["run1"]


def test_lower_bounds_hold_from_the_next_write_on(admin: Admin, keep: Keep) -> None:
    for number in range(DROPPED_AT_ONCE + 20):
        keep(a_run(number))
    keep(a_run(1000), runs=1)
    assert names(admin) == ["run1000"]


def test_a_record_expires_and_leaves_the_index(admin: Admin, keep: Keep, raw: redis.Redis) -> None:
    keep(a_run(0))
    keep(a_run(1), life_ms=1)
    wait_until(lambda: admin.get_run("alice", "run1") is None, "the record has expired")
    keep(a_run(2))
    assert names(admin) == ["run2", "run0"]
    assert sorted(raw.hkeys("user:alice:runs")) == [b"run0", b"run2"]
    assert 0 < raw.pttl("user:alice:run:run2") <= DAY_MS
    assert raw.pttl("user:alice:runs") > DAY_MS // 2


def test_a_long_record_loses_calls_from_its_middle(admin: Admin, keep: Keep) -> None:
    keep(a_run(1, operations=tuple(an_operation(number, "k" * 1000) for number in range(2000))))
    found = admin.get_run("alice", "run1")
    assert found is not None
    left = len(found.operations)
    assert (left + found.operations_left_out, 500 <= left < 1000) == (2000, True)
    assert str(found.operations[0].key).endswith("k0")
    assert str(found.operations[-1].key).endswith("k1999")
    assert admin.list_runs("alice")[0].bytes <= MAX_RECORD_BYTES + 1024
    assert admin.list_runs("alice")[0].operations == 2000


def test_texts_of_any_length_fit_the_lowest_bound(admin: Admin, keep: Keep) -> None:
    error = RunError("AgentRaised", "\0" * 100_000, "\x1b" * 100_000)
    keep(a_run(1, stdout="\0" * 100_000, error=error, nested=tuple(map(str, range(1000)))), size=64 * 1024)
    found = admin.get_run("alice", "run1")
    assert found is not None
    assert found.stdout.endswith("…")
    assert admin.list_runs("alice")[0].bytes <= 64 * 1024


def test_a_record_is_dropped_and_that_is_noted(admin: Admin, keep: Keep, raw: redis.Redis) -> None:
    keep(a_run(1))
    keep(a_run(2))
    assert admin.drop_run("alice", "run1") is True
    assert admin.drop_run("alice", "run1") is False
    assert (names(admin), raw.keys("user:alice:run:*")) == (["run2"], [b"user:alice:run:run2"])
    assert [(one.what, one.user, one.key) for one in admin.iter_audit()] == [("runs drop", "alice", "run1")]


def test_no_user_sees_the_runs_of_another(admin: Admin, keep: Keep) -> None:
    for number, user in enumerate(HARD_USERS):
        keep(a_run(number), user=user)
    assert [names(admin, user) for user in HARD_USERS] == [[f"run{number}"] for number in range(len(HARD_USERS))]
    assert [one.user for one in admin.list_users()] == sorted(HARD_USERS)
    admin.delete_user("*")
    assert [names(admin, user) for user in HARD_USERS[:3]] == [[], ["run1"], ["run2"]]
    assert "*" not in {one.user for one in admin.list_users()}


def test_texts_by_hand_are_told_from_records(admin: Admin, keep: Keep, raw: redis.Redis) -> None:
    keep(a_run(1))
    raw.hset("user:alice:runs", "x", "by hand")
    raw.hset("user:alice:run:run1", "record", "no json")
    with pytest.raises(CorruptValue, match="run1"):
        admin.get_run("alice", "run1")
    raw.hset("user:alice:run:run1", "record", json.dumps({"format": 2}))
    with pytest.raises(UnsupportedEncoding, match="format 2"):
        admin.get_run("alice", "run1")
    assert names(admin) == ["run1"]
    raw.set("user:bob:runs", "text")
    with pytest.raises(WrongKeyType, match="user:bob:runs"):
        keep(a_run(1), user="bob")
    assert not raw.exists("user:bob:run:run1")
    with pytest.raises(LimitExceeded):
        admin.get_run("alice", "x" * 300)


def test_the_doctor_knows_the_records(admin: Admin, keep: Keep, raw: redis.Redis) -> None:
    for number in range(3):
        keep(a_run(number))
    assert [one for one in admin.doctor() if one.user] == []
    raw.persist("user:alice:run:run1")
    raw.hdel("user:alice:runs", "run2")
    raw.set("user:bob:runs", "text")
    found = {(one.user, one.check, one.mended) for one in admin.doctor(repair=True)}
    assert found >= {("alice", "runs", True), ("alice", "runs", False), ("bob", "type", False)}
    assert raw.pttl("user:alice:run:run1") > 0
    assert [one.what for one in admin.doctor() if one.check == "runs"] == [
        "The record of run 'run2' is not in the index."
    ]


def test_the_same_with_asyncio(admin: Admin, keep: Keep, url: str) -> None:
    keep(a_run(1, nested=("deep",)))

    async def main() -> None:
        async with AsyncAdmin(url) as other:
            assert await other.list_runs("alice") == admin.list_runs("alice")
            assert await other.get_run("alice", "deep") == admin.get_run("alice", "run1")
            assert await other.drop_run("alice", "run1") is True
            assert await other.list_runs("alice") == []

    asyncio.run(main())


def test_a_login_of_one_user_keeps_its_runs(admin: Admin, url: str, raw: redis.Redis) -> None:
    login = admin.create_login("alice")
    try:
        with connect(login.url, user="alice") as store:
            kept_runs.keep(store, a_run(1, nested=("deep",)), 1, 2**20, DAY_MS)
            kept_runs.keep(store, a_run(2, nested=("deep",)), 1, 2**20, DAY_MS)
            assert [one.run for one in kept_runs.list_runs(store)] == ["run2"]
            found = kept_runs.get_run(store, "deep")
            assert found is not None
            assert found.run == "run2"
    finally:
        admin.remove_login("alice")


def test_an_export_says_that_it_has_no_runs(keep: Keep, client: Client, run: Callable[..., Ended]) -> None:
    client.store(user="alice").set("k", 1)
    keep(a_run(1))
    assert run("export", "-u", "alice").out.count("\n") == 3
    assert "records of runs" in " ".join(run("export", "--help").out.split()).lower()
