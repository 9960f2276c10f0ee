"""The scope of a handle: everything that an operation needs besides its arguments."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from redis_store.errors import LimitExceeded
from redis_store.limits import ANY_SIZE, Limits, LogBounds
from redis_store.namespace.access import EVERYTHING, Access
from redis_store.namespace.keys import MAX_AGENT_BYTES, NamespaceKeys, UserKeys, decode_name, encode_name
from redis_store.stats import Counters
from redis_store.values.codec import Codec, JsonText


@dataclass(frozen=True, slots=True)
class Writer:
    """The writer, in the two forms that the scripts take."""

    agent_json: str = ""
    """The agent's name as a JSON string without raw quotes or backslashes inside it, or empty."""
    log_head: str = "{"
    """The beginning of a change-log entry, before its numbers: ``{`` or ``{"agent":...,``."""

    @classmethod
    def of(cls, agent: str | None, run: str | None) -> Writer:
        """Check the name of an agent and the id of its run, and return the writer."""
        agent_json = "" if agent is None else _quoted(agent, "agent name")
        head = "{" if agent is None else f'{{"agent":{agent_json},'
        if run is not None:
            head += f'"run":{_quoted(run, "run id")},'
        return cls(agent_json, head)


@dataclass(frozen=True, slots=True)
class Scope:
    """One namespace of one user as one writer sees it, with its codec, limits and rights."""

    user: UserKeys
    namespace: str
    keys: NamespaceKeys
    writer: Writer
    codec: Codec
    limits: Limits
    log: LogBounds
    script_keys: tuple[bytes, ...]
    """The KEYS of the scripts that write."""
    script_head: tuple[bytes | str | int, ...]
    """The first ARGV of these scripts (`scripts/prelude.lua`)."""
    delete_keys: tuple[bytes, ...]
    """The KEYS of the scripts that delete. The claims are among them, so that a value being computed is not stored later."""
    access: Access
    readable: bool
    writable: bool
    counters: Counters
    """The counters of the store."""
    ttl_ms: int | None = None
    """The default ttl of values written through this handle, in ms; None stands for no expiry."""
    max_keys: int | None = None
    """The number of keys above which a write through this handle evicts others; None stands for no bound."""
    max_read_bytes: int = ANY_SIZE
    """Bound on the bytes that one call may read; set by stores that read for others (`brokers/lease.py`)."""

    @classmethod
    def of(
        cls,
        user: UserKeys,
        namespace: str,
        writer: Writer,
        codec: Codec,
        limits: Limits,
        log: LogBounds,
        ttl_ms: int | None = None,
        access: Access = EVERYTHING,
        max_keys: int | None = None,
        counters: Counters | None = None,
        max_read_bytes: int = ANY_SIZE,
    ) -> Scope:
        """Check the namespace's name and return its scope."""
        keys = user.namespace(namespace)
        script_keys = (keys.data, keys.registry, keys.info, keys.log)
        script_head = (keys.name, writer.log_head, log.entries, log.max_bytes)
        return cls(
            user,
            namespace,
            keys,
            writer,
            codec,
            limits,
            log,
            script_keys,
            script_head,
            delete_keys=(*script_keys, keys.flight),
            access=access,
            readable=access.may_read(namespace),
            writable=access.may_write(namespace),
            counters=counters or Counters(),
            ttl_ms=ttl_ms,
            max_keys=max_keys,
            max_read_bytes=max_read_bytes,
        )

    def moved(self, namespace: str, ttl_ms: int | None = None, max_keys: int | None = None) -> Scope:
        """Return this scope for another namespace. A default ttl and `max_keys` are not carried over."""
        codec, limits, log = self.codec, self.limits, self.log
        same = self.access, max_keys, self.counters, self.max_read_bytes
        return Scope.of(self.user, namespace, self.writer, codec, limits, log, ttl_ms, *same)

    def narrowed(self, access: Access) -> Scope:
        """Return this scope with only those of its rights that `access` includes."""
        access = self.access.narrowed(access)
        return replace(
            self,
            access=access,
            readable=access.may_read(self.namespace),
            writable=access.may_write(self.namespace),
        )

    def check_readable(self) -> None:
        """Raise `AccessDenied` if this namespace may not be read. Every operation that reads calls it first."""
        if not self.readable:
            raise self.access.refusal("read", self.namespace)

    def check_writable(self) -> None:
        """Raise `AccessDenied` if this namespace may not be written."""
        if not self.writable:
            raise self.access.refusal("write", self.namespace)

    def check_changeable(self) -> None:
        """Raise `AccessDenied` unless this namespace may be read and written, for writes that depend on a read."""
        self.check_readable()
        self.check_writable()

    def check_writes_somewhere(self) -> None:
        """Raise `AccessDenied` if no namespace may be written, for writes that belong to the user and not to a namespace."""
        if not self.access.write:
            raise self.access.refusal("write", self.namespace)

    def as_json_text(self) -> Scope:
        """Return this scope with values as JSON text."""
        return replace(self, codec=JsonText(self.codec.packing, self.max_read_bytes))

    def packed(self, text: bytes, field: bytes) -> bytes:
        """Return the bytes to store for a JSON text, or raise `LimitExceeded` if it is too long for one value."""
        return self.codec.packing.pack(check_value_size(text, self.limits.max_value_bytes, field))


def _quoted(name: str, kind: str) -> str:
    encode_name(name, kind, MAX_AGENT_BYTES)
    inside = json.dumps(name)[1:-1].replace("\\\\", "\\u005c").replace('\\"', "\\u0022")
    return f'"{inside}"'


def check_value_size(text: bytes, limit_bytes: int, field: bytes) -> bytes:
    """Return the text, or raise `LimitExceeded` if it is too long for one value."""
    if len(text) > limit_bytes:
        raise LimitExceeded(
            f"The value of {decode_name(field)!r} takes {len(text):,} bytes as JSON, and at most {limit_bytes:,} are"
            " allowed: store it in parts, or raise max_value_bytes.",
            limit="max_value_bytes",
            limit_bytes=limit_bytes,
            size_bytes=len(text),
        )
    return text
