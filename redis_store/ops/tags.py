"""Operations on tags, labels under which cached values of any namespace are deleted together."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from redis_store.errors import DeletedSoFar
from redis_store.flows.flow import Do
from redis_store.namespace.keys import decode_name
from redis_store.namespace.scope import Scope
from redis_store.ops.compute_once import tag_key
from redis_store.ops.run_script import KINDS_OF_SCRIPT_KEYS, run_checked
from redis_store.protocol.call import read
from redis_store.scripts import DELETE

PAGE = 1000
KEYS_PER_SCRIPT = 1000


class Invalidated(NamedTuple):
    """The number of values that were deleted, and of entries kept in namespaces that may not be written; some may be stale."""

    deleted: int
    kept: int


async def invalidate_tag(scope: Scope, tag: str) -> int:
    """The flow of `DataStore.invalidate_tag`."""
    return (await invalidate(scope, tag)).deleted


async def invalidate(scope: Scope, tag: str) -> Invalidated:
    """Delete the values with a tag. Those in namespaces that may not be written are kept, and no error names them."""
    redis_key = tag_key(scope, tag)
    scope.check_writes_somewhere()
    places = [(decode_name(name), fields) for name, fields in (await Do(_tagged(redis_key))).items()]
    tagged = [(name, fields) for name, fields in places if scope.access.may_write(name)]
    with DeletedSoFar() as deleted:
        for name, fields in tagged:
            place = scope.moved(name)
            for start in range(0, len(fields), KEYS_PER_SCRIPT):
                deleted.add(await Do(_delete(place, redis_key, fields[start : start + KEYS_PER_SCRIPT])))
    return Invalidated(
        deleted.count, sum(len(fields) for _, fields in places) - sum(len(fields) for _, fields in tagged)
    )


async def _tagged(redis_key: bytes) -> dict[bytes, list[bytes]]:
    """Return the fields that carry a tag, by namespace name. It includes every field that carried the tag at the start."""
    found: dict[bytes, dict[bytes, None]] = defaultdict(dict)
    cursor = b"0"
    while True:
        cursor, flat = await read("ZSCAN", redis_key, cursor, "COUNT", PAGE, bulk=True)
        for member in flat[::2]:
            length, _, rest = member.partition(b":")
            name_bytes = int(length)
            found[rest[:name_bytes]][rest[name_bytes + 1 :]] = None
        if cursor == b"0":
            return {name: list(fields) for name, fields in found.items()}


async def _delete(scope: Scope, redis_key: bytes, fields: list[bytes]) -> int:
    """Delete values and their entries in the tag in one step, so that a later tagging is not undone."""
    keys, kinds = (*scope.delete_keys, redis_key), (*KINDS_OF_SCRIPT_KEYS, b"zset")
    return int(await run_checked(DELETE, keys, kinds, (*scope.script_head, "", *fields)))
