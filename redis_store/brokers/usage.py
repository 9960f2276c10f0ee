"""The memory of namespaces that an agent fills, for its quota."""

from __future__ import annotations

from collections.abc import Callable

from redis_store.operations import operations_of
from redis_store.ops import usage
from redis_store.store import DataStore


def stored_bytes(store: DataStore, counts: Callable[[str], bool], most_bytes: int) -> int:
    """Return the server memory of the user's namespaces that `counts` chooses, whatever the store may read.

    Ends early once it exceeds `most_bytes`, and returns what was found until then.
    """
    on = operations_of(store)
    return on.run(usage.stored_bytes(on.scope, counts, most_bytes))
