"""Translation of the server's error replies into errors of `redis_store.errors`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redis_store.errors import (
    AuthenticationFailed,
    ConnectionLost,
    DataStoreError,
    PermissionDenied,
    ServerFull,
    ServerReadOnly,
    ServerRefused,
    StoreUnavailable,
    UnsupportedByServer,
    WrongKeyType,
)
from redis_store.namespace.keys import decode_name
from redis_store.protocol.command import Argument, Command, Opening, ReplyError

NO_LOGIN = "NOAUTH"
NO_LOGIN_AND_CLOSED = "ERR Protocol error: unauthenticated"
"""Beginnings of the refusals of a connection that is not logged in; after the second, of a long request, the server closes it."""


class ScriptMissing(ServerRefused):
    """The server does not have the script of a digest, so the script's text has to be sent."""


class SlotElsewhere(ConnectionLost):
    """A node of a cluster does not have the hash slot, or not all of it: it is at another node, or on its way there."""

    redis_key: bytes = b""
    """A key of the refused command, if it is known."""


def plainly_lost(error: DataStoreError) -> DataStoreError:
    """Return an error as callers know it."""
    return ConnectionLost(str(error)) if type(error) is SlotElsewhere else error


def translate(error: ReplyError, commands: Sequence[Command] = ()) -> DataStoreError:
    """Return the `DataStoreError` for an error reply to one of these commands."""
    text = str(error)
    text = text.removeprefix("EXECABORT Transaction discarded because of: ")
    code, _, detail = text.partition(" ")
    if text.startswith(NO_LOGIN_AND_CLOSED):
        code = NO_LOGIN
    if code == "ERR" and any(sign in detail for sign in _NOT_ALLOWED_IN_SCRIPT):
        code = "NOPERM"
    if (
        code == "ERR"
        and detail.lower().startswith("unknown command")
        and (missing := _names(commands)) in _OF_TRANSACTIONS
    ):
        code, detail = "NOCOMMAND", missing
    if code == "ERR" and detail.startswith("Attempted to access a non local key"):
        code = "MOVING"  # the keys of a script were there when it began; only a hub's may begin during a move
    make = _BY_CODE.get(code)
    if make is None:
        return ServerRefused(f"The server refused {_names(commands)}: {text}.")
    return make(detail or text, commands)


def raise_error_reply(reply: object, commands: Sequence[Command]) -> None:
    """Raise the first error in the reply to one command or the replies to several, including those inside an ``EXEC``."""
    if isinstance(reply, ReplyError):
        raise translate(reply, commands)
    if len(commands) == 1 or not isinstance(reply, list):
        return
    for position, part in enumerate(reply):
        if isinstance(part, ReplyError):
            error = translate(part, commands[position : position + 1])
            # A call is about one slot, so any of its keys tells whose.
            raise translate(part, commands) if isinstance(error, SlotElsewhere) and not error.redis_key else error
    if isinstance(reply[-1], list):
        queued = commands[-1 - len(reply[-1]) : -1]
        for position, part in enumerate(reply[-1]):
            if isinstance(part, ReplyError):
                raise translate(part, queued[position : position + 1])


def _names(commands: Sequence[Command]) -> str:
    return ", ".join(sorted({_name(command[0]) for command in commands})) or "a command"


def _name(first: Argument | Opening) -> str:
    if isinstance(first, Opening):
        return first.name
    return first.decode() if isinstance(first, bytes) else str(first)


def wrong_type_of(key: Argument | Opening) -> WrongKeyType:
    """Return the error for a Redis key of an unexpected type."""
    name = decode_name(key) if isinstance(key, bytes) else str(key)
    return WrongKeyType(
        f"The Redis key {name!r} has a type that the store does not use for it: inspect it with TYPE, then rename"
        " or delete it. Nothing was written.",
        redis_key=name,
    )


def _wrong_type(detail: str, commands: Sequence[Command]) -> DataStoreError:
    first = commands[0] if commands else ()
    if first and isinstance(first[0], Opening) and first[0].keys:
        return wrong_type_of(first[0].keys[0])
    return wrong_type_of(first[1] if len(first) > 1 else b"?")


def _unsupported(detail: str, commands: Sequence[Command]) -> DataStoreError:
    return UnsupportedByServer(
        "This server cannot expire single keys (ttl=): use Redis 7.4 or Valkey 9.0, or later. Nothing was written."
    )


