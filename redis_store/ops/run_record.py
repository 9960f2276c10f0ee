"""The records of runs that are kept: what they hold, and their JSON text. The only module that knows both.

The sandbox makes the records, with secrets masked and long texts cut; `Admin` and the commands read them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TypeVar

from redis_store.errors import CorruptValue, UnsupportedEncoding

T = TypeVar("T")

RUN_FORMAT = 1
"""The format of the records that this version writes, and the newest that it reads."""

MAX_RECORD_BYTES = 1024 * 1024
"""Bound on the record of one run, in bytes of JSON text."""

MOST_NESTED_IDS = 1000
"""Nested runs of one run whose ids lead to its record, at most."""

_FIRST_BYTES = 32


@dataclass(frozen=True, slots=True)
class RunError:
    """The error with which a run ended."""

    type: str
    """Name of the error's class in `sandbox.errors`."""
    message: str
    traceback: str = ""
    """The agent's traceback, or its lines that do not compile; empty if there is neither."""


@dataclass(frozen=True, slots=True)
class KeptOperation:
    """A call of the store that an agent made. The fields are those of `sandbox.Operation`."""

    time: datetime
    agent: str
    operation: str
    namespace: str
    key: str | None = None
    count: int = 0
    hit: bool | None = None
    bytes: int = 0
    duration_ms: float = 0.0
    error: str | None = None
    run: str = ""
    preview: str | None = None
    kept: int = 0


@dataclass(frozen=True, slots=True)
class KeptCall:
    """A call of a tool or of another agent. The fields are those of `sandbox.Call`."""

    time: datetime
    agent: str
    kind: str
    name: str
    duration_ms: float = 0.0
    error: str | None = None
    run: str = ""
    nested_run: str | None = None


@dataclass(frozen=True, slots=True)
class KeptHint:
    """A suggestion for the author of an agent. The fields are those of `sandbox.Hint`."""

    kind: str
    message: str
    agent: str
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class KeptRun:
    """The record of a run, with the runs nested in it. Secrets are masked, and an ellipsis stands where a long text is cut."""

    run: str
    agent: str
    started: datetime
    duration: float
    """Time from the start to the result, in seconds."""
    isolation: str
    namespace: str
    """The namespace that the agent's `data_store` started in."""
    input: str
    """The beginning of the agent's input, as JSON text."""
    output: str | None = None
    """The beginning of the agent's output, as JSON text; None if the run failed."""
    error: RunError | None = None
    stdout: str = ""
    """What the agents printed: the beginning and the end."""
    operations: tuple[KeptOperation, ...] = ()
    """Calls of the store in order of time; of many, the first and the last."""
    operations_left_out: int = 0
    calls: tuple[KeptCall, ...] = ()
    """Calls of tools and agents in order of time; of many, the first and the last."""
    calls_left_out: int = 0
    hints: tuple[KeptHint, ...] = ()
    nested: tuple[str, ...] = ()
    """Ids of the runs nested in it, of 1,000 at most."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run that is kept, as a listing shows it."""

    run: str
    agent: str
    started: datetime
    duration: float
    """Time from the start to the result, in seconds."""
    isolation: str
    error: str | None
    """Name of the error with which it ended; None if it succeeded."""
    operations: int
    """Number of calls of the store."""
    calls: int
    """Number of calls of tools and agents."""
    nested: int
    """Number of nested runs."""
    bytes: int = 0
    """Memory that the record takes, about."""
    expires_at: datetime | None = None


def summary_text(run: KeptRun) -> bytes:
    """Return the text of a run's summary, for the index."""
    facts = {each: getattr(run, each) for each in ("run", "agent", "started", "duration", "isolation")}
    return _encoded(
        {
            **facts,
            "error": None if run.error is None else run.error.type,
            "operations": len(run.operations) + run.operations_left_out,
            "calls": len(run.calls) + run.calls_left_out,
            "nested": len(run.nested),
        }
    )


def parse_summary(text: bytes) -> RunSummary | None:
    """Return the summary of a text in the index, or None for a text by hand."""
    from msgspec import DecodeError, json

    try:
        return json.decode(text, type=RunSummary)
    except DecodeError:
        return None


def record_text(run: KeptRun, most_bytes: int) -> bytes:
    """Return the text of a record, with so much left out of it that it takes at most `most_bytes`."""
    text = _text_of(run)
    while len(text) > most_bytes and (run.operations or run.calls):
        run = _with_fewer_calls(run)
        text = _text_of(run)
    while len(text) > most_bytes and (shorter := _with_shorter_texts(run)) != run:
        run = shorter
        text = _text_of(run)
    return text


def parse_record(text: bytes, run: str) -> KeptRun:
    """Return the record of a text. Raises `StoredDataError` for a text by hand, and for one of a later version."""
    from msgspec import DecodeError, Struct, json

    class Head(Struct):
        format: int

    try:
        number = json.decode(text, type=Head).format
        if number > RUN_FORMAT:
            raise UnsupportedEncoding(
                f"The record of run {run!r} has format {number}, and this version of agent-data-store reads formats up to"
                f" {RUN_FORMAT}: upgrade agent-data-store."
            )
        return json.decode(text, type=KeptRun)
    except DecodeError:
        raise CorruptValue(
            f"The record of run {run!r} is not what agent-data-store writes: drop it, or wait until it expires.",
            first_bytes=text[:_FIRST_BYTES],
        ) from None


def first_and_last(items: tuple[T, ...], most: int) -> tuple[T, ...]:
    """Return at most `most` items: the first half of these from the beginning, the others from the end."""
    if len(items) <= most:
        return items
    return (*items[: (most + 1) // 2], *items[len(items) - most // 2 :])


def _with_fewer_calls(run: KeptRun) -> KeptRun:
    operations = first_and_last(run.operations, len(run.operations) // 2)
    calls = first_and_last(run.calls, len(run.calls) // 2)
    return replace(
        run,
        operations=operations,
        calls=calls,
        operations_left_out=run.operations_left_out + len(run.operations) - len(operations),
        calls_left_out=run.calls_left_out + len(run.calls) - len(calls),
    )


def _with_shorter_texts(run: KeptRun) -> KeptRun:
    error = run.error
    return replace(
        run,
        input=_halved(run.input),
        output=None if run.output is None else _halved(run.output),
        stdout=_halved(run.stdout),
        error=error and replace(error, message=_halved(error.message), traceback=_halved(error.traceback)),
        hints=run.hints[: len(run.hints) // 2],
        nested=run.nested[: len(run.nested) // 2],
    )


def _halved(text: str) -> str:
    return text if len(text) <= 2 else text[: len(text) // 2 - 1] + "…"


def _text_of(run: KeptRun) -> bytes:
    return _encoded({"format": RUN_FORMAT, **{each.name: getattr(run, each.name) for each in fields(run)}})


def _encoded(facts: dict[str, object]) -> bytes:
    from msgspec import json

    return json.encode(facts)
