"""The flow that waits for a lock or a slot, step by step and without a server."""

from __future__ import annotations

from typing import Any

import pytest

from redis_store.errors import ConnectionLost, StoreTimeout, StoreUnavailable
from redis_store.flows.flow import Do, Flow, Keep, Keeping, Now, Pause, Step
from redis_store.flows.hold import Busy, HoldAnswer, give_back, hold


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
    flow = hold(FifthInLine(), "token", None, False, lambda: 0.5)
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


def test_uncertain_grant_is_released_in_background() -> None:
    lock = Lost()
    flow = hold(lock, "token", 1.0, True, lambda: 0.5)
    left = _throw_at_acquire(flow, StoreTimeout("silent", outcome_unknown=True))
    _is_tried_beside(flow, left, lock, StoreTimeout)
    assert lock.released == 1


@pytest.mark.parametrize("again", [ConnectionLost("cut again", outcome_unknown=True), StoreUnavailable("BUSY")])
def test_broken_release_is_retried_at_once_then_in_background(again: StoreUnavailable) -> None:
    lock = Lost()
    flow = hold(lock, "token", 1.0, True, lambda: 0.5)
    step = _throw_at_acquire(flow, ConnectionLost("cut", outcome_unknown=True))
    assert isinstance(step, Do)
    step.op.close()
    left = flow.throw(again)
    _is_tried_beside(flow, left, lock, ConnectionLost)


def test_failed_release_is_retried_in_background() -> None:
    lock = Lost()
    flow = give_back(lock, "token", Keeping(lambda: lock.renew("token"), 30, 0))
    step = flow.send(None)
    assert isinstance(step, Do)
    step.op.close()
    left = flow.throw(StoreTimeout("silent", outcome_unknown=True))
    _is_tried_beside(flow, left, lock, StoreTimeout)


def _throw_at_acquire(flow: Flow[Any], error: Exception) -> Step:
    step = flow.send(None)
    while isinstance(step, Now):
        step = flow.send(0.0)
    assert isinstance(step, Do)
    step.op.close()
    return flow.throw(error)


def _is_tried_beside(flow: Flow[Any], step: Step, lock: Lost, expected: type[Exception]) -> None:
    while isinstance(step, Now):
        step = flow.send(0.0)
    assert isinstance(step, Keep)
    assert not step.tied
    assert step.ttl_s == 30, "until it lapses by itself"
    assert lock.released == 0
    with pytest.raises(StopIteration) as done:
        step.renew().send(None)
    assert done.value.value is False, "once it is done there is nothing to renew"
    assert lock.released == 1
    with pytest.raises(expected):
        flow.send(Keeping(step.renew, step.ttl_s, 0.0))
