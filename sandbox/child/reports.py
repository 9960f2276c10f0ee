"""Reports to the host on how an agent failed: frames of the agent and its packages, without the sandbox's and the library's."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Iterator
from pathlib import PurePath
from types import TracebackType

from sandbox.child.advice import advice_for
from sandbox.child.refusals import is_refusal
from sandbox.errors import builtin_bases
from sandbox.protocol.frames import Part

_MAX_MESSAGE = 64 * 1024
_MAX_ADVICE = 1024
_MAX_TRACEBACK = 256 * 1024
_FRAMES_AT_AN_END = 100
"""Frames of a traceback that are kept at its beginning, and at its end."""
_MOST_CAUSES = 100
"""Exceptions of a chain or group that are shown."""
_STANDARD_LIBRARY = (str(PurePath(linecache.__file__).parent) + "/", "<frozen ")
"""Beginnings of the names of its files. Its frames, between those of the agent, tell the agent's author nothing."""
_CLASS_NAME = type.__dict__["__name__"]


class Reports:
    """Builder of messages from exceptions; frames of code in `folders` are left out."""

    def __init__(self, filename: str, folders: list[str]) -> None:
        self._filename = filename
        self._folders = tuple(str(PurePath(folder)) + "/" for folder in folders)

    def raised(self, error: BaseException) -> list[Part]:
        """Return the message about an exception that the agent's code did not catch."""
        message = advice = ""
        try:
            found = traceback.TracebackException.from_exception(
                _shorten(error), compact=True, max_group_width=_MOST_CAUSES + 1
            )
            self._strip(found)
            message = text_of(error)
            if any(map(is_refusal, _chain(error))):
                self._keep_agents_frames(found)
            text = "".join(found.format())
            advice = advice_for(error)
        except BaseException as failure:  # such as a MemoryError, or an exception whose own methods raise
            text = f"{class_name(error)} (its traceback cannot be shown: {class_name(failure)})\n"
        bases = " ".join(builtin_bases(type(error)))
        name = _clean(class_name(error), 200)
        return ["raised", name, _clean(message, _MAX_MESSAGE), _clean(advice, _MAX_ADVICE), bases, _tail(text)]

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

    def _keep_agents_frames(self, found: traceback.TracebackException) -> None:
        """Remove the library's frames below the agent's last one, and its causes: the walls refused what the agent asked for."""
        own = [number for number, frame in enumerate(found.stack) if frame.filename == self._filename]
        if own:
            found.stack = traceback.StackSummary.from_list(found.stack[: own[-1] + 1])
            found.__cause__ = found.__context__ = None

    def _is_agents(self, filename: str) -> bool:
        if filename == self._filename:
            return True
        return not filename.startswith(self._folders) and (
            "-packages/" in filename or not filename.startswith(_STANDARD_LIBRARY)
        )


def _narrowed(error: BaseException, left: list[int]) -> BaseException:
    """Return a group with its first exceptions only, `left[0]` of all groups; any other exception as it is."""
    left[0] -= 1
    if not isinstance(error, BaseExceptionGroup):
        return error
    kept: list[BaseException] = []
    for one in error.exceptions:
        if left[0] <= 0:
            kept.append(Exception(f"{len(error.exceptions) - len(kept):,} more exceptions are left out"))
            break
        kept.append(_narrowed(one, left))
    name, facts = class_name(error), {"__module__": type(error).__module__, "__str__": lambda _: text_of(error)}
    copy: BaseException = type(name, (BaseExceptionGroup,), facts)("", kept)
    copy.__cause__, copy.__context__, copy.__traceback__ = error.__cause__, error.__context__, error.__traceback__
    copy.__suppress_context__ = error.__suppress_context__
    for note in getattr(error, "__notes__", ()):
        copy.add_note(note)
    return copy


def _shorten(error: BaseException) -> BaseException:
    """Remove the middle of a long traceback, the far end of a long chain of causes, and most of a wide group, before each frame
    becomes text. Return the exception, or a copy of a group."""
    left = [_MOST_CAUSES]
    error = _narrowed(error, left)
    waiting, seen = [error], 0
    while waiting:
        one = waiting.pop()
        seen += 1
        _shorten_traceback(one.__traceback__)
        if seen > _MOST_CAUSES:
            one.__cause__ = one.__context__ = None
            continue
        if isinstance(one.__context__, BaseExceptionGroup):
            one.__context__ = _narrowed(one.__context__, left)
        if isinstance(one.__cause__, BaseExceptionGroup):
            one.__cause__ = _narrowed(one.__cause__, left)
        grouped = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        waiting += [other for other in (one.__cause__, one.__context__, *grouped) if other is not None]
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__


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
