"""The flow that waits for a lock or a slot, step by step and without a server."""

from __future__ import annotations

from typing import Any

import pytest

from redis_store.errors import ConnectionLost, StoreTimeout, StoreUnavailable
from redis_store.flows.flow import Do, Flow, Keeping, Now, Pause, Renew, Step, Undo, Undoing
from redis_store.flows.hold import Busy, HoldAnswer, give_back, hold
from redis_store.protocol.call import Op


class FifthInLine:
    """A lock whose holder keeps it."""

    name, what, redis_key, ttl_ms = "name", "lock", b"lock", 30_000

    async def acquire(self, token: str, wait: bool) -> HoldAnswer:
        return Busy(retry_ms=30_000, place=5)

    async def renew(self, token: str) -> bool:
        return False

    async def release(self, token: str) -> bool:
        return False


def test_waiter_backs_off_by_queue_position() -> None:
    flow = hold(FifthInLine(), "token", None, False, lambda: True, lambda: 0.5)
    pauses: list[float] = []
    step = flow.send(None)
    while len(pauses) < 15:
        if isinstance(step, Pause):
            pauses.append(step.seconds)
            step = flow.send(None)
        elif isinstance(step, Now):
            step = flow.send(0.0)
        else:
            assert isinstance(step, Do)
            with pytest.raises(StopIteration) as answer:
                step.op.send(None)
            step = flow.send(answer.value.value)
    flow.close()
    assert pauses[:3] == pytest.approx([0.002, 0.003, 0.0045])
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(0.06)


class Lost(FifthInLine):
    """A lock whose reply is lost; `released` counts its releases."""

    def __init__(self) -> None:
        self.released = 0

    async def release(self, token: str) -> bool:
        self.released += 1
        return True

    def undo(self) -> Op[bool]:
        return self.release("token")


def test_uncertain_grant_is_released_in_background() -> None:
    lock = Lost()
    flow = hold(lock, "token", 1.0, True, lambda: True, lambda: 0.5)
    left = _throw_at_acquire(flow, StoreTimeout("silent", outcome_unknown=True))
    _is_tried_beside(flow, left, lock, StoreTimeout)
    assert lock.released == 1


@pytest.mark.parametrize("again", [ConnectionLost("cut again", outcome_unknown=True), StoreUnavailable("BUSY")])
def test_broken_release_is_retried_at_once_then_in_background(again: StoreUnavailable) -> None:
    lock = Lost()
    flow = hold(lock, "token", 1.0, True, lambda: True, lambda: 0.5)
    step = _throw_at_acquire(flow, ConnectionLost("cut", outcome_unknown=True))
    assert isinstance(step, Do)
    step.op.close()
    left = flow.throw(again)
    _is_tried_beside(flow, left, lock, ConnectionLost)


def test_failed_release_is_retried_in_background() -> None:
    lock = Lost()
    flow = give_back(lock, "token", Keeping(Renew(lambda: lock.renew("token"), 30, 0)))
    step = flow.send(None)
    assert isinstance(step, Do)
    step.op.close()
    left = flow.throw(StoreTimeout("silent", outcome_unknown=True))
    _is_tried_beside(flow, left, lock, StoreTimeout)


def test_cancelled_release_is_sent_once_more() -> None:
    lock = Lost()
    flow = give_back(lock, "token", Keeping(Renew(lambda: lock.renew("token"), 30, 0)))
    step = flow.send(None)
    assert isinstance(step, Do)
    step.op.close()
    again = flow.throw(KeyboardInterrupt())
    assert isinstance(again, Do)
    again.op.close()
    with pytest.raises(KeyboardInterrupt):
        flow.send(True)


def test_release_cancelled_twice_goes_on_in_background() -> None:
    lock = Lost()
    flow = give_back(lock, "token", Keeping(Renew(lambda: lock.renew("token"), 30, 0)))
    step = flow.send(None)
    for _ in range(2):
        assert isinstance(step, Do)
        step.op.close()
        step = flow.throw(KeyboardInterrupt())
    _is_tried_beside(flow, step, lock, KeyboardInterrupt)


def test_undoing_is_repeated_until_something_was_released() -> None:
    undoing = Undoing(Undo(Lost().undo, 30, since=0.0))
    assert undoing.first_s == 0
    now, waits = 0.0, []
    while (again_at := undoing.tried(now, now, False)) is not None:
        waits.append(again_at - now)
        now = again_at
    assert waits[:3] == pytest.approx([0.05, 0.1, 0.2])
    assert now < 30, "then it has expired"
    assert len(waits) < 12
    assert undoing.tried(0.0, 0.0, True) is None


def test_undoing_is_retried_often_while_server_is_away() -> None:
    undoing = Undoing(Undo(Lost().undo, 30, since=0.0))
    now = 0.0
    while (again_at := undoing.tried(now, now, None)) is not None:
        assert again_at - now < 1.01
        now = again_at
    assert 28 < now < 30


def _throw_at_acquire(flow: Flow[Any], error: Exception) -> Step:
    step = flow.send(None)
    while isinstance(step, Now):
        step = flow.send(0.0)
    assert isinstance(step, Do)
    step.op.close()
    return flow.throw(error)


def _is_tried_beside(flow: Flow[Any], step: Step, lock: Lost, expected: type[BaseException]) -> None:
    while isinstance(step, Now):
        step = flow.send(0.0)
    assert isinstance(step, Undo)
    assert step.ttl_s == 30, "until it lapses by itself"
    assert lock.released == 0
    with pytest.raises(StopIteration):
        step.undo().send(None)
    assert lock.released == 1
    with pytest.raises(expected):
        flow.send(None)
