"""The memory that the server takes for a user's namespaces, measured in steps that do not keep it from others for long."""

from __future__ import annotations

from collections.abc import Callable

from redis_store.errors import UnsupportedByServer
from redis_store.namespace.keys import decode_name
from redis_store.namespace.scope import Scope
from redis_store.ops.listing import START
from redis_store.ops.run_script import run_script
from redis_store.protocol.call import read
from redis_store.scripts import USAGE

NAMESPACES_PER_STEP = 100

FIELDS_MEASURED = 10_000
"""Limit of the fields of one hash that are measured; the rest of a bigger one is estimated from as many."""

FIELDS_PER_STEP = 20_000
"""Fields after which a step ends: measuring as many takes the server a few ms."""

REGISTRY_BYTES = 100
"""Memory of an entry in the registry beside the name, and of the names of Redis keys in the server's tables, in bytes."""


async def stored_bytes(scope: Scope, counts: Callable[[str], bool], most_bytes: int) -> int:
    """Return the memory of the namespaces that `counts` chooses: their data, info, claims and change logs.

    Ends early once it exceeds `most_bytes`, and returns what was found until then.
    """
    total, cursor, met = 0, START, set[bytes]()
    while True:
        raw, page = await read("SSCAN", scope.keys.registry, cursor, "COUNT", NAMESPACES_PER_STEP)
        cursor = raw.decode()
        names = [name for name in page if name not in met and counts(decode_name(name))]
        met.update(names)
        while names:
            sizes = await _measure(scope, names[:NAMESPACES_PER_STEP])
            total += sum(sizes) + sum(REGISTRY_BYTES + len(name) for name in names[: len(sizes)])
            names = names[len(sizes) :]
            if total > most_bytes:
                return total
        if cursor == START:
            return total


async def _measure(scope: Scope, names: list[bytes]) -> list[int]:
    """Return the memory of the first of these namespaces, at least of one."""
    every = [scope.user.of_stored(name) for name in names]
    keys = tuple(key for one in every for key in (one.data, one.info, one.flight, one.log, one.seen))
    sizes: list[int] = await run_script(USAGE, keys, (FIELDS_MEASURED, FIELDS_PER_STEP), repeatable=True)
    if sizes[0] < 0:
        raise UnsupportedByServer("The server does not report how much memory a key takes (MEMORY USAGE).")
    return sizes
