"""Sequences: lists of any length whose items are the values of a namespace, for threads and for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from redis_store.limits import check_whole
from redis_store.types import MISSING, Json, JsonInput


class SequenceCalls(Protocol):
    """What a sequence needs of a store's operations; `call` returns an awaitable for asyncio."""

    @property
    def namespace(self) -> str: ...
    def call(self, operation: str, *arguments: Any) -> Any: ...


class StoredSequence:
    """A list of any length, stored as a namespace of the user: each item is a value, and its key is its position, of 16 digits.

    Made by `DataStore.sequence`. An item's position does not change, and begins at 0. Everything that works on namespaces works
    on it: listing, `info`, `watch`, a ttl, permissions and quotas. Items that were deleted as keys are left out.
    """

    def __init__(self, calls: SequenceCalls, max_items: int | None) -> None:
        self._calls = calls
        self._max_items = max_items

    @property
    def name(self) -> str:
        """The name of the sequence, and of its namespace."""
        return self._calls.namespace

    def append(self, *items: JsonInput) -> int:
        """Append items, at most 1,000, all or none, and return the position for the next item.

        That is the sequence's length, unless items were deleted, expired, or removed because of `max_items`. Readers see all of
        the items or none.
        """
        if self._max_items is None:
            return int(self._calls.call("sequence_append", items))
        return int(self._calls.call("sequence_append_bounded", items, self._max_items))

    def last(self, n: int) -> list[Json]:
        """Return the items at the last `n` positions, in order: up to 1,000 in one round trip if they take at most 1 MiB."""
        return list(self._calls.call("sequence_last", check_whole(n, "n")).values())

    def range(self, start: int = 0, stop: int | None = None) -> list[Json]:
        """Return the items at the positions from `start` to before `stop`, in order; None stands for the end.

        More than 1,000, or 1 MiB, are read in several steps: an item that is deleted meanwhile may be missing.
        """
        stop = None if stop is None else check_whole(stop, "stop")
        return list(self._calls.call("sequence_range", check_whole(start, "start"), stop).values())

    def pop(self, default: Any = MISSING) -> Json:
        """Delete the last item and return it. If there is none, return `default`, or raise IndexError without one.

        Of concurrent callers, one gets the item. It is decoded before it is deleted. Raises `Conflict` if others change the end
        of the sequence at each of 1,000 tries.
        """
        value = self._calls.call("sequence_pop")
        if value is not MISSING:
            return value
        if default is MISSING:
            raise _empty(self.name)
        return default

    def count(self) -> int:
        """Return the number of items."""
        return int(self._calls.call("count"))

    def clear(self) -> int:
        """Delete every item and return how many were deleted. The next one gets position 0."""
        return int(self._calls.call("clear"))

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[Json]:
        """Iterate over the items in order, page by page. Items that are appended meanwhile may come too."""
        start = "0"
        while start:
            start, page = self._calls.call("sequence_page", int(start))
            yield from page.values()

    def __repr__(self) -> str:
        return f"<StoredSequence {self.name!r}>"


class AsyncStoredSequence:
    """A list of any length, stored as a namespace of the user: each item is a value, and its key is its position, of 16 digits.

    Made by `AsyncDataStore.sequence`. The methods are those of `StoredSequence`, awaited; `count` is its length.
    """

    def __init__(self, calls: SequenceCalls, max_items: int | None) -> None:
        self._calls = calls
        self._max_items = max_items

    @property
    def name(self) -> str:
        """The name of the sequence, and of its namespace."""
        return self._calls.namespace

    async def append(self, *items: JsonInput) -> int:
        """Append items, at most 1,000, all or none, and return the position for the next item.

        That is the sequence's length, unless items were deleted, expired, or removed because of `max_items`. Readers see all of
        the items or none.
        """
        if self._max_items is None:
            return int(await self._calls.call("sequence_append", items))
        return int(await self._calls.call("sequence_append_bounded", items, self._max_items))

    async def last(self, n: int) -> list[Json]:
        """Return the items at the last `n` positions, in order: up to 1,000 in one round trip if they take at most 1 MiB."""
        return list((await self._calls.call("sequence_last", check_whole(n, "n"))).values())

    async def range(self, start: int = 0, stop: int | None = None) -> list[Json]:
        """Return the items at the positions from `start` to before `stop`, in order; None stands for the end.

        More than 1,000, or 1 MiB, are read in several steps: an item that is deleted meanwhile may be missing.
        """
        stop = None if stop is None else check_whole(stop, "stop")
        return list((await self._calls.call("sequence_range", check_whole(start, "start"), stop)).values())

    async def pop(self, default: Any = MISSING) -> Json:
        """Delete the last item and return it. If there is none, return `default`, or raise IndexError without one.

        Of concurrent callers, one gets the item. It is decoded before it is deleted. Raises `Conflict` if others change the end
        of the sequence at each of 1,000 tries.
        """
        value = await self._calls.call("sequence_pop")
        if value is not MISSING:
            return value
        if default is MISSING:
            raise _empty(self.name)
        return default

    async def count(self) -> int:
        """Return the number of items."""
        return int(await self._calls.call("count"))

    async def clear(self) -> int:
        """Delete every item and return how many were deleted. The next one gets position 0."""
        return int(await self._calls.call("clear"))

    async def __aiter__(self) -> AsyncIterator[Json]:
        """Iterate over the items in order, page by page. Items that are appended meanwhile may come too."""
        start = "0"
        while start:
            start, page = await self._calls.call("sequence_page", int(start))
            for item in page.values():
                yield item

    def __repr__(self) -> str:
        return f"<AsyncStoredSequence {self.name!r}>"


def _empty(name: str) -> IndexError:
    return IndexError(f"The sequence {name!r} is empty: pass a default to pop, or ask for its length first.")
