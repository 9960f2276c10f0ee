"""Where an operation works, and for whom: everything it needs to know beside its arguments."""

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
    """Who writes, in the two forms that the scripts want."""

    agent_json: str = ""
    """The agent's name as a JSON string without a raw quote or backslash inside, or empty."""
    log_head: str = "{"
    """The head of a log entry up to where its numbers begin: ``{`` or ``{"agent":...,``."""

    @classmethod
    def of(cls, agent: str | None, run: str | None) -> Writer:
        """Check the names of an agent and of its run."""
        agent_json = "" if agent is None else _quoted(agent, "agent name")
        head = "{" if agent is None else f'{{"agent":{agent_json},'
        if run is not None:
            head += f'"run":{_quoted(run, "run id")},'
        return cls(agent_json, head)


@dataclass(frozen=True, slots=True)
class Scope:
    """One namespace of one user, seen by one writer."""

    user: UserKeys
    namespace: str
    keys: NamespaceKeys
    writer: Writer
    codec: Codec
    limits: Limits
    log: LogBounds
    script_keys: tuple[bytes, ...]
    """The KEYS of every script that writes."""
    script_head: tuple[bytes | str | int, ...]
    """The ARGV that every such script begins with (`scripts/prelude.lua`)."""
    delete_keys: tuple[bytes, ...]
    """The KEYS of every script that deletes: with the hash of what is being computed, so that it cannot come back."""
    access: Access
    readable: bool
    writable: bool
    counters: Counters
    """What the store that this belongs to counts."""
    ttl_ms: int | None = None
    """What is written here lives so long where the call does not say otherwise; None stands for ever."""
    max_keys: int | None = None
    """Other keys go where a write here would make them more; None for no bound."""
    max_read_bytes: int = ANY_SIZE
    """What one call may read; bounded by those who read for others (`lease`)."""

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
        """Check the namespace's name and put together what its operations need."""
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
        """The same for another namespace; a time to live and a bound belong to the namespace that they were said for."""
        codec, limits, log = self.codec, self.limits, self.log
        same = self.access, max_keys, self.counters, self.max_read_bytes
        return Scope.of(self.user, namespace, self.writer, codec, limits, log, ttl_ms, *same)

    def narrowed(self, access: Access) -> Scope:
        """The same with no more rights than these."""
        access = self.access.narrowed(access)
        return replace(
            self,
            access=access,
            readable=access.may_read(self.namespace),
            writable=access.may_write(self.namespace),
        )

    def check_readable(self) -> None:
        """Raise `AccessDenied` where this namespace may not be read; every operation that reads asks first."""
        if not self.readable:
            raise self.access.refusal("read", self.namespace)

    def check_writable(self) -> None:
        """Raise `AccessDenied` where this namespace may not be written."""
        if not self.writable:
            raise self.access.refusal("write", self.namespace)

    def check_changeable(self) -> None:
        """Raise `AccessDenied` where this namespace may not be read and written, for what writes by what it read."""
        self.check_readable()
        self.check_writable()

    def check_writes_somewhere(self) -> None:
        """Raise `AccessDenied` where no namespace may be written, for what belongs to the user and to none of them."""
        if not self.access.write:
            raise self.access.refusal("write", self.namespace)

    def as_json_text(self) -> Scope:
        """The same with values as JSON text."""
        return replace(self, codec=JsonText(self.codec.packing, self.max_read_bytes))

    def packed(self, text: bytes, field: bytes) -> bytes:
        """Return what to store for a JSON text, or raise `LimitExceeded` where that is too long for one value."""
        return self.codec.packing.pack(check_value_size(text, self.limits.max_value_bytes, field))


def _quoted(name: str, kind: str) -> str:
    encode_name(name, kind, MAX_AGENT_BYTES)
    inside = json.dumps(name)[1:-1].replace("\\\\", "\\u005c").replace('\\"', "\\u0022")
    return f'"{inside}"'


def check_value_size(text: bytes, limit_bytes: int, field: bytes) -> bytes:
    """Return the text, or raise `LimitExceeded` where it is too long for one value."""
    if len(text) > limit_bytes:
        raise LimitExceeded(
            f"The value of {decode_name(field)!r} takes {len(text):,} bytes as JSON, and at most {limit_bytes:,} are"
            " allowed: store it in parts, or raise max_value_bytes.",
            limit="max_value_bytes",
            limit_bytes=limit_bytes,
            size_bytes=len(text),
        )
    return text
