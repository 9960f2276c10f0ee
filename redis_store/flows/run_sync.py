"""The runner of flows for threads. One background thread renews what they hold."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from redis_store.errors import InvalidType
from redis_store.flows.clock import clock
from redis_store.flows.flow import Ask, Do, Flow, Keeping, Look, Now, Pause, Renew, Step, Undo, Undoing
from redis_store.flows.renewing import Keeper
from redis_store.protocol.drive import drive

if TYPE_CHECKING:
    from redis_store.namespace.scope import Scope
    from redis_store.protocol.call import Op
    from redis_store.protocol.read import Read

T = TypeVar("T")


class FlowDriver(Protocol):
    """What the runner needs of a driver for threads."""

    @property
    def keeper(self) -> Keeper: ...
    def run(self, op: Op[T]) -> T: ...
    def read(self, read: Read[T], scope: Scope, wanted: Any, default: Any) -> T: ...
    def pauses(self) -> FlowPauses: ...


class FlowPauses(Protocol):
    """The pauses of one flow."""

    def pause(self, step: Pause) -> None: ...
    def close(self) -> None: ...


class Sleeps:
    """Pauses that sleep; no message ends them early."""

    def pause(self, step: Pause) -> None:
        time.sleep(step.seconds)

    def close(self) -> None:
        """Do nothing, as there is nothing to release."""


def _refuse(awaitable: Awaitable[Any], name: str) -> NoReturn:
    if inspect.iscoroutine(awaitable):
        awaitable.close()
    raise InvalidType(f"{name} is asynchronous, and this store is not: use connect_async, or give a plain function.")


def run_flow(driver: FlowDriver, flow: Flow[T], awaited: Callable[[Awaitable[Any], str], Any] = _refuse) -> T:
    """Run a flow and return its result. `awaited` returns the result of an awaitable that the function of a name returned."""
    pauses: FlowPauses | None = None

    def carry_out_all(step: Step) -> Any:
        nonlocal pauses
        if isinstance(step, Pause):
            pauses = pauses or driver.pauses()
            return pauses.pause(step)
        return carry_out(driver, step, awaited)

    try:
        return drive(flow, carry_out_all)
    finally:
        if pauses is not None:
            pauses.close()


def carry_out(driver: FlowDriver, step: Step, awaited: Callable[[Awaitable[Any], str], Any] = _refuse) -> Any:
    """Carry out a step other than a pause, blocking the thread, and return its result."""
    if type(step) is Do:
        return driver.run(step.op)
    if isinstance(step, Now):
        return clock()
    if isinstance(step, Renew):
        keeping = Keeping(step)
        driver.keeper.repeat(keeping, driver.run, tied=step.tied)
        return keeping
    if isinstance(step, Undo):
        driver.keeper.repeat(Undoing(step), driver.run, tied=False)
        return None
    if isinstance(step, Look):
        return driver.read(*step)
    assert isinstance(step, Ask), step
    result = step.function(*step.arguments)
    return (
        awaited(result, getattr(step.function, "__name__", "The function")) if inspect.isawaitable(result) else result
    )
