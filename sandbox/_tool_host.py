"""Carries out an agent's calls of tools: plain ones in threads, async ones on an event loop of the host."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from redis_store import _plain
from redis_store.errors import InvalidValue
from sandbox._frames import FrameError, Part

MOST_UNDER_WAY = 256
"""Calls of one run at once; while there are so many, the host reads no further from the agent's process."""

_MAX_MESSAGE = 64 * 1024


class ToolHost:
    """The tools of one run. Answers are handed to `post`, from any thread, until `close`."""

    def __init__(
        self,
        tools: Mapping[str, Callable[..., Any]],
        loop: Callable[[], asyncio.AbstractEventLoop],
        post: Callable[[list[Part]], None],
        max_bytes: int,
    ) -> None:
        self._tools = tools
        self._loop = loop
        self._post = post
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._numbers: set[int] = set()
        self._tasks: set[Future[None]] = set()
        self._closed = False

    @property
    def kinds(self) -> list[Part]:
        """Name and kind of each tool, flat, as the agent's process is told."""
        return [part for name, tool in self._tools.items() for part in (name, "async" if is_async(tool) else "plain")]

    @property
    def under_way(self) -> int:
        """How many calls have not been answered yet."""
        return len(self._numbers)

    def call(self, number: int, name: str, args: bytes, kwargs: bytes) -> None:
        """Start a call; its answer is posted when it is there."""
        tool = self._tools.get(name)
        if tool is None or number in self._numbers:
            raise FrameError("a call of a tool that does not exist, or under a number in use")
        values, named = load_json(args, list), load_json(kwargs, dict)
        self._numbers.add(number)
        if is_async(tool):
            self._await(number, _invoke(tool, values, named))
        else:
            worker = threading.Thread(
                target=self._work, args=(number, tool, values, named), name=f"sandbox-tool-{name}", daemon=True
            )
            try:
                worker.start()
            except RuntimeError as error:  # the system gives no more threads
                self._answer(number, error)

    def close(self) -> None:
        """Cancel what can be cancelled. A plain tool that is under way goes on, and its answer is dropped."""
        with self._lock:
            self._closed = True
            tasks = list(self._tasks)
        for task in tasks:
            task.cancel()

    def _work(self, number: int, tool: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> None:
        try:
            value = tool(*args, **kwargs)
            if inspect.isawaitable(value):
                self._await(number, value)
                return
        except BaseException as error:
            self._answer(number, error)
        else:
            self._answer(number, None, value)

    def _await(self, number: int, value: Any) -> None:
        with self._lock:
            if self._closed:
                if inspect.iscoroutine(value):
                    value.close()
                return
            task = asyncio.run_coroutine_threadsafe(self._awaited(number, value), self._loop())
            self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _awaited(self, number: int, value: Any) -> None:
        try:
            result = await value
        except BaseException as error:
            self._answer(number, error)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            self._answer(number, None, result)

    def _answer(self, number: int, error: BaseException | None, value: Any = None) -> None:
        message: list[Part]
        if error is None:
            try:
                text = _plain.dump(value)
                message = ["answer", number, text]
                if len(text) > self._max_bytes:
                    message = ["failed", number, f"the tool's result takes {len(text):,} bytes as JSON, over the limit"]
            except InvalidValue as refusal:
                message = ["failed", number, str(refusal).replace("value", "the tool's result", 1)]
        else:
            message = ["failed", number, describe(error)]
        with self._lock:
            self._numbers.discard(number)
            if not self._closed:
                self._post(message)


async def _invoke(tool: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    return await tool(*args, **kwargs)


def is_async(tool: Callable[..., Any]) -> bool:
    """Whether calling the tool gives something to await."""
    while isinstance(tool, functools.partial):
        tool = tool.func
    return inspect.iscoroutinefunction(tool) or inspect.iscoroutinefunction(getattr(tool, "__call__", None))  # noqa: B004


def describe(error: BaseException) -> str:
    """Return an exception's name and message, and nothing else of the host's."""
    try:
        message = str(error)
    except Exception:
        message = ""
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text[:_MAX_MESSAGE].encode(errors="backslashreplace").decode()


def load_json(text: bytes, kind: type) -> Any:
    """Read JSON that an agent's process wrote: strictly, 128 levels deep at most, and of one kind."""
    try:
        value = _plain.to_plain(_plain.load(text))
    except (ValueError, RecursionError):
        raise FrameError("a text that is not JSON") from None
    if not isinstance(value, kind):
        raise FrameError(f"a JSON text that is not a {kind.__name__}")
    return value
