"""Changes by optimism: made from what stands there, written if it still does, tried again if not.

Who carries out the single steps is another's business: `ops` against a server, the sandbox's child through its broker, for
which this imports nothing but `errors` and `flows.flow`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from redis_store.errors import Conflict, InvalidInput, InvalidType, LimitExceeded
from redis_store.flows.flow import FIRST_PAUSE_S, Ask, Do, Pause, Rand, next_pause, spread

if TYPE_CHECKING:
    from redis_store.protocol.call import Op

UPDATE_TRIES = 200
"""How often a change is tried while others change the same key; with the pauses between, for about 10 seconds."""

TRIES_AT_ONCE = 3
"""So many tries follow each other without a pause."""

MAX_PARTS = 1000
"""So many reads and writes one transaction may have; the server does nothing else while it carries them out."""


T = TypeVar("T")
D = TypeVar("D")

Look: TypeAlias = "Callable[[], Op[bytes | None]]"
"""Reads the bytes that stand there, None where none do."""

Change: TypeAlias = "Callable[[bytes | None], Awaitable[bytes]]"
"""Gives the new bytes of a value for those that stand there, None where none do."""

Replace: TypeAlias = "Callable[[bytes, bytes | None], Op[Literal[True] | bytes | None]]"
"""Writes bytes if those others stand there, None for nothing; gives True, or else what does."""


async def change_value(
    key: str, there: bytes | None, look: Look, change: Change, replace: Replace, rand: Rand
) -> bytes:
    """The flow that writes what `change` makes of what is there, again while others write; returns what was written."""
    pause_s = FIRST_PAUSE_S / 2
    for attempt in range(UPDATE_TRIES):
        if attempt >= TRIES_AT_ONCE:
            await Pause(spread(pause_s, rand))
            pause_s = next_pause(pause_s)
            there = await Do(look())  # what stood there before the pause is what others write over by now
        text = await change(there)
        found = await Do(replace(text, there))
        if found is True:
            return text
        there = found
    raise Conflict(f"The key {key!r} was changed by others at each of {UPDATE_TRIES} tries: nothing was written.")


async def transact(
    begin: Callable[[], D],
    view: Callable[[D], Any],
    function: Callable[..., Awaitable[T] | T],
    commit: Callable[[D], Op[None]],
    rand: Rand,
) -> T:
    """The flow that runs a function with a new transaction until nobody has disturbed it."""
    if not callable(function):
        raise InvalidType(f"transact runs a function of a transaction, not {kind_of(function)}.")
    pause_s = FIRST_PAUSE_S / 2
    for attempt in range(UPDATE_TRIES):
        if attempt >= TRIES_AT_ONCE:
            await Pause(spread(pause_s, rand))
            pause_s = next_pause(pause_s)
        draft = begin()
        result: T = await Ask[T](function, (view(draft),))
        try:
            await Do(commit(draft))
        except Conflict as conflict:
            last = conflict
        else:
            return result
    raise last


def check_function(function: object) -> None:
    """Raise `InvalidType` for what cannot make a new value of an old one."""
    if not callable(function):
        raise InvalidType(f"A key is updated by a function of its value, not by {kind_of(function)}.")


def check_max_items(value: object) -> int:
    """Check how many items a list may keep."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(f"max_items must be a whole number, not {kind_of(value)}.")
    if value < 1:
        raise InvalidInput(f"max_items must be at least 1, not {value}.")
    return int(value)


def check_open(begun: bool, over: bool) -> None:
    """Raise `InvalidInput` where a transaction has not begun, so that nothing would be written, or has ended."""
    if over:
        raise InvalidInput("This transaction is over: begin another one.")
    if not begun:
        raise InvalidInput("This transaction has not begun: use it as `with data_store.transaction() as transaction:`.")


def check_parts(count: int) -> None:
    """Raise `LimitExceeded` where a transaction has read and would write too much."""
    if count > MAX_PARTS:
        raise LimitExceeded(
            f"The transaction has more than {MAX_PARTS:,} reads and writes: make it smaller, or use set_many.",
            limit="max_transaction_parts",
            limit_count=MAX_PARTS,
            size_bytes=count,
        )


def changed_since_read(namespace: str, key: str) -> Conflict:
    """The error of a transaction that no longer stands on what it has read."""
    return Conflict(
        f"The key {key!r} in namespace {namespace!r} was changed by others after this transaction had read it: nothing was"
        " written. Run it again.",
        namespace=namespace,
        key=key,
    )


def kind_of(value: object) -> str:
    """Say of what kind a value is, as a part of a sentence."""
    return "null" if value is None else f"a {type(value).__name__}"
