"""Operations on tags, labels under which cached values of any namespace are deleted together."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from redis_store.errors import DeletedSoFar
from redis_store.flows.flow import Do
from redis_store.limits import TAG_ENTRY_BYTES, UNBOUNDED
from redis_store.namespace.keys import UserKeys, decode_name
from redis_store.namespace.scope import Scope
from redis_store.ops.compute_once import tag_name
from redis_store.ops.run_script import KINDS_OF_SCRIPT_KEYS, run_checked, run_script
from redis_store.protocol.call import read
from redis_store.scripts import BURDEN, DELETE

PAGE = 1000
FIRST_PAGE = 100
"""Sizes of a page, in members of the tag: few if the last page was long, or it is not known how long they are."""

LONG_MEMBER_BYTES = 2048
"""Size of the members of a page, on average, above which the next page is a small one."""

MEMBER_COPIES = 8
"""How many times the server copies a member, with the names in it, until the value is deleted."""


class Invalidated(NamedTuple):
    """The number of values that were deleted, and of entries kept in namespaces that may not be written; some may be stale."""

    deleted: int
    kept: int


async def invalidate_tag(scope: Scope, tag: str) -> int:
    """The flow of `DataStore.invalidate_tag`."""
    return (await invalidate(scope, tag)).deleted


async def invalidate(scope: Scope, tag: str) -> Invalidated:
    """Delete every value that carried a tag at the start, page by page.

    Those in namespaces that may not be written are kept, and no error names them.
    """
    keys, raw = tag_name(scope, tag)
    scope.check_writes_somewhere()
    cursor, count, kept = b"0", FIRST_PAGE, 0
    with DeletedSoFar() as deleted:
        while True:
            cursor, flat = await Do(_page(keys, raw, cursor, count))
            members = flat[::2]
            for name, fields in _by_namespace(members).items():
                if not scope.access.may_write(decode_name(name)):
                    kept += len(fields)
                else:
                    place = scope.moved(decode_name(name))
                    for part in await Do(_parts(place, fields)):
                        deleted.add(await Do(_delete(place, keys.tag(raw), part)))
            size_bytes = sum(map(len, members))
            scope.bounds.note_moved(MEMBER_COPIES * size_bytes + TAG_ENTRY_BYTES * len(members))
            if cursor == b"0":
                return Invalidated(deleted.count, kept)
            count = PAGE if size_bytes <= LONG_MEMBER_BYTES * len(members) else FIRST_PAGE


async def _page(keys: UserKeys, raw: bytes, cursor: bytes, count: int) -> Any:
    return await read("ZSCAN", keys.tag(raw), cursor, "COUNT", count, bulk=True)


def _by_namespace(members: list[bytes]) -> dict[bytes, list[bytes]]:
    """Return the fields of a tag's members, each once, by namespace name."""
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for member in dict.fromkeys(members):
        length, _, rest = member.partition(b":")
        name_bytes = int(length)
        found[rest[:name_bytes]].append(rest[name_bytes + 1 :])
    return found


async def _parts(scope: Scope, fields: list[bytes]) -> list[list[bytes]]:
    """Return the fields that are deleted in one step: all, or one by one if their values are so big that this takes time."""
    if scope.bounds is UNBOUNDED:
        return [fields]
    _, freed_bytes = await run_script(BURDEN, (scope.keys.data, scope.keys.info), (0, 0, *fields), repeatable=True)
    return [[field] for field in fields] if freed_bytes > scope.bounds.freed_bytes else [fields]


async def _delete(scope: Scope, redis_key: bytes, fields: list[bytes]) -> int:
    """Delete values and their entries in the tag in one step, so that a later tagging is not undone."""
    keys, kinds = (*scope.delete_keys, redis_key), (*KINDS_OF_SCRIPT_KEYS, b"zset")
    return int(await run_checked(DELETE, keys, kinds, (*scope.script_head, "", *fields)))
