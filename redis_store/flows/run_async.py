"""The asyncio runner of flows. Each holding is renewed by a task of its own."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from redis_store.errors import DataStoreError, StoreClosed
from redis_store.flows.clock import clock
from redis_store.flows.flow import Ask, Do, Flow, Keeping, Look, Now, Pause, Renew, Repeated, Step, Undo, Undoing
from redis_store.protocol.drive import drive_async

if TYPE_CHECKING:
    from redis_store.namespace.scope import Scope
    from redis_store.protocol.call import Op
    from redis_store.protocol.read import Read

T = TypeVar("T")


class AsyncFlowDriver(Protocol):
    """What the runner needs of an asyncio driver."""

    async def run(self, op: Op[T]) -> T: ...
    async def read(self, read: Read[T], scope: Scope, wanted: Any, default: Any) -> T: ...
    def pauses(self) -> AsyncFlowPauses: ...


class AsyncFlowPauses(Protocol):
    """The pauses of one flow."""

    async def pause(self, step: Pause) -> None: ...
    def close(self) -> None: ...


async def run_flow(driver: AsyncFlowDriver, flow: Flow[T]) -> T:
    """Run a flow and return its result."""
    pauses: AsyncFlowPauses | None = None

    async def carry_out_all(step: Step) -> Any:
        nonlocal pauses
        if isinstance(step, Pause):
            pauses = pauses or driver.pauses()
            return await pauses.pause(step)
        return await carry_out(driver, step)

    try:
        return await drive_async(flow, carry_out_all)
    finally:
        if pauses is not None:
            pauses.close()


async def carry_out(driver: AsyncFlowDriver, step: Step) -> Any:
    """Carry out a step other than a pause, and return its result."""
    if type(step) is Do:
        return await driver.run(step.op)
    if isinstance(step, Now):
        return clock()
    if isinstance(step, Renew):
        keeping = Keeping(step)
        _repeat_in_task(driver, keeping, tied=step.tied)
        return keeping
    if isinstance(step, Undo):
        _repeat_in_task(driver, Undoing(step), tied=False)
        return None
    if isinstance(step, Look):
        return await driver.read(*step)
    assert isinstance(step, Ask), step
    result = step.function(*step.arguments)
    return await result if inspect.isawaitable(result) else result


_background: set[asyncio.Task[None]] = set()
"""The tasks that repeat something. An event loop refers to its tasks only weakly."""


def _repeat_in_task(driver: AsyncFlowDriver, repeated: Repeated, *, tied: bool) -> None:
    """Repeat an operation in a task of its own; if tied, only until the task that started it is done."""
    holder = asyncio.current_task() if tied else None
    task = asyncio.create_task(_repeat(driver, repeated, holder), name="redis-store-keeper")
    _background.add(task)
    task.add_done_callback(_background.discard)
    repeated.on_stop = task.cancel


async def _repeat(driver: AsyncFlowDriver, repeated: Repeated, holder: asyncio.Task[Any] | None) -> None:
    pause_s = repeated.first_s
    while True:
        await asyncio.sleep(pause_s)
        if repeated.over or (holder is not None and holder.done()):
            return
        began = clock()
        try:
            answer = await driver.run(repeated.op())
        except StoreClosed:
            return
        except DataStoreError:
            answer = None
        again_at = repeated.tried(began, clock(), answer)
        if again_at is None:
            return
        pause_s = max(0.0, again_at - clock())
