"""The asyncio runner of flows. Each holding is renewed by a task of its own."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from redis_store.errors import DataStoreError, StoreClosed
from redis_store.flows.flow import Ask, Do, Flow, Keep, Keeping, Look, Now, Pause, Step

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
    try:
        step = flow.send(None)
        while True:
            try:
                result: Any = None
                if type(step) is Do:
                    result = await driver.run(step.op)
                elif isinstance(step, Pause):
                    pauses = pauses or driver.pauses()
                    await pauses.pause(step)
                else:
                    result = await _carry_out(driver, step)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        flow.close()
        if pauses is not None:
            pauses.close()


async def _carry_out(driver: AsyncFlowDriver, step: Step) -> Any:
    if isinstance(step, Now):
        return time.monotonic()
    if isinstance(step, Keep):
        return _TaskKeeping(driver, step)
    if isinstance(step, Look):
        return await driver.read(*step)
    assert isinstance(step, Ask), step
    result = step.function(*step.arguments)
    return await result if inspect.isawaitable(result) else result


class _TaskKeeping(Keeping):
    """Renews in a task of its own; if tied, only until the task that started it is done."""

    __slots__ = ("_driver", "_holder", "_task")

    def __init__(self, driver: AsyncFlowDriver, step: Keep) -> None:
        super().__init__(step.renew, step.ttl_s, step.since)
        self._driver = driver
        self._holder = asyncio.current_task() if step.tied else None
        self._task = asyncio.create_task(self._work(), name="redis-store-keeper")

    def stop(self) -> None:
        super().stop()
        self._task.cancel()

    async def _work(self) -> None:
        pause_s = self.pause_s
        while True:
            await asyncio.sleep(pause_s)
            if self._holder is not None and self._holder.done():
                return
            began = time.monotonic()
            try:
                kept = await self._driver.run(self.renew())
            except StoreClosed:
                return
            except DataStoreError:
                # It is held until its ttl ends: retry soon, until it is certainly lost.
                if self.lost(time.monotonic()):
                    return
                pause_s = self.pause_s / 4
                continue
            self.renewed(began, kept)
            if not kept:
                return
            pause_s = self.pause_s
