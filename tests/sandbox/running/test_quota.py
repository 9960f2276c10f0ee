"""How often the server is asked for the size of an agent's namespaces."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from redis_store.errors import LimitExceeded
from sandbox.permissions import Granted
from sandbox.protocol.arguments import DELETE, SET
from sandbox.protocol.operations import OPERATIONS
from sandbox.running import quota as quotas
from sandbox.running.quota import FRESH_S, LONGEST_REST_S, Quota

STORE: Any = object()


class Server:
    """What the server would answer, when, and how long that takes; and the pauses that are made."""

    def __init__(self) -> None:
        self.now = 100.0
        self.stored = 0
        self.takes_s = 0.001
        self.asked = 0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def stored_bytes(self, store: Any, counts: Callable[[str], bool], most_bytes: int) -> int:
        assert store is STORE
        self.asked += 1
        self.now += self.takes_s
        return self.stored


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(quotas, "time", server)
    monkeypatch.setattr(quotas, "stored_bytes", server.stored_bytes)
    return server


def refused(quota: Quota, size: int) -> bool:
    try:
        quota.settle(quota.check(size, STORE))
    except LimitExceeded:
        return True
    return False


def test_refused_writes_ask_once_until_something_changes(server: Server) -> None:
    quota, server.stored = Quota(Granted(quota_bytes=1000)), 900
    assert all(refused(quota, 200) for _ in range(30))
    assert server.asked == 1
    server.stored = 0
    assert refused(quota, 200)
    quota.note_change(STORE)
    assert not refused(quota, 200)
    assert server.asked == 2


def test_writes_of_others_are_found_after_a_moment(server: Server) -> None:
    quota = Quota(Granted(quota_bytes=1000))
    assert not refused(quota, 100)
    server.stored = 1000
    assert not refused(quota, 100)
    server.now += FRESH_S
    assert refused(quota, 100)
    server.stored = 100
    server.now += FRESH_S
    assert not refused(quota, 100)
    assert server.asked == 3


def test_own_writes_that_replaced_something_do_not_count_twice(server: Server) -> None:
    quota = Quota(Granted(quota_bytes=1000))
    assert not refused(quota, 800)
    server.stored = 800
    assert refused(quota, 800)
    server.stored = 100  # the first write was deleted
    quota.note_change(STORE)
    assert not refused(quota, 800)


def test_writes_that_fit_do_not_make_refused_ones_ask_again(server: Server) -> None:
    quota, server.stored, server.takes_s = Quota(Granted(quota_bytes=1000)), 900, 0.5
    for _ in range(30):
        assert not refused(quota, 1)
        quota.note_change(STORE, deleted=False)
        assert refused(quota, 200)
    assert (server.asked, server.slept) == (1, [])
    server.stored = 100  # a big value was replaced by a small one
    server.now += LONGEST_REST_S
    assert not refused(quota, 200)
    assert server.asked == 2


def test_charges_that_were_too_high_do_not_use_up_the_quota(server: Server) -> None:
    quota = Quota(Granted(quota_bytes=1000))
    for _ in range(5):
        assert not refused(quota, 600)
        server.stored += 10


def test_runs_at_once_share_the_quota(server: Server) -> None:
    granted = Granted(quota_bytes=1000)
    one, other, of_another_user = (Quota(granted, "redis://here", user) for user in ("a", "a", "b"))
    under_way = one.check(800, STORE)
    assert refused(other, 800), "what a call under way stores is in no estimate"
    assert not refused(of_another_user, 800)
    server.stored = 800
    one.settle(under_way)
    assert not refused(other, 100)
    server.stored = 900
    assert refused(one, 200)
    server.stored = 0  # the host clears everything, and starts a run
    asked = server.asked
    assert not refused(Quota(granted, "redis://here", "a"), 900)
    assert server.asked == asked + 1


def test_deletes_are_noticed_while_another_run_asks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = Granted(quota_bytes=1000)
    one, other = (Quota(granted, "redis://here", "a") for _ in range(2))
    server.stored = 900
    assert refused(one, 200)
    one.note_change(STORE)
    asks, said = threading.Event(), []
    ask = server.stored_bytes

    def slow(*arguments: Any) -> int:
        asks.set()
        assert waits(thread)
        server.stored = 0
        return ask(*arguments)

    def waits(thread: threading.Thread) -> bool:
        thread.join(0.05)
        return thread.is_alive()

    def write() -> None:
        assert asks.wait(10)
        said.append(refused(other, 200))

    monkeypatch.setattr(quotas, "stored_bytes", slow)
    thread = threading.Thread(target=write)
    thread.start()
    assert not refused(one, 200)
    thread.join(10)
    assert said == [False]


def test_a_failed_question_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    quota, server.stored = Quota(Granted(quota_bytes=1000)), 900
    assert refused(quota, 200)
    quota.note_change(STORE)
    with monkeypatch.context() as patched:
        patched.setattr(quotas, "stored_bytes", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            refused(quota, 200)
    server.stored = 0
    assert not refused(quota, 200)


def test_expensive_questions_are_asked_seldom(server: Server) -> None:
    quota, server.stored, server.takes_s = Quota(Granted(quota_bytes=1000)), 900, 0.5
    begun = server.now
    for _ in range(5):
        assert refused(quota, 200)
        quota.note_change(STORE)
    assert server.asked == 5
    assert server.slept == [pytest.approx(LONGEST_REST_S)] * 4
    assert server.now - begun == pytest.approx(5 * 0.5 + 4 * LONGEST_REST_S)


def test_only_what_deletes_or_releases_is_waited_for() -> None:
    some = {name: [0] * len(row.fixed) for name, row in OPERATIONS.items()}
    deleting = {name for name, row in OPERATIONS.items() if row.frees and row.deletes(some[name], bounded=False)}
    releasing = {"release_lock", "release_place"}
    making_room = {
        "delete",
        "delete_if_version",
        "delete_many",
        "clear",
        "pop",
        "sequence_pop",
        "sequence_append_bounded",
    }
    assert deleting == making_room | {"invalidate_tag"} | releasing
    assert all(row.deletes(some[name], bounded=True) for name, row in OPERATIONS.items() if row.adds)
    transaction = OPERATIONS["commit_transaction"]
    assert not transaction.deletes([SET, "n", "k", b"1", None], bounded=False)
    assert transaction.deletes([SET, "n", "k", b"1", None, DELETE, "n", "other", None, None], bounded=False)
