"""Runs flows in an agent's process: its calls of the store answer at once, and what waits is the agent's thread or task."""

from __future__ import annotations

import asyncio
import inspect
import os
from typing import TYPE_CHECKING, Any, TypeVar

from redis_store.flows import run_sync
from redis_store.flows.flow import Ask, Flow, Pause
from redis_store.flows.renewing import Keeper
from redis_store.flows.run_sync import Sleeps

if TYPE_CHECKING:
    from redis_store.protocol.call import Op

T = TypeVar("T")


class ChannelDriver:
    """Carries out operations that ask the host as they go, and renews what the agent holds from a thread."""

    near = None
    """What is near to an agent is in its host."""

    def __init__(self) -> None:
        self.keeper = Keeper(self.run)

    def run(self, op: Op[T]) -> T:
        """Return what an operation returns; it must not await anything."""
        try:
            op.send(None)
        except StopIteration as stop:
            value: T = stop.value
            return value
        op.close()
        raise AssertionError("an operation of the agent's store awaited something")

    def pauses(self) -> Sleeps:
        """An agent has nobody to wake it."""
        return Sleeps()


DRIVER = ChannelDriver()
"""The process's own: its agent has one channel to the store."""

os.register_at_fork(after_in_child=DRIVER.keeper.start_over)


def run_flow(flow: Flow[T]) -> T:
    """Carry a flow out and return its result; its pauses block the thread."""
    return run_sync.run_flow(DRIVER, flow)


async def run_flow_async(flow: Flow[T]) -> T:
    """Carry a flow out and return its result; in its pauses, and while its functions await, other tasks go on."""
    try:
        step = flow.send(None)
        while True:
            try:
                result: Any = None
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Ask):
                    result = step.function(*step.arguments)
                    if inspect.isawaitable(result):
                        result = await result
                else:
                    result = run_sync.carry_out(DRIVER, step)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        flow.close()
