"""The record of a run that is kept: made of its result, with secrets masked and long texts cut, and a result made of it again."""

from __future__ import annotations

from itertools import chain
from typing import Any

from redis_store.brokers.kept_runs import (
    MOST_NESTED_IDS,
    KeptCall,
    KeptHint,
    KeptOperation,
    KeptRun,
    RunError,
    first_and_last,
)
from redis_store.types import Json
from redis_store.values import rules
from sandbox import errors
from sandbox.errors import SandboxError
from sandbox.masking import Hidden, beginning, without_secrets
from sandbox.record.timeline import shortened
from sandbox.result import Call, Hint, Operation, RunResult

MOST_CALLS = 2000
"""Calls of the store that a record has, and calls of tools and agents: the first and the last of more."""

INPUT_BYTES = 8192
"""Length of the texts of the input and the output that are examined for a record, in bytes."""

INPUT_CHARACTERS = 4000
"""Maximum length of the input and the output in a record, in characters."""

STDOUT_CHARACTERS = 16_000
"""Maximum length of what agents printed in a record, in characters."""

TRACEBACK_CHARACTERS = 16_000
MESSAGE_CHARACTERS = 4000
HINT_CHARACTERS = 1000

_LONGEST_WORD = 1000
"""Characters that are given up at most, so that a text is cut between two lines or words: a part of a secret looks like none."""


def record_of(
    result: RunResult, namespace: str, input_text: bytes, output_text: bytes | None, calls_left_out: int = 0
) -> KeptRun:
    """Return the record of a run that has ended. The texts are those of the input and the output, as JSON."""
    assert result.started is not None
    operations = first_and_last(tuple(result.operations), MOST_CALLS)
    calls = first_and_last(tuple(result.calls), MOST_CALLS)
    runs = chain((call.nested_run for call in result.calls), (one.run for one in result.operations))
    nested = dict.fromkeys(run for run in runs if run and run != result.run)
    return KeptRun(
        run=result.run,
        agent=_name(result.agent),
        started=result.started,
        duration=result.duration,
        isolation=result.isolation,
        namespace=_name(namespace),
        input=_json(input_text),
        output=None if output_text is None else _json(output_text),
        error=None if result.error is None else _error(result.error),
        stdout=_ends(result.stdout, STDOUT_CHARACTERS),
        operations=tuple(map(_operation, operations)),
        operations_left_out=result.operations_left_out + len(result.operations) - len(operations),
        calls=tuple(map(_call, calls)),
        calls_left_out=calls_left_out + len(result.calls) - len(calls),
        hints=tuple(map(_hint, result.hints)),
        nested=tuple(nested)[:MOST_NESTED_IDS],
    )


def result_of(kept: KeptRun) -> RunResult:
    """Return the result of a run as its record tells it, with an output only if the record has all of it."""
    output: dict[str, Json] | None = None
    if kept.output is not None:
        try:
            output = rules.load(kept.output.encode())
        except ValueError:
            output = {}
    return RunResult(
        output=output,
        error=None if kept.error is None else _error_of(kept.error),
        stdout=kept.stdout,
        operations=[_operation_of(one) for one in kept.operations],
        duration=kept.duration,
        isolation=kept.isolation,
        run=kept.run,
        agent=kept.agent,
        started=kept.started,
        calls=[Call(*(getattr(one, name) for name in Call.__dataclass_fields__)) for one in kept.calls],
        hints=[Hint(one.kind, one.message, one.agent, one.namespace) for one in kept.hints],
        operations_left_out=kept.operations_left_out,
        is_kept=True,
    )


class _Preview(Hidden):
    """The preview of a value in a record."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def preview(self) -> str:
        return self._text


def _operation_of(one: KeptOperation) -> Operation:
    facts: dict[str, Any] = {name: getattr(one, name) for name in Operation.__dataclass_fields__ if name != "value"}
    return Operation(**facts, value=None if one.preview is None else _Preview(one.preview))


def _error_of(error: RunError) -> SandboxError:
    kind = getattr(errors, error.type) if error.type in errors.__all__ else SandboxError
    made: SandboxError = kind(error.message, traceback=error.traceback)
    return made


def _operation(one: Operation) -> KeptOperation:
    preview = one.preview
    return KeptOperation(
        time=one.time,
        agent=_name(one.agent),
        operation=_name(one.operation),
        namespace=_sendable(one.namespace),
        key=None if one.key is None else _sendable(one.key),
        count=one.count,
        hit=one.hit,
        bytes=one.bytes,
        duration_ms=round(one.duration_ms, 4),
        error=None if one.error is None else _name(one.error),
        run=one.run,
        preview=None if preview is None else _sendable(preview),
        kept=one.kept,
    )


def _call(one: Call) -> KeptCall:
    error = None if one.error is None else _name(one.error)
    facts = (one.time, _name(one.agent), one.kind, _name(one.name), round(one.duration_ms, 4), error, one.run)
    return KeptCall(*facts, nested_run=one.nested_run)


def _hint(one: Hint) -> KeptHint:
    message = _start(one.message, HINT_CHARACTERS)
    return KeptHint(one.kind, message, _name(one.agent), None if one.namespace is None else _sendable(one.namespace))


def _error(error: SandboxError) -> RunError:
    lines = getattr(error, "traceback", "") or getattr(error, "details", "")
    return RunError(
        type(error).__name__,
        _start(str(error), MESSAGE_CHARACTERS),
        _end(lines if isinstance(lines, str) else "", TRACEBACK_CHARACTERS),
    )


def _json(text: bytes) -> str:
    return beginning(text, INPUT_BYTES, INPUT_CHARACTERS)


def _ends(text: str, most: int) -> str:
    """Return a text with secrets masked; of a long one the beginning and the end, with a line of ours between them."""
    if len(text) <= most:
        return _sendable(without_secrets(text))
    half = most // 2
    return f"{_start(text, half)}\n… {len(text) - most:,} characters are left out …\n{_end(text, half)}"


def _start(text: str, most: int) -> str:
    if len(text) > most:
        ends = (text.rfind(space, most - _LONGEST_WORD, most) for space in "\n ")
        text = text[: next((end for end in ends if end > 0), most)] + "…"
    return _sendable(without_secrets(text))


def _end(text: str, most: int) -> str:
    if len(text) > most:
        first = len(text) - most
        starts = (text.find(space, first, first + _LONGEST_WORD) for space in "\n ")
        text = "…" + text[next((start for start in starts if start > 0), first) :]
    return _sendable(without_secrets(text))


def _name(name: str) -> str:
    return _sendable(shortened(name))


def _sendable(text: str) -> str:
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
