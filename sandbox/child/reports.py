"""Reports to the host on how an agent failed: the agent's own frames and lines, without the sandbox's."""

from __future__ import annotations

import linecache
import traceback
from pathlib import PurePath
from types import TracebackType

from sandbox.errors import builtin_bases
from sandbox.protocol.frames import Part

_MAX_MESSAGE = 64 * 1024
_MAX_TRACEBACK = 256 * 1024
_FRAMES_AT_AN_END = 100
"""Frames of a traceback that are kept at its beginning, and at its end."""
_MOST_CAUSES = 100
"""Exceptions of a chain or group that are shown."""
_CLASS_NAME = type.__dict__["__name__"]
_HOW_TO_GIVE = (
    "An agent can import the standard library and what the host gives it: installed packages with packages=[...]"
    " (--package NAME), modules of the host with modules={...} (--modules MODULE:ATTRIBUTE).\n"
)

_ASYNC_SLIPS = {
    "can't be used in 'await' expression": "a value is not awaited, and all calls of data_store return one: remove `await`.",
    "'async for' requires an object with __aiter__ method": "data_store is not asynchronous: remove `async`.",
    "does not support the asynchronous context manager protocol": (
        "data_store and its transactions are not asynchronous: remove `async`."
    ),
}
"""What Python says when an agent awaits what is not asynchronous, and what to do."""


class Reports:
    """Builder of messages from exceptions; frames of code in `folders` are left out."""

    def __init__(self, filename: str, folders: list[str]) -> None:
        self._filename = filename
        self._folders = tuple(str(PurePath(folder)) + "/" for folder in folders)

    def raised(self, error: BaseException) -> list[Part]:
        """Return the message about an exception that the agent's code did not catch."""
        try:
            _shorten(error)
            found = traceback.TracebackException.from_exception(error, compact=True)
            self._strip(found)
            text = "".join(found.format())
            if isinstance(error, ModuleNotFoundError):
                text += _HOW_TO_GIVE
            message = text_of(error)
            for said, advice in _ASYNC_SLIPS.items() if isinstance(error, TypeError) else ():
                if said in message:
                    message, text = f"{message}: {advice}", text + advice[:1].upper() + advice[1:] + "\n"
        except BaseException as failure:  # such as a MemoryError, or an exception whose own methods raise
            text = f"{class_name(error)} (its traceback cannot be shown: {class_name(failure)})\n"
            message = ""
        bases = " ".join(builtin_bases(type(error)))
        return ["raised", _clean(class_name(error), 200), _clean(message, _MAX_MESSAGE), bases, _tail(text)]

    def unreadable(self, error: Exception) -> list[Part]:
        """Return the message about source that does not compile, with line and caret."""
        if isinstance(error, SyntaxError) and error.text is None and error.lineno:
            error.text = linecache.getline(self._filename, error.lineno) or None
        details = "".join(traceback.format_exception_only(error))
        where = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        message = f"does not compile: {reason}{where}"
        return ["invalid_agent", _clean(message, _MAX_MESSAGE), _tail(details)]

    def _strip(self, found: traceback.TracebackException) -> None:
        """Remove the sandbox's frames from an exception, from its causes and contexts, and from the exceptions that it groups."""
        waiting, seen = [found], set()
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            one.stack = traceback.StackSummary.from_list([f for f in one.stack if self._is_agents(f.filename)])
            others = (one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ()))
            waiting += [other for other in others if other is not None]

    def _is_agents(self, filename: str) -> bool:
        return filename == self._filename or not filename.startswith(self._folders)


def _shorten(error: BaseException) -> None:
    """Remove the middle of a long traceback, and the far end of a long chain of causes, before each frame becomes text."""
    waiting, seen = [error], 0
    while waiting:
        one = waiting.pop()
        seen += 1
        _shorten_traceback(one.__traceback__)
        if seen > _MOST_CAUSES:
            one.__cause__ = one.__context__ = None
            if isinstance(one, BaseExceptionGroup):
                raise OverflowError("too many exceptions")
            continue
        grouped = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        waiting += [other for other in (one.__cause__, one.__context__, *grouped) if other is not None]


def _shorten_traceback(trace: TracebackType | None) -> None:
    depth, last = 0, trace
    while last is not None:
        depth, last = depth + 1, last.tb_next
    if trace is None or depth <= 2 * _FRAMES_AT_AN_END:
        return
    for _ in range(_FRAMES_AT_AN_END - 1):
        trace = trace.tb_next or trace
    rest = trace.tb_next
    for _ in range(depth - 2 * _FRAMES_AT_AN_END):
        rest = rest and rest.tb_next
    trace.tb_next = rest


def class_name(value: object) -> str:
    """Return the name of a value's class, past what its metaclass may say."""
    name: str = _CLASS_NAME.__get__(type(value))
    return name


def text_of(value: object) -> str:
    """Return ``str(value)`` as an exact str, whatever the agent's class does."""
    try:
        return str.__str__(str(value))
    except BaseException:
        return "<its text is unavailable>"


def _clean(text: str, limit: int) -> str:
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return text.encode(errors="backslashreplace").decode()


def _tail(text: str) -> str:
    if len(text) > _MAX_TRACEBACK:
        text = text[: _MAX_TRACEBACK // 2] + "\n[...]\n" + text[-_MAX_TRACEBACK // 2 :]
    return text.encode(errors="backslashreplace").decode()
