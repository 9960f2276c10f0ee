"""Messages between an agent process and its host, with the types of their parts; `operations` has those for the store.

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


FROM_CHILD: dict[str, Shape] = {
    "started": Shape(),
    "call": Shape((WHOLE, TEXT, JSON, JSON)),  # id, address of a function, args, kwargs
    "agent": Shape((WHOLE, TEXT, JSON)),  # id, name, input
    "cancel": Shape((WHOLE,)),  # the id of a "call" or "agent"; it is answered all the same, once its work has ended
    "watch": Shape((WHOLE, TEXT, FLAG, TEXT_OR_NONE, JSON_OR_NONE, TEXT_OR_NONE, FLAG)),
    # id, namespace, whether all namespaces, prefix, since, consumer, whether initial
    "next": Shape((WHOLE, WHOLE, NUMBER_OR_NONE)),  # id, the watch's id, timeout
    "unwatch": Shape((WHOLE,)),  # the id of a watch, or of a wait that the agent has given up
    "wait": Shape((WHOLE, TEXT, TEXT, NUMBER_OR_NONE)),  # id, namespace, key, timeout
    "refused_write": Shape((TEXT, TEXT, TEXT_OR_NONE, TEXT)),  # operation, namespace, key, error class
    "result": Shape((JSON,)),
    "raised": Shape((TEXT, TEXT, TEXT, TEXT, TEXT, FLAG)),
    # type, message, advice, builtin classes with spaces between, traceback, whether before its `run` was called
    "invalid_agent": Shape((TEXT, TEXT)),  # message, details
    "invalid_result": Shape((TEXT, TEXT)),  # message, path
    "result_too_big": Shape((WHOLE,)),  # bytes
    "exited": Shape((WHOLE, TEXT, FLAG)),  # code, message, whether before its `run` was called
}
"""Messages on the control channel to the host."""

CALLS = frozenset({"call", "agent"})
"""Kinds of messages to the host that call a tool or an agent. Each gets one answer, under its id."""

MOST_UNDER_WAY = 256
"""Limit of one process's concurrent calls. The process sends no more until one is answered, so that the host hears a "cancel"."""

MOST_HELD = 4
"""Limit of the arguments of the calls under way, in multiples of `Limits.result_bytes`; at the limit no more are sent."""

WATCHING = frozenset({"watch", "next", "unwatch", "wait"})
"""Kinds of messages to the host for watching changes and waiting for them."""

ANSWERS_TO_WAITS = frozenset({"changes", "value", "refused"})
"""Kinds of messages to the agent process that reply to those in `WATCHING`."""

WATCHES = ("watch", "watch_all", "wait_for")
"""Operations for `WATCHING`, by the names used in permissions and the timeline."""

LOST_CHANNEL_EXIT_CODE = 121
"""Exit code of an agent process that cannot report its outcome because the agent closed the control channel."""


def read_from_child(parts: list[Any]) -> tuple[str, list[Any]]:
    """Check a message on the control channel and return its kind and parts, or raise `FrameError`."""
    kind = parts[0] if parts and type(parts[0]) is str else ""
    shape = FROM_CHILD.get(kind)
    if shape is None:
        raise FrameError(f"a message of the unknown kind {kind[:64]!r}")
    if not shape.fits(parts[1:]):
        raise FrameError(f"a message {kind!r} with parts of the wrong types or number")
    return kind, parts[1:]
