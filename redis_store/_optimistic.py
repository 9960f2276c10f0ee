"""What changes by optimism have in common: how often they are tried, and what is said where they cannot be made.

It imports `errors` only, because the sandbox's child uses it too.
"""

from __future__ import annotations

from redis_store.errors import Conflict, InvalidInput, InvalidType, LimitExceeded

TRIES = 200
"""How often a change is tried while others change the same key; with the pauses between, for about 10 seconds."""

TRIES_AT_ONCE = 3
"""So many tries follow each other without a pause."""

MAX_PARTS = 1000
"""So many reads and writes one transaction may have; the server does nothing else while it carries them out."""


def check_function(function: object) -> None:
    """Raise `InvalidType` for what cannot make a new value of an old one."""
    if not callable(function):
        raise InvalidType(f"A key is updated by a function of its value, not by {kind_of(function)}.")


def never_at_peace(key: str) -> Conflict:
    """The error of a change that others got in the way of at each try."""
    return Conflict(f"The key {key!r} was changed by others at each of {TRIES} tries: nothing was written.")


def check_open(over: bool) -> None:
    """Raise `InvalidInput` where a transaction has ended."""
    if over:
        raise InvalidInput("This transaction is over: begin another one.")


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
