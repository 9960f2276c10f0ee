"""Namespaces that bound themselves: the scripts that write there, and what is left to do after them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from redis_store.errors import LimitExceeded, StoreUnavailable
from redis_store.namespace.keys import NamespaceKeys
from redis_store.namespace.scope import Scope
from redis_store.ops.script import run_delete, run_script, run_write
from redis_store.protocol.call import Argument
from redis_store.scripts import BOUNDED, EVICT, Script


class Bound(NamedTuple):
    """How many keys a namespace may hold, and the fields that are written now and so stay."""

    keys: NamespaceKeys
    max_keys: int
    stay: Collection[bytes]

    def arguments(self, at: int = 1) -> tuple[Argument, ...]:
        """What a script is told of it (`scripts/bound.lua`), if the data hash is its key number `at`."""
        return (at, self.max_keys, len(self.stay), *self.stay)

    def check_room(self, name: str) -> None:
        """Raise `LimitExceeded` where more is written at once than may stay."""
        if len(self.stay) > self.max_keys:
            raise LimitExceeded(
                f"{len(self.stay):,} keys are written at once to the namespace {name!r}, which holds {self.max_keys:,} at"
                " most: nothing was written. Write fewer at once, or raise max_keys.",
                limit="max_keys",
                limit_count=self.max_keys,
                size_bytes=len(self.stay),
            )


def bound_of(scope: Scope, stay: Collection[bytes]) -> Bound | None:
    """The bound of a namespace, None where it has none."""
    return None if scope.max_keys is None else Bound(scope.keys, scope.max_keys, stay)


def ending(*arguments: Argument) -> tuple[Argument, ...]:
    """What the arguments of a script end with that is told of bounds."""
    return (*arguments, len(arguments))


async def run_put(script: Script, scope: Scope, arguments: tuple[Argument, ...], field: bytes) -> Any:
    """`run_write` for a script that may add a field: others go for it in the same script, where there is a bound."""
    bound = bound_of(scope, (field,))
    if bound is None:
        return await run_write(script, scope, arguments)
    arguments += ending(*bound.arguments())
    return await settled(scope, await run_write(BOUNDED[script.name], scope, arguments), bound)


async def run_move(script: Script, scope: Scope, arguments: tuple[Argument, ...], field: bytes) -> Any:
    """`run_delete` for a script that may add a field too."""
    bound = bound_of(scope, (field,))
    if bound is None:
        return await run_delete(script, scope, arguments)
    arguments += ending(*bound.arguments())
    return await settled(scope, await run_delete(BOUNDED[script.name], scope, arguments), bound)


async def settled(scope: Scope, reply: Any, *bounds: Bound) -> Any:
    """Have the keys go that one script had no time for, and return the reply of the script that wrote."""
    own, left = reply
    if left:
        for bound in bounds:
            await _evict_rest(scope, bound)
    return own


async def _evict_rest(scope: Scope, bound: Bound) -> None:
    keys = bound.keys
    arguments = (*scope.script_head, *ending(*bound.arguments()))
    try:
        while await run_script(EVICT, (keys.data, keys.registry, keys.info, keys.log), arguments, repeatable=True):
            pass
    except StoreUnavailable as error:
        error.outcome_unknown = True  # the keys themselves have been written
        raise
