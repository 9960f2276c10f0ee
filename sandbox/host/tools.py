"""Tool calls: an agent's calls of host functions, plain ones in threads, async ones on an event loop of the host."""

from __future__ import annotations

import asyncio
import inspect
import threading
from concurrent.futures import Future
from typing import Any, NamedTuple

from redis_store.errors import InvalidValue
from redis_store.limits import MAX_VALUES
from redis_store.values import rules
from redis_store.values.count import has_more_values
from sandbox.child.reports import class_name
from sandbox.errors import ResultLimitExceeded, builtin_bases
from sandbox.given.functions import Function, is_async
from sandbox.host.outbox import OpenCalls
from sandbox.protocol.frames import FrameError
from sandbox.record.timeline import Begun, Who
from sandbox.running.tree import Tree

_MAX_MESSAGE = 64 * 1024


class ToolHost:
    """The tool calls of one process."""

    def __init__(self, tree: Tree, who: Who, calls: OpenCalls) -> None:
        self._tree = tree
        self._who = who
        self._calls = calls
        self._lock = threading.RLock()
        self._tasks: dict[int, Future[None]] = {}

    def call(self, number: int, address: str, args: bytes, kwargs: bytes) -> None:
        """Start a call; its answer is posted when the function returns."""
        function = self._tree.given.functions.get(address)
        if function is None or number in self._calls:
            raise FrameError("a call of a tool that does not exist, or under a number in use")
        values, named = load_json(args, list), load_json(kwargs, dict)
        self._tree.spend_tool_call()
        self._calls.add(number, len(args) + len(kwargs))
        call = _ToolCall(number, address, Begun())
        context = self._tree.context.copy()
        if is_async(function):
            context.run(self._await, call, _invoke(function, values, named))
            return
        worker = threading.Thread(
            target=context.run,
            args=(self._work, call, function, values, named),
            name=f"sandbox-tool-{address}",
            daemon=True,
        )
        try:
            worker.start()
        except (RuntimeError, MemoryError) as error:  # the system has no more threads
            self._answer(call, error)

    def cancel(self, number: int) -> None:
        """Cancel a call that the agent gave up, if it is async. A plain function continues, and its result is dropped."""
        with self._lock:
            task = self._tasks.get(number)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Cancel async calls, once their outbox is closed. A plain function that is under way continues."""
        with self._lock:
            tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()

    def _work(self, call: _ToolCall, function: Function, args: list[Any], kwargs: dict[str, Any]) -> None:
        try:
            value = function(*args, **kwargs)
            if inspect.isawaitable(value):
                self._await(call, value)
                return
        except BaseException as error:
            self._answer(call, error)
        else:
            self._answer(call, None, value)

    def _await(self, call: _ToolCall, value: Any) -> None:
        with self._lock:
            wanted = not self._calls.outbox.closed and not self._calls.is_given_up(call.number)
            failure: BaseException = asyncio.CancelledError()
            awaited = self._awaited(call, value)
            if wanted:
                try:
                    task = asyncio.run_coroutine_threadsafe(awaited, self._tree.loop())
                except (
                    OSError,
                    RuntimeError,
                    MemoryError,
                ) as error:  # the loop is closed, or the system has none to give
                    wanted, failure = False, error
                else:
                    self._tasks[call.number] = task
        if wanted:
            task.add_done_callback(lambda _: self._forget(call.number, task))
            return
        awaited.close()
        if inspect.iscoroutine(value):
            value.close()
        self._answer(call, failure)

    def _forget(self, number: int, task: Future[None]) -> None:
        with self._lock:
            if self._tasks.get(number) is task:  # a hostile process may use a number again
                del self._tasks[number]

    async def _awaited(self, call: _ToolCall, value: Any) -> None:
        try:
            result = await value
        except BaseException as error:
            self._answer(call, error)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            self._answer(call, None, result)

    def _answer(self, call: _ToolCall, error: BaseException | None, value: Any = None) -> None:
        if error is None:
            kind, content, failed = self._text_of(value)
            more = []
        else:
            kind, content, failed = "failed", describe(error), _name_of(error)
            more = [" ".join(builtin_bases(type(error)))]
        self._tree.timeline.note_call(self._who, call.begun, "tool", call.name, failed)
        self._calls.answer(call.number, kind, content, *more)

    def _text_of(self, value: Any) -> tuple[str, bytes | str, str | None]:
        """Return kind and content of the answer with a result, and the name of the error if it cannot be sent."""
        try:
            text = rules.dump(value)
        except InvalidValue as refusal:
            return "failed", str(refusal).replace("value", "the tool's result", 1), _name_of(refusal)
        except BaseException as odd:  # for example, the host changed a dict meanwhile; the agent still waits
            return "failed", f"the tool's result cannot be read ({describe(odd)})", _name_of(odd)
        if len(text) > self._tree.given.limits.result_bytes:
            said = f"the tool's result takes {len(text):,} bytes as JSON, over the limit"
            return "failed", said, ResultLimitExceeded.__name__
        return "answer", text, None


class _ToolCall(NamedTuple):
    number: int
    name: str
    begun: Begun


async def _invoke(function: Function, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return await function(*args, **kwargs)


def _name_of(error: BaseException) -> str:
    return class_name(error)[:_MAX_MESSAGE]


def describe(error: BaseException) -> str:
    """Return an exception's name and message, and nothing else about the host. Never raises."""
    try:
        message = str.__str__(str(error))[:_MAX_MESSAGE]
    except BaseException:  # its `__str__` raises, or returns something else
        message = ""
    text = f"{_name_of(error)}: {message}" if message else _name_of(error)
    return text[:_MAX_MESSAGE].encode(errors="backslashreplace").decode()


def load_json(text: bytes, kind: type) -> Any:
    """Parse JSON from an agent process strictly: at most `rules.MAX_DEPTH` levels deep, and of the given kind.

    Raises `FrameError`, or `ResultLimitExceeded` for more than `MAX_VALUES` values.
    """
    if has_more_values(text):
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
