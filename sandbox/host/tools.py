"""Tool calls: an agent's calls of host functions, plain ones in threads, async ones on an event loop of the host."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from redis_store.errors import InvalidValue
from redis_store.values import rules
from sandbox.errors import ResultLimitExceeded
from sandbox.given.functions import Function, is_async
from sandbox.protocol.frames import FrameError, Part
from sandbox.record.timeline import Called, Who
from sandbox.running.tree import Tree

MOST_UNDER_WAY = 256
"""Limit of one run's concurrent calls; while it is reached, the host reads nothing from the agent process."""

MOST_HELD = 4
"""Limit of the arguments of the calls under way, in multiples of `Limits.result_bytes`; at the limit the host stops reading."""

MAX_VALUES = 1_000_000
"""Limit of the JSON values in one result or in the arguments of one call; each costs the host up to 200 bytes."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""Matches unterminated strings too, and never backtracks: a hostile text could make that slow."""

_MAX_MESSAGE = 64 * 1024


class _UnderWay(NamedTuple):
    name: str
    received: float
    start: float
    size: int


class ToolHost:
    """The tool calls of one process. Answers are passed to `post`, from any thread, until `close`."""

    def __init__(self, tree: Tree, who: Who, post: Callable[[list[Part]], None]) -> None:
        self._tree = tree
        self._who = who
        self._post = post
        self._lock = threading.Lock()
        self._calls: dict[int, _UnderWay] = {}
        self._tasks: set[Future[None]] = set()
        self._closed = False
        self.held_bytes = 0
        """Size of the arguments of the calls under way, as JSON, in bytes."""

    @property
    def under_way(self) -> int:
        """Number of calls that have not been answered yet."""
        return len(self._calls)

    def call(self, number: int, address: str, args: bytes, kwargs: bytes) -> None:
        """Start a call; its answer is posted when the function returns."""
        function = self._tree.given.functions.get(address)
        if function is None or number in self._calls:
            raise FrameError("a call of a tool that does not exist, or under a number in use")
        values, named = load_json(args, list), load_json(kwargs, dict)
        self._tree.spend_tool_call()
        size = len(args) + len(kwargs)
        with self._lock:
            self._calls[number] = _UnderWay(address, time.time(), time.perf_counter(), size)
            self.held_bytes += size
        context = self._tree.context.copy()
        if is_async(function):
            context.run(self._await, number, _invoke(function, values, named))
            return
        worker = threading.Thread(
            target=context.run,
            args=(self._work, number, function, values, named),
            name=f"sandbox-tool-{address}",
            daemon=True,
        )
        try:
            worker.start()
        except RuntimeError as error:  # the system has no more threads
            self._answer(number, error)

    def close(self) -> None:
        """Cancel async calls. A plain function that is under way continues, and its answer is dropped."""
        with self._lock:
            self._closed = True
            tasks = list(self._tasks)
        for task in tasks:
            task.cancel()

    def _work(self, number: int, function: Function, args: list[Any], kwargs: dict[str, Any]) -> None:
        try:
            value = function(*args, **kwargs)
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
            task = asyncio.run_coroutine_threadsafe(self._awaited(number, value), self._tree.loop())
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
        failed = None if error is None else type(error).__name__
        message: list[Part]
        if error is None:
            try:
                text = rules.dump(value)
                message = ["answer", number, text]
                if len(text) > self._tree.given.limits.result_bytes:
                    failed = "ResultLimitExceeded"
                    message = ["failed", number, f"the tool's result takes {len(text):,} bytes as JSON, over the limit"]
            except InvalidValue as refusal:
                failed = "InvalidValue"
                message = ["failed", number, str(refusal).replace("value", "the tool's result", 1)]
            except Exception as odd:  # for example, the host changed a dict meanwhile; the agent still waits
                failed = type(odd).__name__
                message = ["failed", number, f"the tool's result cannot be read ({describe(odd)})"]
        else:
            message = ["failed", number, describe(error)]
        with self._lock:
            call = self._calls.pop(number)
            self.held_bytes -= call.size
            self._note(call, failed)
            if not self._closed:
                self._post(message)

    def _note(self, call: _UnderWay, failed: str | None) -> None:
        duration_ms = (time.perf_counter() - call.start) * 1000
        self._tree.timeline.called.add(
            Called(call.received, self._who, "tool", call.name, duration_ms, failed, nested_run=None)
        )


async def _invoke(function: Function, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return await function(*args, **kwargs)


def describe(error: BaseException) -> str:
    """Return an exception's name and message, and nothing else about the host."""
    try:
        message = str(error)
    except Exception:
        message = ""
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text[:_MAX_MESSAGE].encode(errors="backslashreplace").decode()


def load_json(text: bytes, kind: type) -> Any:
    """Parse JSON from an agent process strictly: at most 128 levels deep, and of the given kind.

    Raises `FrameError`, or `ResultLimitExceeded` for more than `MAX_VALUES` values.
    """
    if _has_too_many(text):
        raise ResultLimitExceeded(
            f"The agent sent more than {MAX_VALUES:,} JSON values at once, as its result or to a tool or an agent: put them"
            " into the store and pass the key.",
            limit="result_values",
            value=MAX_VALUES,
        )
    try:
        value = rules.to_plain(rules.load(text))
    except (ValueError, RecursionError):
        raise FrameError("a text that is not JSON") from None
    if not isinstance(value, kind):
        raise FrameError(f"a JSON text that is not a {kind.__name__}")
    return value


def _has_too_many(text: bytes) -> bool:
    """Whether there are more values than the host decodes; decoded empty lists take seventy times their text's size."""
    return _separators(text) > MAX_VALUES and _separators(_STRING.sub(b"", text)) > MAX_VALUES


def _separators(text: bytes) -> int:
    """Return an upper bound of the number of values; separators inside strings count as well."""
    return sum(text.count(one) for one in (b",", b"[", b"{"))
