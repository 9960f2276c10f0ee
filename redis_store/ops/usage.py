"""The memory that the server takes for a user's namespaces, and for what agents store beside them, measured in short steps.

Locks, limits, tags, cursors of consumers, and the logs and claims of namespaces that hold no data belong to no registry. So an
agent with a quota lists each before it is stored, by the end of its Redis key: ``lock:<name>``, ``own:<agent>:tag:<name>``, and
``ns:<name>`` for a namespace. Measuring removes from the list what is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from redis_store.errors import UnsupportedByServer
from redis_store.limits import ANY_SIZE
from redis_store.namespace.keys import UserKeys, decode_name, encode_key
from redis_store.namespace.scope import Scope
from redis_store.ops.listing import START
from redis_store.ops.run_script import run_script
from redis_store.protocol.call import read
from redis_store.scripts import BESIDE, REPLACED, SWEEP, USAGE

NAMES_PER_STEP = 100

FIELDS_MEASURED = 10_000
"""Limit of the fields or members of one Redis key that are measured; the rest of a bigger one is estimated from as many."""

FIELDS_PER_STEP = 20_000
"""Fields after which a step ends: measuring as many takes the server a few ms."""

REGISTRY_BYTES = 100
"""Memory of an entry in the registry beside the name, and of the names of Redis keys in the server's tables, in bytes."""

LISTED_MS = 20_000
"""Time for which a name stays listed although nothing is stored under it, in ms: it may be stored soon."""

WATCHED_BYTES = 8_000
"""Bound on what watching a namespace counts that the agent may not write, beside three times its name: others fill its log."""

KEYS_PER_STEP = 500

FIELDS_PER_QUESTION = 1000

SWEPT_PER_STEP = 500
SWEEPS = 20
"""Limit of the steps in which one measurement checks members of tags, those that were checked longest ago."""

_NAMESPACE = b"ns:"
_QUEUED = (b"lock", b"limit")


class Overwritten(NamedTuple):
    """What a write replaces."""

    keys: int
    name_bytes: int
    value_bytes: int


async def stored_bytes(scope: Scope, counts: Callable[[str], bool], most_bytes: int) -> int:
    """Return the memory of the namespaces that `counts` chooses, and of what the scope's agent has listed beside them.

    A namespace's memory is that of its data, info, claims and change log. Ends early once the sum exceeds `most_bytes`, and
    returns what was found until then; but removes dead members of tags first, if there are any.
    """
    total = await _stored_bytes(scope, counts, most_bytes)
    return total if total <= most_bytes or not await _sweep(scope) else await _stored_bytes(scope, counts, most_bytes)


async def _stored_bytes(scope: Scope, counts: Callable[[str], bool], most_bytes: int) -> int:
    total, cursor, met = 0, START, set[bytes]()
    while True:
        raw, page = await read("SSCAN", scope.keys.registry, cursor, "COUNT", NAMES_PER_STEP)
        cursor = raw.decode()
        names = [name for name in page if name not in met and counts(decode_name(name))]
        met.update(names)
        for start in range(0, len(names), NAMES_PER_STEP):
            part = names[start : start + NAMES_PER_STEP]
            total += sum(REGISTRY_BYTES + len(name) for name in part)
            keys = [key for name in part for key in _of_namespace(scope.user, name)]
            total += sum(await _sizes(keys, most_bytes - total))
            if total > most_bytes:
                return total
        if cursor == START:
            return await _with_listed(scope, counts, most_bytes, total, met)


async def _sweep(scope: Scope) -> int:
    """Check members of the agent's tags, some at a time, and return how many of values that are gone were deleted."""
    names, total = scope.access.names, 0
    registry = (scope.user if names.tags is not None else scope.user.own(names.agent)).tags
    tags = await read("ZCARD", registry)
    for step in range(SWEEPS):
        deleted = await run_script(SWEEP, (registry,), (SWEPT_PER_STEP,))
        total += deleted
        if deleted < SWEPT_PER_STEP // 2 and (step + 1) * SWEPT_PER_STEP >= tags:
            break
    return total


