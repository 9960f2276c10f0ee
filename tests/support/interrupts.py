"""Stand-ins for signal handlers: a trace function is called between any two bytecodes, in the thread that it interrupts."""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_CHECKED_AFTER = {"CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME"}
"""The instructions that end with a look for signals, so that a handler may raise from them."""

_WHERE = {"redis_store", "sandbox", "threading.py", "futures"}
"""Parts of the names of the files whose code is interrupted."""


class Interrupted(BaseException):
    """Raised by a handler, as `KeyboardInterrupt` is."""


@contextmanager
def interrupted(handler: Callable[[bool], None]) -> Iterator[None]:
    """Call a function before each instruction of our code, with whether it may raise there."""
    before: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        parts = Path(frame.f_code.co_filename).parts
        if "tests" in parts or not _WHERE.intersection(parts):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            last, before[frame] = before.get(frame), frame.f_lasti
            if last is not None:
                code = frame.f_code
                # The error comes from the last instruction, so that must be covered by the same `try` as the next one.
                handler(dis.opname[code.co_code[last]] in _CHECKED_AFTER and _handled_at(code, last, frame.f_lasti))
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)
        before.clear()  # it would keep what the frames refer to


@functools.cache
def _covers(code: CodeType) -> list[range]:
    return [range(entry.start, entry.end) for entry in dis.Bytecode(code).exception_entries]  # type: ignore[attr-defined]


def _handled_at(code: CodeType, *offsets: int) -> bool:
    """Whether the same blocks of `try` and `with` cover all of these instructions."""
    first, *others = ([offset in cover for cover in _covers(code)] for offset in offsets)
    return all(other == first for other in others)


@contextmanager
def raising_at(left: int, error: type[BaseException] = Interrupted) -> Iterator[None]:
    """Raise an error at the given one of the places where a handler may raise; do nothing if there are fewer."""

    def handle(may_raise: bool) -> None:
        nonlocal left
        if may_raise:
            left -= 1
            if left == 0:
                raise error

    with interrupted(handle):
        yield
