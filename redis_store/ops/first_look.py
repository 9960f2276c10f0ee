"""The first look at a server, before a process sends it anything else: the form of its Redis keys, and whether it can be used."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from redis_store.errors import (
    DataStoreError,
    InvalidSettings,
    PermissionDenied,
    ServerRefused,
    StoreUnavailable,
    UnsupportedByServer,
)
from redis_store.namespace.format import DATA_FORMAT, check_mark, mark
from redis_store.namespace.keys import Form, UserKeys
from redis_store.ops.run_script import run_script
from redis_store.protocol.call import all_replies
from redis_store.protocol.command import Command, ReplyError
from redis_store.protocol.error_replies import translate
from redis_store.scripts import RAISE_FORMAT
from redis_store.server_config import facts_of

_NEEDED: tuple[tuple[str, Command], ...] = (
    ("EVAL", ("EVAL", "return 1", 0)),
    ("streams (XLEN)", ("XLEN", "user:redis-store:probe")),
)
"""What every write uses, with harmless requests that tell whether the server has it."""

_WAIT: tuple[str, Command] = ("WAIT", ("WAIT", 0, 1))
"""What every write uses besides with `min_replicas`; no replica is waited for."""

_CANNOT_RUN = ("unknown command", "permissions to run", "not allowed to run", "command is not allowed")
"""Parts of refusals of a command itself. A login that may not use the key of a probe is refused otherwise."""


async def first_look(user: UserKeys, *, waits: bool = False) -> None:
    """Find out the form of the keys if it is unknown, and raise if the server lacks what every store needs.

    That includes ``WAIT`` if its writes wait for replicas. Then look at the user, see `check_user`.
    """
    form = user.form
    needed = (*_NEEDED, _WAIT) if waits else _NEEDED
    facts, *replies = await all_replies(("INFO", "server"), *(command for _, command in needed))
    _refuse_sentinel(facts)
    for (what, command), reply in zip(needed, replies, strict=True):
        if isinstance(reply, ReplyError) and cannot_run(reply):
            raise _useless(what, translate(reply, (command,)))
    await _note_form(form, facts)
    await check_user(user)


async def find_form(form: Form) -> None:
    """Find out the form of the keys if it is unknown, for operations that concern no user, and that need less of a server."""
    if form.tagged is None:
        facts = (await all_replies(("INFO", "server")))[0]
        _refuse_sentinel(facts)
        await _note_form(form, facts)


def _refuse_sentinel(facts: Any) -> None:
    if _mode_in(facts) == "sentinel":
        raise InvalidSettings(
            "The url names a Sentinel, which has no data and knows which server has: write redis+sentinel:// before its host, and"
            " the name of the service after it, as in redis+sentinel://host:26379/service."
        )


async def _note_form(form: Form, facts: Any) -> None:
    if form.tagged is None:
        form.is_redis = isinstance(facts, bytes) and b"redis_version:" in facts and b"valkey_version:" not in facts
        form.tagged = (_mode_in(facts) or await _mode_by_hello()) == "cluster"


async def check_user(user: UserKeys) -> None:
    """Look at the data of a user, before the process's first operation for them.

    Raises `InvalidSettings` if the user has data in the other form of keys and none in this one: the store would show nothing.
    Raises `UnsupportedEncoding` if the data has a newer format. Marks data of an older format as that of this version, which
    writes its own.
    """
    tagged = bool(user.form.tagged)
    here, there = user.registry_in(tagged), user.registry_in(not tagged)
    marked = user.format_in(tagged)
    # The reply about the mark is an error if the login may not read strings.
    if tagged:  # the other form is in another slot of a cluster, whose node may be down
        is_here, raw = await all_replies(("EXISTS", here), ("GET", marked))
        is_there = 0 if is_here == 1 else (await all_replies(("EXISTS", there)))[0]
    else:
        is_here, is_there, raw = await all_replies(("EXISTS", here), ("EXISTS", there), ("GET", marked))
    found = check_mark(raw if isinstance(raw, bytes) else None, user.user)
    if found < DATA_FORMAT and is_here == 1:
        with suppress(ServerRefused, StoreUnavailable):  # it may be a replica, or a login that only reads
            await run_script(RAISE_FORMAT, (marked, here), (mark(), DATA_FORMAT))
    if is_there == 1 and is_here == 0:
        what = (
            "this server needs (or hash_tags=True asks for)" if tagged else "a single server has without hash_tags=True"
        )
        raise InvalidSettings(
            f"The user {user.user!r} has data under {_start(there)}..., and none under {_start(here)}..., the form that {what}:"
            " nothing would be found. Move the data as docs/data-model.md says"
            + (", or leave out hash_tags." if tagged else ", or pass hash_tags=True.")
        )


async def cluster_slots() -> Any:
    """Return the reply to ``CLUSTER SLOTS``, which may be an error."""
    return (await all_replies(("CLUSTER", "SLOTS")))[0]


def cannot_run(refusal: Exception) -> bool:
    """Whether a refusal is of a command itself, and not of the Redis key or channel that it names."""
    return any(sign in str(refusal) for sign in _CANNOT_RUN)


def _start(registry: bytes) -> str:
    return registry.removesuffix(b"namespaces").decode()


def _useless(what: str, error: DataStoreError) -> DataStoreError:
    kind = PermissionDenied if isinstance(error, PermissionDenied) else UnsupportedByServer
    if what == "WAIT":
        return kind(
            "The server has no WAIT, or does not allow it to this login, so it cannot say which replicas have a write"
            f" ({str(error).rstrip('.')}): nothing was written. Leave out min_replicas, or choose another server."
        )
    return kind(
        f"The server has no {what}, or does not allow it to this login, and every write needs it: the store cannot be used"
        f" here ({str(error).rstrip('.')}). Allow it, or choose another server, see docs/managed-services.md."
    )


def _mode_in(facts: Any) -> str | None:
    """Return the mode in the reply to ``INFO``, or None if it is refused or does not say."""
    if not isinstance(facts, bytes):
        return None
    told = facts_of(facts)
    return told.get("server_mode") or told.get("redis_mode")


async def _mode_by_hello() -> str | None:
    (reply,) = await all_replies(("HELLO",))  # without a number it only tells
    pairs = reply if isinstance(reply, list) else []
    mode = dict(zip(pairs[::2], pairs[1::2], strict=False)).get(b"mode")
    return mode.decode() if isinstance(mode, bytes) else None