async def list_beside(scope: Scope, names: Sequence[bytes]) -> None:
    """List what the agent is about to store beside the data."""
    await run_script(BESIDE, (scope.user.beside(scope.access.names.agent),), ("", *names))


async def replaced(scope: Scope, keys: Sequence[str]) -> Overwritten:
    """Return what a write of these keys would replace; nothing in a watched namespace."""
    fields = tuple(map(encode_key, dict.fromkeys(keys)))
    found = Overwritten(0, 0, 0)
    for start in range(0, len(fields), FIELDS_PER_QUESTION):
        some = fields[start : start + FIELDS_PER_QUESTION]
        more = await run_script(REPLACED, (scope.keys.data, scope.keys.log), some, repeatable=True)
        found = Overwritten(*map(sum, zip(found, more, strict=True)))
    return found


async def _with_listed(
    scope: Scope, counts: Callable[[str], bool], most_bytes: int, total: int, measured: set[bytes]
) -> int:
    """Add what is listed to a total, except for namespaces that were `measured`; and remove what is gone from the list."""
    listed, cursor, met = scope.user.beside(scope.access.names.agent), START, set[bytes]()
    total += sum(await _sizes([listed]))
    while total <= most_bytes:
        raw, page = await read("ZSCAN", listed, cursor, "COUNT", NAMES_PER_STEP)
        cursor = raw.decode()
        names = [name for name in page[::2] if name not in met and name.removeprefix(_NAMESPACE) not in measured]
        met.update(names)
        keys = {name: _of_listed(scope.user, name) for name in names}
        sizes = iter(await _sizes([key for some in keys.values() for key in some]))
        taken = {name: sum(islice(sizes, len(some))) for name, some in keys.items()}
        total += sum(_counted(name, size, counts) for name, size in taken.items())
        if gone := [name for name, size in taken.items() if not size]:
            await run_script(BESIDE, (listed,), (LISTED_MS, *gone))
        if cursor == START:
            break
    return total


def _counted(listed: bytes, size: int, counts: Callable[[str], bool]) -> int:
    """Return what a listed name counts: that of a namespace that the agent may not write counts no more than one watch."""
    name = listed.removeprefix(_NAMESPACE)
    if name is listed or counts(decode_name(name)):
        return size
    return min(size, WATCHED_BYTES + 3 * len(name))


async def _sizes(keys: Sequence[bytes], most_bytes: int = ANY_SIZE) -> list[int]:
    """Return the memory of Redis keys, or of the first of them if they exceed `most_bytes` together."""
    sizes: list[int] = []
    while len(sizes) < len(keys) and sum(sizes) <= most_bytes:
        some = tuple(keys[len(sizes) : len(sizes) + KEYS_PER_STEP])
        found = await run_script(USAGE, some, (FIELDS_MEASURED, FIELDS_PER_STEP), repeatable=True)
        if found[0] < 0:
            raise UnsupportedByServer("The server does not report how much memory a key takes (MEMORY USAGE).")
        sizes += found
    return sizes


def _of_namespace(user: UserKeys, name: bytes) -> tuple[bytes, ...]:
    keys = user.of_stored(name)
    return keys.data, keys.info, keys.flight, keys.log, keys.seen


def _of_listed(user: UserKeys, name: bytes) -> tuple[bytes, ...]:
    """Return the Redis keys that a listed name stands for."""
    if name.startswith(_NAMESPACE):
        keys = user.of_stored(name.removeprefix(_NAMESPACE))
        return keys.flight, keys.log, keys.seen
    own, rest = b"", name
    if name.startswith(b"own:"):
        agent, _, rest = name.removeprefix(b"own:").partition(b":")
        own = b"own:%b:" % agent
    kind, _, plain = rest.partition(b":")
    key = user.prefix + name
    if kind not in _QUEUED:
        return (key,)
    return (
        key,
        b"%b%bqueue:%b:%b" % (user.prefix, own, kind, plain),
        b"%b%btries:%b:%b" % (user.prefix, own, kind, plain),
    )
