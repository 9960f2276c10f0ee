"""The memory of namespaces that an agent fills, and of what it stores beside them, for its quota."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redis_store.operations import operations_of
from redis_store.ops import usage
from redis_store.ops.usage import Overwritten
from redis_store.store import DataStore

__all__ = ["Overwritten", "list_beside", "listed_name", "replaced", "stored_bytes"]

_RIGHT_OF_KIND = {"lock": "locks", "limit": "locks", "rate": "limits", "tag": "tags", "consumer": "consumers"}
"""Kinds of things beside the data, and the field of `Names` that says whose their names are."""


def stored_bytes(store: DataStore, counts: Callable[[str], bool], most_bytes: int) -> int:
    """Return the server memory of the user's namespaces that `counts` chooses, whatever the store may read.

    What the store's agent has listed beside them counts too. Ends early once the sum exceeds `most_bytes`, and returns what was
    found until then.
    """
    on = operations_of(store)
    return on.run(usage.stored_bytes(on.scope, counts, most_bytes))


def listed_name(store: DataStore, kind: str, name: str) -> bytes:
    """Return the name under which something beside the data is listed; raises `AccessDenied` if the agent may not use it.

    `kind` is that of its Redis key (``lock``, ``limit``, ``rate``, ``tag``, ``consumer``), or ``ns`` for a namespace.
    """
    scope = operations_of(store).scope
    user = scope.user if kind == "ns" else scope.keys_of_name(_RIGHT_OF_KIND[kind], name)
    return b"%b%b:%b" % (user.own_part, kind.encode(), name.encode())


def list_beside(store: DataStore, names: Sequence[bytes]) -> None:
    """List what the store's agent is about to store beside the data."""
    on = operations_of(store)
    on.run(usage.list_beside(on.scope, names))


def replaced(store: DataStore, keys: Sequence[str]) -> Overwritten:
    """Return what a write of these keys would replace; nothing in a watched namespace."""
    on = operations_of(store)
    return on.run(usage.replaced(on.scope, keys))
