"""What a host and its broker's process say to each other about one agent's process, over a socket of its own: the *link*.

The host begins with who asks and what they may do, as JSON, and says by closing its side that the agent is gone. The broker
says what ended the run; what the tree did, when the last process of it is gone; and ``closed``. Frames are those of the
channels to agents.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from redis_store.namespace.access import Access, Pattern
from sandbox import errors
from sandbox.errors import LimitExceeded, ProtocolViolation, SandboxError
from sandbox.limits import Limits
from sandbox.permissions import Granted
from sandbox.protocol.frames import Part
from sandbox.record.timeline import OperationDone, Timeline, Who

MAX_FRAME_BYTES = 2**32 - 1
_RECORDS_AT_ONCE = 1000
_RECORD_PARTS = len(OperationDone._fields) - 1 + len(Who._fields)


class Request(NamedTuple):
    """For whom the broker is to work."""

    url: str | None
    """Where the store is, None for what the environment says; the same in all requests to one process."""
    tree: str
    """The id of the tree's first run: the processes of one tree share what they may use."""
    who: Who
    user: str
    namespace: str
    granted: Granted
    limits: Limits

    def pack(self) -> list[Part]:
        """Return the first message of a host."""
        access, operations = self.granted.access, self.granted.operations
        said = {
            "url": self.url,
            "tree": self.tree,
            "who": self.who,
            "user": self.user,
            "namespace": self.namespace,
            "read": [[one.text, one.is_prefix] for one in access.read],
            "write": [[one.text, one.is_prefix] for one in access.write],
            "quota_bytes": self.granted.quota_bytes,
            "operations": None if operations is None else sorted(operations),
            "limits": asdict(self.limits),
        }
        return [json.dumps(said).encode()]

    @classmethod
    def unpack(cls, parts: list[Any]) -> Request:
        """Read the first message of a host."""
        said = json.loads(parts[0])
        read, write = (tuple(Pattern(*one) for one in said[name]) for name in ("read", "write"))
        operations = said["operations"]
        granted = Granted(
            Access(read, write), said["quota_bytes"], None if operations is None else frozenset(operations)
        )
        who, limits = Who(*said["who"]), Limits(**said["limits"])
        return cls(said["url"], said["tree"], who, said["user"], said["namespace"], granted, limits)


def pack_end(error: SandboxError) -> list[Part]:
    """Return the message that says what ended the run: a broken rule, or a limit of the tree."""
    if isinstance(error, LimitExceeded):
        return ["limit", type(error).__name__, str(error), error.limit, error.value]
    return ["violation", str(error)]


def unpack_end(kind: str, parts: list[Any]) -> SandboxError:
    """Return the error that such a message is about."""
    if kind == "limit":
        name, message, limit, value = parts
        error: SandboxError = getattr(errors, name)(message, limit=limit, value=value)
        return error
    return ProtocolViolation(*parts)


def pack_records(timeline: Timeline) -> Iterator[list[Part]]:
    """Give the messages that hold what a tree did."""
    records = timeline.done.items()
    yield ["left_out", timeline.done.left_out]
    for start in range(0, len(records), _RECORDS_AT_ONCE):
        yield ["records", *(part for one in records[start : start + _RECORDS_AT_ONCE] for part in _flat(one))]


def unpack_records(parts: list[Any]) -> Iterator[OperationDone]:
    """Give the records that such a message holds."""
    for start in range(0, len(parts), _RECORD_PARTS):
        time, agent, run, *rest = parts[start : start + _RECORD_PARTS]
        yield OperationDone(time, Who(agent, run), *rest)


def _flat(done: OperationDone) -> list[Part]:
    return [done.time, *done.who, *done[2:]]
