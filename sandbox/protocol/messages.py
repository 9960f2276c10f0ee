"""Messages between an agent process and its host, with the types of their parts.

Data channel, one request at a time: the request ``[id, operation, namespace, argument...]`` gets the reply
``[id, 1, part...]`` or ``[id, 0, error class, message, facts as JSON]``. Control channel, many messages at once:
``[kind, part...]``. JSON is sent as text in bytes. The user is bound to the channel and never part of a message.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from sandbox.protocol.frames import FrameError

Kinds: TypeAlias = frozenset[type]

_NONE = type(None)
TEXT: Kinds = frozenset({str})
TEXT_OR_NONE: Kinds = frozenset({str, _NONE})
FLAG: Kinds = frozenset({bool})
WHOLE: Kinds = frozenset({int})
WHOLE_OR_NONE: Kinds = frozenset({int, _NONE})
NUMBER: Kinds = frozenset({int, float})
NUMBER_OR_NONE: Kinds = frozenset({int, float, _NONE})
JSON: Kinds = frozenset({bytes})
JSON_OR_NONE: Kinds = frozenset({bytes, _NONE})


class Shape(NamedTuple):
    """Types of the parts after the head of a message: the `fixed` parts, then any number of repetitions of `repeated`."""

    fixed: tuple[Kinds, ...] = ()
    repeated: tuple[Kinds, ...] = ()

    def fits(self, parts: list[Any]) -> bool:
        """Whether the parts have the types and the number that this shape requires."""
        if not self.repeated:  # a fast path for most messages, among them the frequent ones
            return len(parts) == len(self.fixed) and all(map(frozenset.__contains__, self.fixed, map(type, parts)))
        rest = len(parts) - len(self.fixed)
        if rest < 0 or rest % len(self.repeated):
            return False
        if not all(type(part) in kinds for part, kinds in zip(parts, self.fixed, strict=False)):
            return False
        return all(
            kinds.issuperset(map(type, parts[len(self.fixed) + offset :: len(self.repeated)]))
            for offset, kinds in enumerate(self.repeated)
        )


OPERATIONS: dict[str, Shape] = {
    "get": Shape((TEXT,)),
    "set": Shape((TEXT, JSON, JSON_OR_NONE, NUMBER_OR_NONE)),
    "delete": Shape((TEXT,)),
    "delete_many": Shape((), (TEXT,)),
    "list_keys": Shape((TEXT_OR_NONE,)),
    "scan_page": Shape((TEXT, TEXT_OR_NONE)),
    "scan_items_page": Shape((TEXT, TEXT_OR_NONE)),
    "list_namespaces": Shape((TEXT_OR_NONE,)),
    "get_many": Shape((), (TEXT,)),
    "get_all": Shape((TEXT_OR_NONE,)),
    "set_many": Shape((JSON_OR_NONE, NUMBER_OR_NONE), (TEXT, JSON)),
    "clear": Shape(),
    "info": Shape((TEXT,)),
    "contains": Shape((TEXT,)),
    "count": Shape(),
    "expire": Shape((TEXT, NUMBER)),
    "persist": Shape((TEXT,)),
    "increment": Shape((TEXT, JSON, NUMBER_OR_NONE)),
    "append": Shape((TEXT, WHOLE_OR_NONE, NUMBER_OR_NONE), (JSON,)),  # key, most items, ttl of a new key
    "set_if_absent": Shape((TEXT, JSON, NUMBER_OR_NONE)),
    "compare_and_set": Shape((TEXT, JSON_OR_NONE, JSON, NUMBER_OR_NONE)),  # key, expected (None: absence), value, ttl
    "pop": Shape((TEXT,)),
    "rename": Shape((TEXT, TEXT)),
    # Steps between which the agent process calls the agent's own functions, or waits.
    "replace": Shape((TEXT, JSON_OR_NONE, JSON, NUMBER_OR_NONE)),  # as `compare_and_set`, with the ttl that the key has
    "claim_value": Shape((TEXT, TEXT, NUMBER_OR_NONE, NUMBER_OR_NONE, NUMBER, WHOLE), (TEXT,)),
    # key, token, ttl, stale, lock timeout, start of the wait in ms; tags
    "renew_value": Shape((TEXT, TEXT, NUMBER), (TEXT,)),  # key, token, lock timeout; tags
    "commit_value": Shape((TEXT, TEXT, JSON, NUMBER_OR_NONE, NUMBER_OR_NONE), (TEXT,)),
    # key, token, value, ttl, stale; tags
    "fail_value": Shape((TEXT, TEXT, TEXT, TEXT)),  # key, token, type and message of the error
    "invalidate_tag": Shape((TEXT, WHOLE), (TEXT,)),
    # tag, number of patterns for reading; patterns for reading, then those for writing
    "commit_transaction": Shape((), (WHOLE, TEXT, TEXT, JSON_OR_NONE, NUMBER_OR_NONE)),
    # one of `TRANSACTION_STEPS`, namespace, key, value, ttl
    "acquire_lock": Shape((TEXT, TEXT, NUMBER, WHOLE)),  # name, token, ttl, 1 to stand in the queue
    "renew_lock": Shape((TEXT, TEXT, NUMBER)),  # name, token, ttl
    "release_lock": Shape((TEXT, TEXT)),
    "acquire_place": Shape((TEXT, TEXT, WHOLE, NUMBER, WHOLE)),  # name, token, number of slots; then as for a lock
    "renew_place": Shape((TEXT, TEXT, WHOLE, NUMBER)),
    "release_place": Shape((TEXT, TEXT, WHOLE)),
    "take_moment": Shape(
        (TEXT, WHOLE, NUMBER, NUMBER_OR_NONE)
    ),  # name, number of permits, per this many seconds, maximum wait in seconds
}
"""Operations of the store, with the arguments that follow id, operation and namespace. None of them waits before it replies."""

TRANSACTION_STEPS = READ, SET, DELETE, BOUND = 0, 1, 2, 3
"""Kinds of steps of a transaction.

