"""What may be said between an agent's process and its host: every message, with the types of its parts.

Data channel, one at a time: ``[id, operation, namespace, argument...]`` is answered by ``[id, 1, part...]`` or by
``[id, 0, error class, message, facts as JSON]``. Control channel, many at once: ``[kind, part...]``. JSON travels as text in
bytes. The user is bound to the channel and never part of a message.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from sandbox._frames import FrameError

Kinds: TypeAlias = frozenset[type]

_NONE = type(None)
TEXT: Kinds = frozenset({str})
TEXT_OR_NONE: Kinds = frozenset({str, _NONE})
FLAG: Kinds = frozenset({bool})
WHOLE: Kinds = frozenset({int})
NUMBER_OR_NONE: Kinds = frozenset({int, float, _NONE})
JSON: Kinds = frozenset({bytes})
JSON_OR_NONE: Kinds = frozenset({bytes, _NONE})


class Shape(NamedTuple):
    """The parts of a message after its head: these, then any number of repetitions of those."""

    fixed: tuple[Kinds, ...] = ()
    repeated: tuple[Kinds, ...] = ()

    def fits(self, parts: list[Any]) -> bool:
        """Whether the parts are of the types and the number that this shape asks for."""
        if not self.repeated:  # most messages, and those in a hurry
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
}
"""The operations of the store, with the arguments that follow id, name and namespace."""

WRITES = frozenset({"set", "delete", "delete_many", "set_many", "clear"})
"""Operations that write to their namespace; all others but `list_namespaces` read it."""

FROM_CHILD: dict[str, Shape] = {
    "started": Shape(),
    "call": Shape((WHOLE, TEXT, JSON, JSON)),  # id, address of a function, args, kwargs
    "agent": Shape((WHOLE, TEXT, JSON)),  # id, name, input
    "watch": Shape((WHOLE, TEXT, FLAG, TEXT_OR_NONE, JSON_OR_NONE, TEXT_OR_NONE, FLAG)),
    # id, namespace, all namespaces?, prefix, since, consumer, initial?
    "next": Shape((WHOLE, WHOLE, NUMBER_OR_NONE)),  # id, the watch's id, timeout
    "unwatch": Shape((WHOLE,)),  # the watch's id
    "wait": Shape((WHOLE, TEXT, TEXT, NUMBER_OR_NONE)),  # id, namespace, key, timeout
    "result": Shape((JSON,)),
    "raised": Shape((TEXT, TEXT, TEXT)),  # type, message, traceback
    "invalid_agent": Shape((TEXT, TEXT)),  # message, details
    "invalid_result": Shape((TEXT, TEXT)),  # message, path
    "result_too_big": Shape((WHOLE,)),  # bytes
    "exited": Shape((WHOLE, TEXT)),  # code, message
}
"""What the control channel carries to the host."""

WATCHING = frozenset({"watch", "next", "unwatch", "wait"})
"""Kinds that are about changes."""

ANSWERS_TO_WAITS = frozenset({"changes", "value", "refused"})
"""Kinds of messages to the child that answer those."""

WATCHES = ("watch", "watch_all", "wait_for")
"""What an agent calls for them, by the names that permissions and the timeline have for it."""

LOST_CHANNEL_EXIT_CODE = 121
"""With this the process ends that cannot say how its agent fared, because the agent has closed the control channel."""

HEAD = Shape((WHOLE, TEXT, TEXT))


def read_request(parts: list[Any]) -> tuple[int, str, str, list[Any]]:
    """Return id, operation, namespace and arguments of a checked request, or raise `FrameError`."""
    if not HEAD.fits(parts[:3]):
        raise FrameError("a request that does not begin with an id, an operation and a namespace")
    number, operation, namespace = parts[:3]
    shape = OPERATIONS.get(operation)
    if shape is None:
        raise FrameError(f"a request for the unknown operation {operation[:64]!r}")
    arguments = parts[3:]
    if not shape.fits(arguments):
        raise FrameError(f"a request for {operation!r} with arguments of the wrong types or number")
    return number, operation, namespace, arguments


def read_from_child(parts: list[Any]) -> tuple[str, list[Any]]:
    """Return kind and parts of a checked message on the control channel, or raise `FrameError`."""
    kind = parts[0] if parts and type(parts[0]) is str else ""
    shape = FROM_CHILD.get(kind)
    if shape is None:
        raise FrameError(f"a message of the unknown kind {kind[:64]!r}")
    if not shape.fits(parts[1:]):
        raise FrameError(f"a message {kind!r} with parts of the wrong types or number")
    return kind, parts[1:]
