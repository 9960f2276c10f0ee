"""Writes to namespaces with `max_keys`: their scripts, and the evictions that remain after them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from redis_store.errors import DataStoreError, LimitExceeded, after_a_part
from redis_store.namespace.keys import NamespaceKeys
from redis_store.namespace.scope import Scope
from redis_store.ops.run_script import run_delete, run_script, run_write
from redis_store.protocol.command import Argument
from redis_store.scripts import BOUNDED, EVICT, Script


class Bound(NamedTuple):
    """The limit of a namespace's keys, and the fields being written, which are not evicted."""

    keys: NamespaceKeys
    max_keys: int
    stay: Collection[bytes]

    def arguments(self, at: int = 1) -> tuple[Argument, ...]:
        """Return the script's arguments about this bound (`scripts/bound.lua`); `at` is the data hash's position in KEYS."""
        return (at, self.max_keys, len(self.stay), *self.stay)

    def check_room(self, name: str) -> None:
        """Raise `LimitExceeded` if more keys are written at once than the namespace may hold."""
        if len(self.stay) > self.max_keys:
            raise LimitExceeded(
                f"{len(self.stay):,} keys cannot be written at once to namespace {name!r}, which holds at most {self.max_keys:,}:"
                " nothing was written. Write fewer at once, or raise max_keys.",
                limit="max_keys",
                limit_count=self.max_keys,
                size_bytes=len(self.stay),
            )


def bound_of(scope: Scope, stay: Collection[bytes]) -> Bound | None:
    """Return the bound of a namespace, or None if it has none."""
    return None if scope.max_keys is None else Bound(scope.keys, scope.max_keys, stay)


def ending(*arguments: Argument) -> tuple[Argument, ...]:
    """Return the arguments about bounds as they end a script's arguments: followed by their number."""
    return (*arguments, len(arguments))


async def run_put(script: Script, scope: Scope, arguments: tuple[Argument, ...], field: bytes) -> Any:
    """Do `run_write` with a script that may add a field, and evict other fields in the same call if there is a bound."""
    bound = bound_of(scope, (field,))
    if bound is None:
        return await run_write(script, scope, arguments)
    arguments += ending(*bound.arguments())
    return await settled(scope, await run_write(BOUNDED[script.name], scope, arguments), bound)


async def run_move(script: Script, scope: Scope, arguments: tuple[Argument, ...], field: bytes) -> Any:
    """Do `run_delete` with a script that may also add a field, and evict other fields as `run_put` does."""
    bound = bound_of(scope, (field,))
    if bound is None:
        return await run_delete(script, scope, arguments)
    arguments += ending(*bound.arguments())
    return await settled(scope, await run_delete(BOUNDED[script.name], scope, arguments), bound)


async def settled(scope: Scope, reply: Any, *bounds: Bound) -> Any:
    """Evict the keys that the script had no time for, and return the script's own reply."""
    own, left, moved_bytes = reply
    scope.bounds.note_moved(moved_bytes)
    if left:
        for bound in bounds:
            await _evict_rest(scope, bound)
    return own


async def _evict_rest(scope: Scope, bound: Bound) -> None:
    keys = bound.keys
    arguments = (*scope.script_head, *ending(*bound.arguments()))
    try:
        left = 1
        while left:
            reply = await run_script(EVICT, (keys.data, keys.registry, keys.info, keys.log), arguments, repeatable=True)
            _, left, moved_bytes = reply
            scope.bounds.note_moved(moved_bytes)
    except DataStoreError as error:
        done = "The keys themselves were written, and not all keys beyond max_keys were evicted: a later write evicts them."
        raise after_a_part(error, done) from None
