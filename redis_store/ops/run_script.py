"""Running scripts: by digest, or by text if the server does not know the digest."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from redis_store.errors import PermissionDenied, ServerFull, UnsupportedByServer, WrongKeyType
from redis_store.namespace.scope import Scope
from redis_store.protocol.call import Call, as_is, checked_transaction, last_reply, transaction
from redis_store.protocol.command import Argument, Command
from redis_store.protocol.error_replies import ScriptMissing, wrong_type_of
from redis_store.protocol.packing import opening
from redis_store.scripts import CHECK, Script
from redis_store.stats import Counters

KINDS_OF_SCRIPT_KEYS = (b"hash", b"set", b"hash", b"stream", b"hash")
"""The expected types of the keys of a script that writes or deletes, in order."""

_checking: weakref.WeakSet[Counters] = weakref.WeakSet()
"""The counters of stores whose login is known to have the rights for a check before a transaction."""


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
    """Run a script whose keys have the types `kinds`."""
    return await _evaluate(script, keys, arguments, keys, kinds)


async def run_delete(script: Script, scope: Scope, arguments: tuple[Argument, ...]) -> Any:
    """Run a script that deletes from a namespace (`scripts/remove.lua`), if the namespace may be written."""
    scope.check_writable()
    return await run_checked(script, scope.delete_keys, KINDS_OF_SCRIPT_KEYS, scope.script_head + arguments)


async def run_write(script: Script, scope: Scope, arguments: tuple[Argument, ...]) -> Any:
    """Run a script that writes to a namespace (`scripts/prelude.lua`), if the namespace may be written."""
    scope.check_writable()
    arguments = scope.script_head + arguments
    return await _evaluate(script, scope.script_keys, arguments, scope.delete_keys, KINDS_OF_SCRIPT_KEYS)


async def run_each(script: Script, calls: Iterable[tuple[tuple[bytes, ...], tuple[Argument, ...]]]) -> list[Any]:
    """Run a script that only reads for each of these keys and arguments, in one round trip or two. Return the replies."""
    calls = list(calls)
    if not calls:
        return []
    try:
        reply = await Call(tuple(script.by_digest(*each) for each in calls), as_is, True, True)
    except ScriptMissing:
        reply = await Call(tuple(script.by_text(*each) for each in calls), as_is, True, True)
    return [reply] if len(calls) == 1 else list(reply)


async def _evaluate(
    script: Script,
    keys: tuple[bytes, ...],
    arguments: tuple[Argument, ...],
    suspects: tuple[bytes, ...],
    kinds: tuple[bytes, ...],
    repeatable: bool = False,
    bulk: bool = False,
) -> Any:
    """Run a script in one round trip, or in two if the server's script cache lacks it.

    If a key has the wrong type, `WrongKeyType` names the first of the `suspects` whose type is not the expected one.
    """
    try:
        try:
            return await Call((script.by_digest(keys, arguments),), as_is, repeatable, bulk)
        except ScriptMissing:
            return await Call((script.by_text(keys, arguments),), as_is, repeatable, bulk)
    except WrongKeyType as error:
        raise await _with_key_named(suspects, kinds, error) from None


@lru_cache(maxsize=128)
def _watch_and_check(keys: tuple[bytes, ...], head: tuple[Argument, ...]) -> tuple[Command, Command]:
    """Return the command that watches the keys and the one that checks them.

    It is sent as text: with a digest unknown to the server, nothing would be checked.
    """
    return (opening("WATCH", *keys, keys=keys),), (CHECK.opening_by_text(keys, head),)


async def write_transaction(
    scope: Scope, commands: list[Command], checked: bool = False, untagged: bytes | None = None
) -> list[Any] | None:
    """Run several scripts that write in one transaction. Return the replies, or None if a watched key had changed.

    If `checked`, `scripts/check.lua` makes the scripts' checks first. The commands may then include plain ones. In that case None
    also means that another caller wrote to the namespace, that a right is missing, or that the field `untagged` may have tags.
    """
    scope.check_writable()
    if not scope.user.form.tagged:
        return await _write_transaction(scope, commands, checked, untagged)
    # On a cluster whose slot is being moved, each of the commands might be refused or not. This one is, and so the transaction.
    commands = [("EXISTS", scope.keys.data, scope.user.none), *commands]
    replies = await _write_transaction(scope, commands, checked, untagged)
    return None if replies is None else replies[1:]


async def _write_transaction(
    scope: Scope, commands: list[Command], checked: bool, untagged: bytes | None
) -> list[Any] | None:
    try:
        if not checked:
            return await transaction(commands)
        # Callers share the extra key: only a failed check changes it, and then each of them takes another way.
        keys = (*scope.script_keys, scope.user.barrier("check"))
        try:
            if scope.counters not in _checking:
                await Call((CHECK.by_text(keys, scope.script_head),), as_is)
                _checking.add(scope.counters)
            watching, check = _watch_and_check(keys, scope.script_head)
            return await checked_transaction(watching, check if untagged is None else (*check, untagged), commands)
        except (PermissionDenied, UnsupportedByServer):
            # Unlike any other refusal, a refused WATCH lets the transaction run, so it is unknown what was written.
            _checking.discard(scope.counters)
            return None
    except WrongKeyType as error:
        raise await _with_key_named(scope.delete_keys, KINDS_OF_SCRIPT_KEYS, error) from None


async def read_together(commands: list[Command]) -> list[Any]:
    """Read by several commands at one moment, and return their replies.

    A full server (Redis 7.0) refuses the transaction. Then other callers may write between the commands.
    """
    try:
        replies: list[Any] = await Call((("MULTI",), *commands, ("EXEC",)), last_reply, True, True)
    except ServerFull:
        replies = await Call(tuple(commands), as_is, True, True)
    return replies


async def _with_key_named(
    keys: tuple[bytes, ...], expected_kinds: tuple[bytes, ...], error: WrongKeyType
) -> WrongKeyType:
    """Find the key of the wrong type. The script could only name it at a cost to every call."""
    reply = await Call(tuple(("TYPE", key) for key in keys), as_is, True)
    kinds = reply if isinstance(reply, list) else [reply]
    for key, kind, expected in zip(keys, kinds, expected_kinds, strict=True):
        if kind not in (expected, b"none"):
            return wrong_type_of(key)
    return error
