"""The programs that change namespaces and users: clear, undo, rename, delete."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from redis_store.admin import audit
from redis_store.admin.exporting import Place
from redis_store.admin.importing import Imported
from redis_store.admin.moving import pour
from redis_store.admin.programs import At, Setting, pages
from redis_store.admin.walks import Walk, parts_of, readable_keys, redis_keys
from redis_store.errors import Conflict, DataStoreError, InvalidInput, ServerRefused, WrongKeyType
from redis_store.namespace.keys import NamespaceKeys, UserKeys
from redis_store.namespace.scope import Scope
from redis_store.ops.listing import START
from redis_store.ops.run_script import KINDS_OF_SCRIPT_KEYS, run_checked, run_script
from redis_store.protocol.call import Call, as_is
from redis_store.scripts import DISCARD, MOVE, RETAG

KEPT_MS = 86_400_000
"""Time for which a clear can be undone, in ms."""

INFOS_PER_PAGE = 500

KEYS_PER_DELETE = 500

MOST_ROUNDS = 5
"""Scans after which a user that still has something is being written to."""

ScriptHead: TypeAlias = tuple[bytes | str | int, ...]
"""The first arguments of a script that writes, as in a `Scope`; the namespace's name, which comes first, is put in its place."""

_SIGNS_OF_NAMESPACES = ("ns", "info", "log")
"""The kinds of Redis keys that show that there is, or was, a namespace."""


class KeptPlace(Place):
    """What is kept of a namespace that was cleared. Reads like a namespace."""

    @property
    def keys(self) -> NamespaceKeys:
        """The Redis keys where it is kept. No writer logs anything there."""
        return kept_keys(self.user, self.name)


def kept_keys(user: UserKeys, name: bytes) -> NamespaceKeys:
    """Return the Redis keys under which a cleared namespace is kept."""
    start = user.prefix + b"trash:"
    return NamespaceKeys(
        name,
        start + b"ns:" + name,
        user.registry,
        start + b"info:" + name,
        start + b"log:" + name,
        start + b"flight:" + name,
        start + b"seen:" + name,
    )


async def discard(user: UserKeys, name: bytes, head: ScriptHead, keep: bool) -> int:
    """Clear a namespace and the values in its change log. Return how many keys it had."""
    keys, kept = user.of_stored(name), kept_keys(user, name)
    kinds = (*KINDS_OF_SCRIPT_KEYS, b"hash", b"hash")
    names = (keys.data, keys.registry, keys.info, keys.log, keys.flight, kept.data, kept.info)
    return int(await run_checked(DISCARD, names, kinds, (name, *head[1:], KEPT_MS if keep else 0)))


async def clear(setting: Setting, user: str, namespace: str, keep: bool) -> int:
    """Clear a namespace. Return how many keys it had."""
    scope = setting.scope_of(user, namespace)
    try:
        count = await At(user, discard(scope.user, scope.name, scope.script_head, keep))
        await At(0, audit.note(setting.by, "clear", user=user, namespace=namespace, count=count))
    except GeneratorExit:
        raise
    except BaseException as error:
        if not isinstance(error, DataStoreError) or error.outcome_unknown:
            with suppress(DataStoreError):
                await At(0, audit.note(setting.by, "clear", "failed", user=user, namespace=namespace))
        raise
    return count


async def clear_all(setting: Setting, user: str, prefix: str, keep: bool) -> int:
    """Clear all namespaces with a prefix. Return how many keys they had."""
    told: dict[str, Any] = {"user": user, "namespace": prefix}
    await At(0, audit.note(setting.by, "clear --prefix", "begun", **told))
    count = await _clear_all(setting, user, prefix, keep, for_ever=False)
    await At(0, audit.note(setting.by, "clear --prefix", count=count, **told))
    return count


async def _clear_all(setting: Setting, user: str, prefix: str, keep: bool, *, for_ever: bool) -> int:
    head, start, total = setting.scope_of(user).script_head, prefix.encode(), 0
    for server in range(setting.servers):
        # Empty namespaces too, whose change logs may hold values. They are listed first, as a scan may miss what moves meanwhile.
        places: dict[bytes, Place] = {}
        async for page in pages(server, readable_keys(user)):
            for _, parts in page:
                if parts.kind in _SIGNS_OF_NAMESPACES and parts.agent is None and parts.name.startswith(start):
                    place = Place(parts.keys, parts.name)
                    places[place.keys.data] = place
        for keys, name in places.values():
            try:
                count = await At(server, discard(keys, name, head, keep))
            except (WrongKeyType, ServerRefused) as error:
                # Of keys without a hash tag, a cluster refuses a script on several.
                if not for_ever or (keys.form.tagged and not isinstance(error, WrongKeyType)):
                    raise
                continue  # it is not ours, and goes with all that has the user's name
            total += count
            setting.on_step(count)
    return total


