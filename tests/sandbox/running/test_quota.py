"""How often the server is asked for the size of an agent's namespaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_store.errors import LimitExceeded
from sandbox.permissions import Granted
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
        quota.check(size, STORE)
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


def test_expensive_questions_are_asked_seldom(server: Server) -> None:
    quota, server.stored, server.takes_s = Quota(Granted(quota_bytes=1000)), 900, 0.5
    begun = server.now
    for _ in range(5):
        assert refused(quota, 200)
        quota.note_change(STORE)
    assert server.asked == 5
    assert server.slept == [pytest.approx(LONGEST_REST_S)] * 4
    assert server.now - begun == pytest.approx(5 * 0.5 + 4 * LONGEST_REST_S)
