"""Messages between a host and its broker process about one agent process, over a socket of their own: the *link*.

The host first sends the agent's identity and permissions as JSON; it closes its side when the agent process has ended. The
broker sends the error that ended the run; the operations of the tree, when its last process has ended; and ``closed``.
Frames have the format of the channels to agents.
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
    """The agent process that the broker shall serve, and its permissions."""

    url: str | None
    """Address of the store, None to take it from the environment; the same in all requests to one broker process."""
    tree: str
    """Id of the tree's first run; the processes of one tree share their limits."""
    who: Who
    user: str
    namespace: str
    granted: Granted
    limits: Limits

    def pack(self) -> list[Part]:
        """Return the request as the host's first message."""
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
        """Read a request from the host's first message."""
        said = json.loads(parts[0])
        read, write = (tuple(Pattern(*one) for one in said[name]) for name in ("read", "write"))
        operations = said["operations"]
        granted = Granted(
            Access(read, write), said["quota_bytes"], None if operations is None else frozenset(operations)
        )
        who, limits = Who(*said["who"]), Limits(**said["limits"])
        return cls(said["url"], said["tree"], who, said["user"], said["namespace"], granted, limits)


def pack_end(error: SandboxError) -> list[Part]:
    """Return the message for an error that ended the run: a protocol violation, or a limit of the tree."""
    if isinstance(error, LimitExceeded):
        return ["limit", type(error).__name__, str(error), error.limit, error.value]
    return ["violation", str(error)]


def unpack_end(kind: str, parts: list[Any]) -> SandboxError:
    """Return the error from a message of `pack_end`."""
    if kind == "limit":
        name, message, limit, value = parts
        error: SandboxError = getattr(errors, name)(message, limit=limit, value=value)
        return error
    return ProtocolViolation(*parts)


def pack_records(timeline: Timeline) -> Iterator[list[Part]]:
    """Yield the messages with a tree's operations."""
    records = timeline.done.items()
    yield ["left_out", timeline.done.left_out]
    for start in range(0, len(records), _RECORDS_AT_ONCE):
        yield ["records", *(part for one in records[start : start + _RECORDS_AT_ONCE] for part in _flat(one))]


def unpack_records(parts: list[Any]) -> Iterator[OperationDone]:
    """Yield the operations from a message of `pack_records`."""
    for start in range(0, len(parts), _RECORD_PARTS):
        time, agent, run, *rest = parts[start : start + _RECORD_PARTS]
        yield OperationDone(time, Who(agent, run), *rest)


def _flat(done: OperationDone) -> list[Part]:
    return [done.time, *done.who, *done[2:]]
