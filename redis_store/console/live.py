"""Live changes: the rows that an open page gets as events, in batches, so that it stays responsive under many changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from redis_store.aio import AsyncDataStore
from redis_store.console.shared import Console
from redis_store.errors import DataStoreError, StoredDataError, StoreUnavailable
from redis_store.types import Change
from redis_store.watch.aio import AsyncWatch
from sandbox.masking import preview

ROWS_PER_BATCH = 200
"""Changes of one batch that are shown, at most. Of more, the newest are shown, and the others counted."""

TAKEN_PER_BATCH = 10_000
"""Changes that are taken for one batch, at most."""

BATCH_S = 0.016
"""Time between two batches, in seconds: that of a frame on the screen."""

LONGEST_TAKE_S = 0.5
"""Time for which a batch is waited for before the page's end is looked for, in seconds."""

SILENCE_BEFORE_PING_S = 2.0
"""Time without a change after which the server is asked whether it is there, in seconds."""

PAUSE_AFTER_OUTAGE_S = 1.0
"""Time between two attempts to begin to watch, in seconds."""


@dataclass(frozen=True, slots=True)
class ShownChange:
    """A change, or the error in its place, as a row shows it."""

    at: datetime
    """Time at which it reached the console."""
    found: Change | StoredDataError

    @property
    def change(self) -> Change | None:
        return self.found if isinstance(self.found, Change) else None

    @property
    def value(self) -> str:
        """The beginning of the value with secrets masked, as in timelines; of a reset, what was lost; or the error."""
        one = self.found
        if not isinstance(one, Change):
            return str(one)
        if one.op == "reset":
            return "" if one.value is None else f"{one.value:,} changes were not kept"
        return preview(_json(one.value), one.key) if one.op == "set" else ""

    @property
    def text(self) -> str:
        """What a filter searches, in small letters."""
        one = self.change
        names = () if one is None else (one.op, one.namespace, one.key or "", one.agent or "", one.run or "")
        return "\n".join((*names, self.value)).casefold()


async def events(
    console: Console, store: AsyncDataStore, namespace: str | None, wanted: str, row: Callable[[ShownChange], str]
) -> AsyncIterator[str]:
    """Yield the events of one page until it or the console ends: rows as `row` makes them, and what became of the server."""
    watch = store.watch_all() if namespace is None else store.watch()
    try:
        state = ""
        while not console.ending.is_set():
            try:
                await console.admin.client.ping()
                await watch.begin()
                if state != "live":
                    state = "live"
                    yield event("state", "live")
                async for batch in _batches(console, watch):
                    rows = _rows(batch, wanted, row)
                    yield event("rows", *rows) if rows else ":\n\n"
            except StoreUnavailable:
                if state != "lost":
                    state = "lost"
                    yield event("state", "lost")
                await _pause(console, PAUSE_AFTER_OUTAGE_S)
            except DataStoreError as error:
                yield event("ended", str(error))
                return
    finally:
        await watch.close()


async def _batches(console: Console, watch: AsyncWatch) -> AsyncIterator[list[Change | StoredDataError]]:
    """Yield the changes as they come, and none now and then. Raises `StoreUnavailable` when the server is gone."""
    asked = time.monotonic()
    while not console.ending.is_set():
        found: list[Change | StoredDataError] = []
        try:
            found += await watch.take(TAKEN_PER_BATCH, LONGEST_TAKE_S)
        except StoredDataError as error:
            found.append(error)
        if found:
            asked = time.monotonic()
            yield found
            await asyncio.sleep(BATCH_S)
        elif time.monotonic() - asked > SILENCE_BEFORE_PING_S:
            await console.admin.client.ping()
            asked = time.monotonic()
            yield []


def _rows(batch: list[Change | StoredDataError], wanted: str, row: Callable[[ShownChange], str]) -> list[str]:
    """Return the number of changes of a batch that a page would show, then the newest of them as rows."""
    at, needle = datetime.now(UTC), wanted.casefold()
    found = [ShownChange(at, change) for change in batch]
    if needle:
        found = [one for one in found if needle in one.text]
    return [str(len(found)), *map(row, found[-ROWS_PER_BATCH:])] if found else []


def event(name: str, *lines: str) -> str:
    """Return a server-sent event. A line of its data must hold no end of a line."""
    return "".join((f"event: {name}\n", *(f"data: {' '.join(line.splitlines())}\n" for line in lines), "\n"))


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(value, ensure_ascii=False).encode()


async def _pause(console: Console, seconds: float) -> None:
    """Wait, unless the console ends."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await console.ending.wait()