def _plainly(kind: type[DataStoreError], sentence: str) -> Callable[[str, Sequence[Command]], DataStoreError]:
    return lambda detail, commands: kind(sentence.format(detail=detail.rstrip("."), names=_names(commands)))


def _elsewhere(sentence: str) -> Callable[[str, Sequence[Command]], DataStoreError]:
    def make(detail: str, commands: Sequence[Command]) -> DataStoreError:
        error = SlotElsewhere(sentence)
        arguments = (argument for command in commands for argument in command)
        error.redis_key = next((each for each in arguments if type(each) is bytes and each.startswith(b"user:{")), b"")
        return error

    return make


_NOT_ALLOWED_IN_SCRIPT = ("The user executing the script", "ACL failure in script")
"""The texts of a NOPERM error inside a script, in Redis 7.0 and in later servers."""

_OF_TRANSACTIONS = ("MULTI", "EXEC", "WATCH")


def _no_transactions(detail: str, commands: Sequence[Command]) -> DataStoreError:
    # A proxy that refuses MULTI passes on what was to be in the transaction, and the server carries it out.
    unknown = _names(commands) == "MULTI"
    return UnsupportedByServer(
        f"The server, or a proxy before it, has no {detail}, which batches and reads of many keys need: use another server, or a"
        f" connection without the proxy. {'A part may have been written.' if unknown else 'Nothing was written.'}",
        outcome_unknown=unknown,
    )


_NO_LOGIN = "The server rejected the user name or password ({detail}): check the url."

_MOVING = (
    "The cluster is moving this user's data to another node, and had not finished in the time of the call: nothing was written by"
    " it. Try again."
)

_BY_CODE: dict[str, Callable[[str, Sequence[Command]], DataStoreError]] = {
    "NOSCRIPT": _plainly(ScriptMissing, "The server does not know the script."),
    "WRONGTYPE": _wrong_type,
    "NOCOMMAND": _no_transactions,
    "UNSUPPORTED": _unsupported,
    "OOM": _plainly(
        ServerFull,
        "The server is full (maxmemory is reached, and its policy evicts nothing): delete something, or raise maxmemory."
        " Nothing was written; reads and deletes still work.",
    ),
    "READONLY": _plainly(
        ServerReadOnly, "The server is a read-only replica: connect to its primary. Nothing was written."
    ),
    "MISCONF": _plainly(
        ServerReadOnly,
        "The server accepts no writes because it cannot save to disk ({detail}): check its log.",
    ),
    "NOREPLICAS": _plainly(ServerReadOnly, "The server accepts no writes because it has too few replicas ({detail})."),
    "WRONGPASS": _plainly(AuthenticationFailed, _NO_LOGIN),
    "NOAUTH": _plainly(AuthenticationFailed, _NO_LOGIN),
    "NOPERM": _plainly(
        PermissionDenied,
        "The server's access rules do not allow this ({detail}): ask its operator. Nothing was written.",
    ),
    "LOADING": _plainly(ConnectionLost, "The server is still loading its data: try again in a moment."),
    "BUSY": _plainly(
        StoreUnavailable,
        "The server is busy running a script ({detail}): try again, or end the script with SCRIPT KILL.",
    ),
    "MASTERDOWN": _plainly(StoreUnavailable, "The server is a replica without its primary ({detail}): try again."),
    "CLUSTERDOWN": _plainly(
        ConnectionLost,
        "The cluster is down, or no node of it serves this user's hash slot ({detail}): nothing was written by this call. Try"
        " again, or check it with redis-cli --cluster check.",
    ),
    "CROSSSLOT": _plainly(
        ServerRefused,
        "The server is a cluster, and was none when this process first connected ({detail}): start the process again. Nothing was"
        " written.",
    ),
    "MOVED": _elsewhere(
        "The nodes of the cluster do not agree which of them has this user's data: nothing was written by this call. Try"
        " again, or check the nodes with CLUSTER NODES.",
    ),
    "MOVING": _elsewhere("The cluster is moving this user's data to another node, and a script stopped. Try again."),
    "ASK": _elsewhere(_MOVING),
    "TRYAGAIN": _elsewhere(_MOVING),
}
