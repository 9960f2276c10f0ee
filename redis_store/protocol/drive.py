"""Stepping a coroutine of ours to its end: an operation, a flow, or a watcher's method, for threads and for asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def drive(
    steps: Coroutine[Any, Any, T], carry_out: Callable[[Any], Any], thrown: type[BaseException] = BaseException
) -> T:
    """Step a coroutine to its end with `carry_out` for each step that it awaits, and return its result.

    Errors of the class `thrown` are thrown into it, and it is closed on any exit. `SyncDriver.run` has a copy of this loop, for
    speed.
    """
    try:
        step = steps.send(None)
        while True:
            try:
                step = steps.send(carry_out(step))
            except thrown as error:
                if _has_ended(steps):  # else a signal handler may have raised
                    raise
                close_op(step)
                step = steps.throw(error)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()


async def drive_async(
    steps: Coroutine[Any, Any, T],
    carry_out: Callable[[Any], Awaitable[Any]],
    thrown: type[BaseException] = BaseException,
) -> T:
    """Step a coroutine to its end as `drive` does, awaiting each `carry_out`."""
    try:
        step = steps.send(None)
        while True:
            try:
                answer = await carry_out(step)
            except thrown as error:
                close_op(step)
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()


def _has_ended(steps: Any) -> bool:
    """Whether a coroutine has ended; those that observe others are generators."""
    return getattr(steps, "cr_frame", None) is None and getattr(steps, "gi_frame", None) is None


def close_op(step: Any) -> None:
    """Close the operation of a step that was interrupted before it began: Python would warn of one that never ran."""
    if (op := getattr(step, "op", None)) is not None:
        op.close()