`READ` expects the value that was read (None: a missing key), `SET` sets, `DELETE` deletes. `BOUND` gives the maximum number of
keys of a namespace, in the position of the ttl.
"""

BOUNDED = "bounded"
"""Prefix of an operation in `MAY_ADD` on a namespace with `max_keys`; the maximum, the operation and its arguments follow."""

MAY_ADD = frozenset(
    {
        "set",
        "set_many",
        "set_if_absent",
        "compare_and_set",
        "increment",
        "append",
        "rename",
        "replace",
        "commit_value",
    }
)
"""Operations that can add keys to a namespace."""

CLAIM_STATES = CLAIMED, BUSY, FAILED, VALUE = 0, 1, 2, 3
"""First part of the reply to `claim_value`.

Nothing follows `CLAIMED`. The time left of the other caller's claim and the start of the wait, in ms, follow `BUSY`. Type and
message of the error follow `FAILED`, and the value follows `VALUE`.
"""

CHANGES = frozenset(
    {
        "increment",
        "append",
        "compare_and_set",
        "pop",
        "replace",
        "claim_value",
        "renew_value",
        "commit_value",
        "fail_value",
    }
)
"""Operations that need the rights to read and to write their namespace. Others need only the latter if in `WRITES`."""

WRITES = (CHANGES - {"claim_value", "renew_value", "fail_value"}) | {
    "set",
    "delete",
    "delete_many",
    "set_many",
    "clear",
    "expire",
    "persist",
    "set_if_absent",
    "rename",
    "commit_transaction",
}
"""Operations that can change data."""

OF_THE_USER = frozenset(
    {
        "list_namespaces",
        "invalidate_tag",
        "commit_transaction",
        "acquire_lock",
        "renew_lock",
        "release_lock",
        "acquire_place",
        "renew_place",
        "release_place",
        "take_moment",
    }
)
"""Operations that concern no namespace, or several."""

FROM_CHILD: dict[str, Shape] = {
    "started": Shape(),
    "call": Shape((WHOLE, TEXT, JSON, JSON)),  # id, address of a function, args, kwargs
    "agent": Shape((WHOLE, TEXT, JSON)),  # id, name, input
    "watch": Shape((WHOLE, TEXT, FLAG, TEXT_OR_NONE, JSON_OR_NONE, TEXT_OR_NONE, FLAG)),
    # id, namespace, whether all namespaces, prefix, since, consumer, whether initial
    "next": Shape((WHOLE, WHOLE, NUMBER_OR_NONE)),  # id, the watch's id, timeout
    "unwatch": Shape((WHOLE,)),  # the watch's id
    "wait": Shape((WHOLE, TEXT, TEXT, NUMBER_OR_NONE)),  # id, namespace, key, timeout
    "result": Shape((JSON,)),
    "raised": Shape((TEXT, TEXT, TEXT, FLAG)),  # type, message, traceback, whether before its `run` was called
    "invalid_agent": Shape((TEXT, TEXT)),  # message, details
    "invalid_result": Shape((TEXT, TEXT)),  # message, path
    "result_too_big": Shape((WHOLE,)),  # bytes
    "exited": Shape((WHOLE, TEXT, FLAG)),  # code, message, whether before its `run` was called
}
"""Messages on the control channel to the host."""

WATCHING = frozenset({"watch", "next", "unwatch", "wait"})
"""Kinds of messages to the host for watching changes and waiting for them."""

ANSWERS_TO_WAITS = frozenset({"changes", "value", "refused"})
"""Kinds of messages to the agent process that reply to those in `WATCHING`."""

WATCHES = ("watch", "watch_all", "wait_for")
"""Operations for `WATCHING`, by the names used in permissions and the timeline."""

LOST_CHANNEL_EXIT_CODE = 121
"""Exit code of an agent process that cannot report its outcome because the agent closed the control channel."""

HEAD = Shape((WHOLE, TEXT, TEXT))
BOUND_HEAD = Shape((WHOLE, TEXT))


def read_request(parts: list[Any]) -> tuple[int, str, str, int | None, list[Any]]:
    """Check a request and return its id, operation, namespace, maximum number of keys and arguments; or raise `FrameError`."""
    if not HEAD.fits(parts[:3]):
        raise FrameError("a request that does not begin with an id, an operation and a namespace")
    number, operation, namespace = parts[:3]
    max_keys: int | None = None
    if operation == BOUNDED:
        if not BOUND_HEAD.fits(parts[3:5]) or parts[4] not in MAY_ADD:
            raise FrameError("an invalid bound, or a bound on an operation that takes none")
        max_keys, operation = parts[3:5]
        del parts[3:5]
    shape = OPERATIONS.get(operation)
    if shape is None:
        raise FrameError(f"a request for the unknown operation {operation[:64]!r}")
    arguments = parts[3:]
    if not shape.fits(arguments):
        raise FrameError(f"a request for {operation!r} with arguments of the wrong types or number")
    return number, operation, namespace, max_keys, arguments


def read_from_child(parts: list[Any]) -> tuple[str, list[Any]]:
    """Check a message on the control channel and return its kind and parts, or raise `FrameError`."""
    kind = parts[0] if parts and type(parts[0]) is str else ""
    shape = FROM_CHILD.get(kind)
    if shape is None:
        raise FrameError(f"a message of the unknown kind {kind[:64]!r}")
    if not shape.fits(parts[1:]):
        raise FrameError(f"a message {kind!r} with parts of the wrong types or number")
    return kind, parts[1:]
