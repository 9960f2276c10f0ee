"""Optimistic updates: computed from the current value, written if it is still current, tried again if not.

The caller supplies the single steps: `ops` runs them on a server, the sandbox's child through its broker. For the child's sake
this module imports only `errors`, `types`, `flows.flow` and `values.rules`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from redis_store.errors import Conflict, InvalidInput, InvalidType, LimitExceeded
from redis_store.flows.flow import FIRST_PAUSE_S, Ask, Do, Pause, Rand, next_pause, spread
from redis_store.types import MISSING, Missing
from redis_store.values.rules import one

if TYPE_CHECKING:
    from redis_store.protocol.call import Op

UPDATE_TRIES = 200
"""Maximum number of tries of an update while other callers change the same key; with pauses, about 10 seconds."""

POP_TRIES = 1000
"""Maximum number of tries to delete a value that was read, while other callers change it; each is one round trip."""

TRIES_AT_ONCE = 3
"""Number of tries without a pause before them."""

MAX_PARTS = 1000
"""Maximum number of reads and writes in a transaction; the server does nothing else while it carries them out."""


T = TypeVar("T")


class Committed(Protocol):
    """A draft of a transaction."""

    async def commit(self) -> None: ...


D = TypeVar("D", bound=Committed)

Look: TypeAlias = "Callable[[], Op[bytes | None]]"
"""Reads the current bytes of a value, None if there is none."""

Change: TypeAlias = "Callable[[bytes | None], Awaitable[bytes]]"
"""Computes the new bytes of a value from the current ones, None if there are none."""

Replace: TypeAlias = "Callable[[bytes, bytes | None], Op[Literal[True] | bytes | None]]"
"""Writes new bytes if the given ones are current (None: there is no value). Returns True, or else the current bytes."""


class TransactionParts(NamedTuple):
    """The reads and writes of a transaction, by namespace and key, as a broker passes them on."""

    reads: list[tuple[str, str, Any]]
    """Each with the value that was read, or `MISSING`."""
    sets: list[tuple[str, str, Any, float | None]]
    """Each with its value and its ttl in seconds."""
    deletes: list[tuple[str, str]]
    max_keys: dict[str, int]
    """The maximum number of keys of namespaces."""
    checks: Sequence[tuple[str, str, int]] = ()
    """Each with the version that the key must have."""


async def change_value(
    key: str, there: bytes | None, look: Look, change: Change, replace: Replace, rand: Rand
) -> bytes:
    """Write the result of `change` for the current value, trying again if it changed meanwhile. Return the written bytes."""
    pause_s = FIRST_PAUSE_S / 2
    for attempt in range(UPDATE_TRIES):
        if attempt >= TRIES_AT_ONCE:
            await Pause(spread(pause_s, rand))
            pause_s = next_pause(pause_s)
            there = await Do(look())  # the value read before the pause is likely out of date
        text = await change(there)
        found = await Do(replace(text, there))
        if found is True:
            return text
        there = found
    raise Conflict(
        f"The key {key!r} was changed by other callers during each of {UPDATE_TRIES} tries: nothing was written."
    )


async def pop_value(
    key: str, take: Callable[[bytes | None], Awaitable[Literal[True] | bytes | None]], decode: Callable[[bytes], T]
) -> T | Missing:
    """Delete a value and return it, or `MISSING`. It is decoded first, so that no value is deleted that cannot be read.

    `take` deletes the bytes that it is given if they are current, and returns True, or else the current ones.
    """
    there = await take(None)
    for _ in range(POP_TRIES):
        if not isinstance(there, bytes):
            return MISSING
        value = decode(there)
        there = await take(there)
        if there is True:
            return value
    raise Conflict(f"The key {key!r} was changed by other callers at each of {POP_TRIES:,} tries: nothing was deleted.")


async def transact(
    begin: Callable[[], D],
    view: Callable[[D], Any],
    function: Callable[..., Awaitable[T] | T],
    rand: Rand,
) -> T:
    """The flow of `DataStore.transact`: call a function with a new draft until it commits, at most `UPDATE_TRIES` times."""
    if not callable(function):
        raise not_a_function("transact", "a function of a transaction", function, "write `lambda tx: ...`, or a def")
    pause_s = FIRST_PAUSE_S / 2
    for attempt in range(UPDATE_TRIES):
        if attempt >= TRIES_AT_ONCE:
            await Pause(spread(pause_s, rand))
            pause_s = next_pause(pause_s)
        draft = begin()
        result: T = await Ask[T](function, (view(draft),))
        try:
            await Do(draft.commit())
        except Conflict as conflict:
            last = conflict
        else:
            return result
    raise last


def not_a_function(name: str, wanted: str, given: object, advice: str) -> InvalidType:
    """Return the error for a value in the place of a function; a coroutine that nobody can await is closed."""
    if isinstance(given, CoroutineType):
        given.close()
    what = "None" if given is None else one(type(given))
    return InvalidType(f"{name} takes {wanted}, not {what}: {advice}.")


def check_function(function: object) -> None:
    """Raise `InvalidType` if the function of an update is not callable."""
    if not callable(function):
        raise not_a_function("update", "a function of the value", function, "write `lambda value: ...`, or use set")


def check_open(begun: bool, over: bool) -> None:
    """Raise `InvalidInput` if a transaction has not begun, so that nothing would be written, or has ended."""
    if over:
        raise InvalidInput("This transaction is over: begin another one.")
    if not begun:
        raise InvalidInput("This transaction has not begun: use it as `with data_store.transaction() as transaction:`.")


def check_parts(count: int) -> None:
    """Raise `LimitExceeded` if a transaction has too many reads and writes."""
    if count > MAX_PARTS:
        raise LimitExceeded(
            f"The transaction has {count:,} reads and writes, and at most {MAX_PARTS:,} are allowed: divide it into several, or"
            " use set_many.",
            limit="max_transaction_parts",
            limit_count=MAX_PARTS,
            size_bytes=count,
        )


def changed_since_read(namespace: str, key: str, version: int | None = None) -> Conflict:
    """Return the error for a transaction whose reads are out of date."""
    return Conflict(
        f"The key {key!r} in namespace {namespace!r} was changed by another caller after this transaction read it:"
        " nothing was written. Run it again.",
        namespace=namespace,
        key=key,
        version=version,
    )


def other_version(namespace: str, key: str, expected: int, found: int | None) -> Conflict:
    """Return the error for a key with another version than a write has expected. 0 is that of a missing key."""
    there = "has no version, because it was written by hand" if found is None else f"has version {found}"
    if found == 0:
        there = "is missing"
    wanted = f"version {expected} was expected" if expected else "it was expected to be missing"
    return Conflict(
        f"The key {key!r} in namespace {namespace!r} {there}, and {wanted}: nothing was written. Read it again.",
        namespace=namespace,
        key=key,
        version=found,
    )


def kind_of(value: object) -> str:
    """Return a value's type as part of a sentence, such as ``a list``."""
    return "null" if value is None else one(type(value))
