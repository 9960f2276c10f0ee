"""The programs that move keys: to a file, from a file, to another namespace or user, and into a namespace that was cleared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from msgspec import structs

from redis_store.admin import audit
from redis_store.admin.exporting import Digest, Place, lines_of
from redis_store.admin.importing import Imported, restore, steps_of
from redis_store.admin.lines import FIRST_LINE, Row, parse_line, row_of
from redis_store.admin.programs import At, Setting, Where, pages
from redis_store.admin.spool import Spool
from redis_store.admin.walks import readable_keys
from redis_store.errors import InvalidInput
from redis_store.namespace.keys import UserKeys, encode_prefix
from redis_store.settings import new_id

Write = Callable[[bytes], object]
"""Takes the next bytes of an export."""

NAMES_BYTES = 2 * 1024 * 1024
"""Memory for the names of namespaces until they are sorted and written to a file, in bytes."""

_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_UNESCAPED = {b"\\": b"\\", b"n": b"\n", b"t": b"\t"}


@dataclass
class Exported:
    """What an export holds."""

    keys: int
    sha256: str
    """The digest of the lines, as in the last one."""


async def export(
    setting: Setting, write: Write, user: str | None, namespace: str | None, prefix: str | None = None
) -> Exported:
    """Write the keys of all users, of one, or of one namespace, each namespace as it was at one moment."""
    if namespace is not None and user is None:
        raise InvalidInput("A namespace belongs to a user: name the user too.")
    start = encode_prefix(prefix).encode()
    if start and namespace is None:
        raise InvalidInput("A prefix selects keys of a namespace: name the namespace too.")
    write(FIRST_LINE)
    digest = Digest()
    if user is not None and namespace is not None:
        scope = setting.scope_of(user, namespace)
        await _export(setting, user, [Place(scope.user, scope.name)], digest, write, start)
    else:
        names = Spool(NAMES_BYTES)
        try:
            await _list(setting, user, names)
            for server, places in groupby(_places(names), lambda each: each[0]):
                await _export(setting, server, (place for _, place in places), digest, write)
        finally:
            names.close()
    write(digest.end())
    return Exported(digest.keys, digest.sha256)


async def _export(
    setting: Setting, where: Where, places: Iterable[Place], digest: Digest, write: Write, start: bytes = b""
) -> None:
    async for lines in pages(where, lines_of(places, epoch_of_log())):
        if start:
            lines = [line for line in lines if row_of(parse_line(line)).field.startswith(start)]
        if lines:
            write(digest.add(lines))
        setting.on_step(len(lines))


async def _list(setting: Setting, user: str | None, names: Spool) -> None:
    if user is not None:
        setting.scope_of(user)  # raises for an invalid id
    for server in range(setting.servers):
        async for page in pages(server, readable_keys(user, "hash", once=False)):  # `names` is without repetition
            found = [parts for _, parts in page if parts.kind == "ns" and parts.agent is None]
            names.add(
                # The form of the keys comes last, so that it changes nothing in the order.
                (b"%b %b %d" % (parts.keys.name_for_cursors, _escaped(parts.name), parts.tagged) for parts in found),
                (b"%d %d %b\n" % (server, parts.tagged, parts.user.encode()) for parts in found),
            )


def _places(names: Spool) -> Iterator[tuple[int, Place]]:
    for name, rest in names.sorted():
        server, tagged, user = rest.removesuffix(b"\n").split(b" ", 2)
        keys = UserKeys.of(user.decode(), hash_tag=tagged == b"1")
        yield int(server), Place(keys, _unescaped(name.split(b" ", 1)[1].rsplit(b" ", 1)[0]))


def _escaped(name: bytes) -> bytes:
    return name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\t", b"\\t")


def _unescaped(name: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: _UNESCAPED[match[1]], name)


async def import_(setting: Setting, rows: Iterable[Row], replace: bool, done: Imported) -> None:
    """Write the keys of an export, and count them in `done`."""
    await At(0, audit.note(setting.by, "import", "begun"))
    try:
        for step in steps_of(rows):
            done.add(await At(step[0].user, restore(setting.scope_of(step[0].user), step, replace)))
            setting.on_step(len(step))
    except InvalidInput as error:
        raise InvalidInput(
            f"{str(error).rstrip('.')}. Before it {done.written:,} keys were written and {done.already:,} were there already;"
            " nothing after it was read. Get the whole file and import it again: what is there already is left alone."
        ) from None
    await At(0, audit.note(setting.by, "import", count=done.written))


async def copy(setting: Setting, user: str, namespace: str, to_user: str, to_namespace: str, replace: bool) -> Imported:
    """Write all keys of a namespace, as it was at one moment, into another, of the same user or of another."""
    source, target = setting.scope_of(user, namespace), setting.scope_of(to_user, to_namespace)
    if (user, namespace) == (to_user, to_namespace):
        raise InvalidInput("A namespace cannot be copied to itself: give another name.")
    return await pour(setting, user, Place(source.user, source.name), to_user, target.name, "copy", replace)


async def pour(
    setting: Setting, user: str, place: Place, to_user: str, to_namespace: bytes, what: str, replace: bool
) -> Imported:
    """Write what is read at a place into a namespace."""
    done, scope = Imported(), setting.scope_of(to_user)
    told: dict[str, Any] = {"user": to_user, "namespace": to_namespace.decode(errors="backslashreplace")}
    await At(0, audit.note(setting.by, what, "begun", **told))
    async for lines in pages(user, lines_of([place], epoch_of_log())):
        rows = [structs.replace(row_of(parse_line(line)), user=to_user, namespace=to_namespace) for line in lines]
        for step in steps_of(rows):
            done.add(await At(to_user, restore(scope, step, replace)))
        setting.on_step(len(rows))
    await At(0, audit.note(setting.by, what, count=done.written, **told))
    return done


def epoch_of_log() -> str:
    """Return the epoch of a log that is made for a reader."""
    return new_id()[:16]
