"""How an operation runs a script: by its digest, and by its text where the server does not know it."""

from __future__ import annotations

import weakref
from typing import Any

from redis_store.errors import PermissionDenied, WrongKeyType
from redis_store.namespace.scope import Scope
from redis_store.protocol.call import Argument, Call, Command, as_is, checked_transaction, transaction
from redis_store.protocol.replies import ScriptMissing, wrong_type_of
from redis_store.scripts import CHECK, Script
from redis_store.stats import Counters

KINDS_OF_SCRIPT_KEYS = (b"hash", b"set", b"hash", b"stream", b"hash")
"""What the keys of a script that writes or deletes should be, in their order."""

_checking: weakref.WeakSet[Counters] = weakref.WeakSet()
"""Stores, by what counts for them, whose login is known to have the rights that a check ahead of a transaction takes."""


async def run_script(
    script: Script,
    keys: tuple[bytes, ...],
    arguments: tuple[Argument, ...],
    repeatable: bool = False,
    bulk: bool = False,
) -> Any:
    """Run a script whose keys are hashes."""
    return await _evaluate(script, keys, arguments, keys, (b"hash",) * len(keys), repeatable, bulk)


async def run_checked(
    script: Script,
    keys: tuple[bytes, ...],
    kinds: tuple[bytes, ...],
    arguments: tuple[Argument, ...],
) -> Any:
    """Run a script whose keys are of these kinds."""
    return await _evaluate(script, keys, arguments, keys, kinds)


async def run_delete(script: Script, scope: Scope, arguments: tuple[Argument, ...]) -> Any:
    """Run a script that deletes from a namespace (`scripts/remove.lua`), if it may be written."""
    scope.check_writable()
    return await run_checked(script, scope.delete_keys, KINDS_OF_SCRIPT_KEYS, scope.script_head + arguments)


async def run_write(script: Script, scope: Scope, arguments: tuple[Argument, ...]) -> Any:
    """Run a script that writes to a namespace (`scripts/prelude.lua`), if it may be written."""
    scope.check_writable()
    arguments = scope.script_head + arguments
    return await _evaluate(script, scope.script_keys, arguments, scope.delete_keys, KINDS_OF_SCRIPT_KEYS)


async def _evaluate(
    script: Script,
    keys: tuple[bytes, ...],
    arguments: tuple[Argument, ...],
    suspects: tuple[bytes, ...],
    kinds: tuple[bytes, ...],
    repeatable: bool = False,
    bulk: bool = False,
) -> Any:
    """Run a script in one round trip, or in two where the server's script cache lacks it.

    Where it meets a wrong type, `WrongKeyType` names that of the `suspects` that is not of its kind.
    """
    try:
        try:
            return await Call((script.by_digest(keys, arguments),), as_is, repeatable, bulk)
        except ScriptMissing:
            return await Call((script.by_text(keys, arguments),), as_is, repeatable, bulk)
    except WrongKeyType as error:
        raise await _with_key_named(suspects, kinds, error) from None


async def write_transaction(scope: Scope, commands: list[Command], probe: bytes | None = None) -> list[Any] | None:
    """Run several such scripts as one; the replies, or None where a watched key had changed.

    With a `probe`, a key that nobody else uses, their checks are made ahead (`scripts/check.lua`), so that commands which are
    no scripts may stand among them; None then also where somebody wrote to the namespace meanwhile, or a right is missing.
    """
    scope.check_writable()
    try:
        if probe is None:
            return await transaction(commands)
        keys = (*scope.script_keys, probe)
        # As text: a digest that the server did not know would check nothing.
        check = CHECK.by_text(keys, scope.script_head)
        try:
            if scope.counters not in _checking:
                await Call((check,), as_is)
                _checking.add(scope.counters)
            return await checked_transaction(keys, check, commands)
        except PermissionDenied:
            # A refused WATCH, unlike all else, lets the transaction pass: so nothing may be said of what was written.
            _checking.discard(scope.counters)
            return None
    except WrongKeyType as error:
        raise await _with_key_named(scope.delete_keys, KINDS_OF_SCRIPT_KEYS, error) from None


async def _with_key_named(
    keys: tuple[bytes, ...], expected_kinds: tuple[bytes, ...], error: WrongKeyType
) -> WrongKeyType:
    """Find out which key the script stumbled over; it cannot say so itself without costing every call."""
    reply = await Call(tuple(("TYPE", key) for key in keys), as_is, True)
    kinds = reply if isinstance(reply, list) else [reply]
    for key, kind, expected in zip(keys, kinds, expected_kinds, strict=True):
        if kind not in (expected, b"none"):
            return wrong_type_of(key)
    return error
