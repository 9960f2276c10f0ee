"""Running flows in an agent's process: store calls return at once, and waits block the agent's thread or task."""

from __future__ import annotations

import asyncio
import inspect
import os
from typing import TYPE_CHECKING, Any, TypeVar

from redis_store.flows import run_sync
from redis_store.flows.flow import Ask, Flow, Pause, Step
from redis_store.flows.renewing import Keeper
from redis_store.flows.run_sync import Sleeps
from redis_store.protocol.drive import drive_async
from sandbox.child.awaitables import wait_for_result

if TYPE_CHECKING:
    from redis_store.namespace.scope import Scope
    from redis_store.protocol.call import Op
    from redis_store.protocol.read import Read

T = TypeVar("T")


class ChannelDriver:
    """The driver of operations that call the host; its keeper renews the agent's holders from a thread."""

    def __init__(self) -> None:
        self.keeper = Keeper()

    def run(self, op: Op[T]) -> T:
        """Run an operation and return its result; it must not await anything."""
        try:
            op.send(None)
        except StopIteration as stop:
            value: T = stop.value
            return value
        op.close()
        raise AssertionError("an operation of the agent's store awaited something")

    def read(self, read: Read[T], scope: Scope, wanted: Any, default: Any) -> T:
        """Run an operation that reads; the near cache of an agent is on the host."""
        return self.run(read.ask(scope, wanted, default))

    def pauses(self) -> Sleeps:
        """Return plain sleeps: an agent receives no wake-ups."""
        return Sleeps()


DRIVER = ChannelDriver()
"""The driver of this process: its agent has one channel to the store."""

os.register_at_fork(after_in_child=DRIVER.keeper.start_over)


def run_flow(flow: Flow[T]) -> T:
    """Run a flow and return its result; its pauses, and functions of it that must be awaited, block the thread."""
    return run_sync.run_flow(DRIVER, flow, wait_for_result)


async def run_flow_async(flow: Flow[T]) -> T:
    """Run a flow and return its result; other tasks continue during its pauses and while its functions await."""
    return await drive_async(flow, _carry_out)


async def _carry_out(step: Step) -> Any:
    if isinstance(step, Pause):
        return await asyncio.sleep(step.seconds)
    if isinstance(step, Ask):
        result = step.function(*step.arguments)
        return await result if inspect.isawaitable(result) else result
    return run_sync.carry_out(DRIVER, step)
