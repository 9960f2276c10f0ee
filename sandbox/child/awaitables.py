"""Awaiting in an agent: a plain call that is awaited, values in place of awaitables, coroutines in blocking calls."""

from __future__ import annotations

import asyncio
import dis
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from redis_store.errors import InvalidType

_GET_AWAITABLE = dis.opmap["GET_AWAITABLE"]
_CACHE = dis.opmap["CACHE"]
_MAY_AWAIT = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_JSON_TYPES = frozenset({type(None), bool, int, float, str, list, dict})
_FIRST_IS_AWAITABLE = ("create_task", "ensure_future", "run", "shield", "wait_for")

_TASK_PATIENCE_S = 1.0
"""Limit on waiting for leftover tasks of the agent to end, in seconds. Executor threads are not waited for."""


def is_awaited(frame: FrameType | None) -> bool:
    """Whether a frame awaits the result of its call in progress, as in ``await f(x)``: its next instruction says so."""
    if frame is None or not (code := frame.f_code).co_flags & _MAY_AWAIT:
        return False
    instructions, at = code.co_code, frame.f_lasti + 2
    while instructions[at] == _CACHE:
        at += 2
    return instructions[at] == _GET_AWAITABLE


def accept_values() -> None:
    """Let asyncio's functions take JSON values in place of awaitables: a plain tool has returned when they are called."""
    gather, as_completed = asyncio.gather, asyncio.as_completed
    vars(asyncio).update(
        gather=functools.wraps(gather)(lambda *given, **options: gather(*map(_awaitable, given), **options)),
        as_completed=functools.wraps(as_completed)(
            lambda given, **options: as_completed(list(map(_awaitable, given)), **options)
        ),
        **{name: _taking_values(getattr(asyncio, name)) for name in _FIRST_IS_AWAITABLE},
    )
    create_task = asyncio.TaskGroup.create_task
    group: Any = asyncio.TaskGroup
    group.create_task = functools.wraps(create_task)(
        lambda self, given, **options: create_task(self, _awaitable(given), **options)
    )


def _taking_values(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(function)(lambda given, *args, **kwargs: function(_awaitable(given), *args, **kwargs))


def _awaitable(given: Any) -> Any:
    return _returned(given) if type(given) in _JSON_TYPES else given


async def _returned(value: Any) -> Any:
    return value


def wait_for_result(awaitable: Awaitable[Any], name: str) -> Any:
    """Return the result of what a function called `name` has returned, awaited on an event loop in a thread of its own.

    The event loop of this thread, if one is running, waits meanwhile.
    """
    if asyncio.isfuture(awaitable):
        awaitable.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio prints it
        awaitable.cancel()
        raise InvalidType(
            f"{name} returned a {type(awaitable).__name__} of the event loop that waits for it: return a coroutine, as an"
            " `async def` does."
        )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_serve, args=(loop,), name="agent-awaits", daemon=True)
    try:  # a signal handler of the agent may raise anywhere
        thread.start()
        return asyncio.run_coroutine_threadsafe(_result_of(awaitable), loop).result()
    finally:
        if thread.ident is None:  # the agent has used up its threads
            loop.close()
        else:
            loop.call_soon_threadsafe(loop.stop)


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        cancel_rest(loop)  # among them what is awaited, if the wait for it was given up
    finally:
        loop.close()


def cancel_rest(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks of a loop that has stopped, and wait for their end."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    with suppress(Exception):
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=_TASK_PATIENCE_S))
        loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), _TASK_PATIENCE_S))