async def undo(setting: Setting, user: str, namespace: str) -> Imported:
    """Bring back what a clear has kept; keys that were written since stay as they are."""
    scope = setting.scope_of(user, namespace)
    place = KeptPlace(scope.user, scope.name)
    done = await pour(setting, user, place, user, scope.name, "undo", replace=False)
    if done.keys:
        await At(user, _forget_kept(scope.user, scope.name))
    return done


async def _forget_kept(user: UserKeys, name: bytes) -> None:
    kept = kept_keys(user, name)
    await Call((("UNLINK", kept.data, kept.info, kept.log),), as_is)


async def rename(setting: Setting, user: str, namespace: str, new: str) -> int:
    """Give a namespace another name, in one step. Return the number of its keys; 0 if there is none."""
    source, target = setting.scope_of(user, namespace), setting.scope_of(user, new)
    if namespace == new:
        raise InvalidInput("The namespace has this name already: give another one.")
    told: dict[str, Any] = {"user": user, "namespace": namespace}
    await At(0, audit.note(setting.by, f"rename to {new}", "begun", **told))
    # Before and after, so that no value is without its tags meanwhile; and so that a call after an interruption completes it.
    for place in (source, target):
        async for tagged in pages(user, _retagged(place, target.name)):
            setting.on_step(sum(tagged))
    count = await At(user, _move(source, target))
    if count < 0:
        raise Conflict(
            f"The namespace {new!r} holds data: clear it first, or choose another name. Nothing was renamed."
        )
    async for tagged in pages(user, _retagged(target, target.name)):
        setting.on_step(sum(tagged))
    await At(0, audit.note(setting.by, f"rename to {new}", count=count, **told))
    return count


async def _move(source: Scope, target: Scope) -> int:
    keys, new = source.keys, target.keys
    kinds = (*KINDS_OF_SCRIPT_KEYS, b"hash", b"hash", b"stream")
    names = (keys.data, keys.registry, keys.info, keys.log, keys.flight, new.data, new.info, new.log)
    return int(await run_checked(MOVE, names, kinds, (*source.script_head, new.name)))


async def _retagged(place: Scope, name: bytes) -> Walk[int]:
    """Enter the values at a place in their tags, under a name of their namespace. Yield the number of each step."""
    cursor = START
    while True:
        raw, tagged = await run_script(
            RETAG, (place.keys.data, place.keys.info), (name, cursor, INFOS_PER_PAGE), repeatable=True
        )
        yield [tagged]
        cursor = raw.decode()
        if cursor == START:
            return


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was deleted with a user."""

    keys: int
    """Keys of the user's namespaces."""
    redis_keys: int
    """Redis keys of other things: change logs, locks, tags, cursors, what a clear has kept."""


async def delete_user(setting: Setting, user: str) -> Deleted:
    """Delete everything of a user, and make sure by scans that nothing is left."""
    setting.scope_of(user)
    await At(0, audit.note(setting.by, "user delete", "begun", user=user))
    # Watchers learn what goes, and logs lose their values first.
    keys, total = await _clear_all(setting, user, "", False, for_ever=True), 0
    for _ in range(MOST_ROUNDS):
        found = 0
        for server in range(setting.servers):
            async for page in pages(server, redis_keys(user)):
                for tagged in (False, True):
                    some = [key for key, parts in page if parts.tagged is tagged]
                    for part in parts_of(some, KEYS_PER_DELETE):
                        total += await At(server, _unlink(part, tagged))
                found += len(page)
                setting.on_step(len(page))
        if not found:
            await At(0, audit.note(setting.by, "user delete", user=user, count=keys))
            return Deleted(keys, total)
    await At(0, audit.note(setting.by, "user delete", "failed", user=user, count=keys))
    raise Conflict(
        f"User {user!r} is still being written to or watched: {keys:,} keys were deleted, and new ones came. Stop the agents and"
        " watchers of this user, and delete it again."
    )


async def _unlink(keys: Sequence[bytes], together: bool) -> int:
    """Delete Redis keys of one user. Without a hash tag, each may be in another slot of a cluster."""
    if together:
        return int(await Call((("UNLINK", *keys),), as_is))
    counts = await Call(tuple(("UNLINK", key) for key in keys), as_is)
    return sum(counts) if isinstance(counts, list) else int(counts)
