"""The flow that waits for a lock or a place, step by step and without a server."""

from __future__ import annotations

import pytest

from redis_store._flow import Do, Now, Pause
from redis_store._holding import Answer, Busy, hold


class FifthInLine:
    """A lock that stays another's."""

    name, what, redis_key, ttl_ms = "name", "lock", b"lock", 30_000

    async def acquire(self, token: str, wait: bool) -> Answer:
        return Busy(retry_ms=30_000, place=5)

    async def renew(self, token: str) -> bool:
        return False

    async def release(self, token: str) -> bool:
        return False


def test_who_waits_looks_soon_and_then_less_often_as_far_behind_as_he_stands() -> None:
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
