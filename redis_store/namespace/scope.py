"""The scope of a handle: everything that an operation needs besides its arguments."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from redis_store.errors import LimitExceeded
from redis_store.limits import ANY_SIZE, UNBOUNDED, CallBounds, Limits, LogBounds
from redis_store.namespace.access import EVERYTHING, Access
from redis_store.namespace.keys import (
    MAX_AGENT_BYTES,
    NamespaceKeys,
    UserKeys,
    decode_name,
    encode_name,
    encode_namespace,
)
from redis_store.stats import Counters, HitCounts
from redis_store.values.codec import Codec, JsonText


@dataclass(frozen=True, slots=True)
class Writer:
    """The writer, in the forms that the scripts take."""

    agent_json: str = ""
    """The agent's name as a JSON string without raw quotes or backslashes inside it, or empty."""
    log_head: str = "{"
    """The beginning of a change-log entry, before its numbers: ``{`` or ``{"agent":...,``."""
    author: str = ""
    """The agent and the run for infos (`scripts/info_text.lua`)."""

    @classmethod
    def of(cls, agent: str | None, run: str | None, root: str | None = None) -> Writer:
        """Check the name of an agent, the id of its run and the agent of the outermost run, and return the writer."""
        agent_json = "" if agent is None else _quoted(agent, "agent name")
        head = "{" if agent is None else f'{{"agent":{agent_json},'
        author = agent_json
        if run is not None:
            author += f',"run":{_quoted(run, "run id")}'
            head += f'"run":{_quoted(run, "run id")},'
        if root is not None:
            head += f'"root":{_quoted(root, "agent name")},'
        return cls(agent_json, head, author)


@dataclass(frozen=True, slots=True)
class Scope:
    """One namespace of one user as one writer sees it, with its codec, limits and rights."""

    user: UserKeys
    namespace: str
    writer: Writer
    codec: Codec
    limits: Limits
    log: LogBounds
    ttl_ms: int | None = None
    """The default ttl of values written through this handle, in ms; None stands for no expiry."""
    access: Access = EVERYTHING
    max_keys: int | None = None
    """The number of keys above which a write through this handle evicts others; None stands for no bound."""
    counters: Counters = field(default_factory=Counters)
    """The counters of the store."""
    max_read_bytes: int = ANY_SIZE
    """Bound on the bytes that one call may read; set by stores that read for others (`brokers/lease.py`)."""
    bounds: CallBounds = UNBOUNDED
    """Bounds on single calls; set by the same stores."""
    hits: HitCounts = field(default_factory=HitCounts, repr=False, compare=False)
    """The hits that the client has not reported yet."""
    name: bytes = field(init=False)
    """The namespace's name as it is stored in the registry."""
    keys: NamespaceKeys = field(init=False, repr=False, compare=False)
    readable: bool = field(init=False)
    writable: bool = field(init=False)
    script_keys: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    """The KEYS of the scripts that write."""
    delete_keys: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    """The KEYS of the scripts that delete. The claims are among them, so that a value being computed is not stored later."""
    script_head: tuple[bytes | str | int, ...] = field(init=False)
    """The first ARGV of these scripts (`scripts/prelude.lua`)."""

    def __post_init__(self) -> None:
        """Check the namespace's name, and work out what operations need of it."""
        name = encode_namespace(self.namespace)
        everything = self.access is EVERYTHING
        # Written out, because a service makes a scope for each request.
        put = object.__setattr__
        put(self, "readable", everything or self.access.may_read(self.namespace))
        put(self, "writable", everything or self.access.may_write(self.namespace))
        put(self, "name", name)
        put(self, "script_head", (name, self.writer.log_head, self.log.entries, self.log.bytes_for_scripts))
        if self.user.form.tagged is None:
            put(self, "__class__", _LateScope)
        else:
            self._build()

    def _build(self) -> None:
        keys = self.user.of_stored(self.name)
        script_keys = (keys.data, keys.registry, keys.info, keys.log)
        put = object.__setattr__
        put(self, "delete_keys", (*script_keys, keys.flight))
        put(self, "script_keys", script_keys)
        put(self, "keys", keys)

    def moved(self, namespace: str, ttl_ms: int | None = None, max_keys: int | None = None) -> Scope:
        """Return this scope for another namespace. A default ttl and `max_keys` are not carried over."""
        same = self.writer, self.codec, self.limits, self.log
        shared = self.max_read_bytes, self.bounds, self.hits
        return Scope(self.user, namespace, *same, ttl_ms, self.access, max_keys, self.counters, *shared)

    def narrowed(self, access: Access) -> Scope:
        """Return this scope with only those of its rights that `access` includes."""
        return replace(self, access=self.access.narrowed(access))

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

    def keys_of_name(self, kind: str, name: str) -> UserKeys:
        """Return the builder of the keys of a name: the user's, or an agent's own; or raise `AccessDenied`.

        `kind` is a field of `Names`.
        """
        names = self.access.names
        return self.user if names.is_shared(kind, name) else self.user.own(names.agent)

    def check_usable(self, kind: str) -> None:
        """Raise `AccessDenied` if locks or limits may not be used: they need the right to write, or one of their own."""
        if not self.access.names.are_granted(kind):
            self.check_writes_somewhere()

    def check_writes_somewhere(self) -> None:
        """Raise `AccessDenied` if no namespace may be written, for writes that belong to the user and not to a namespace."""
        if not self.access.write:
            raise self.access.refusal("write", self.namespace)

    def as_json_text(self, errors_as_values: bool = False) -> Scope:
        """Return this scope with values as JSON text."""
        codec = JsonText(self.codec.packing, self.max_read_bytes, self.bounds.values, errors_as_values)
        return replace(self, codec=codec)

    def packed(self, text: bytes, field: bytes) -> bytes:
        """Return the bytes to store for a JSON text, or raise `LimitExceeded` if it is too long for one value."""
        return self.codec.packing.pack(check_value_size(text, self.limits.max_value_bytes, field))


class _LateScope(Scope):
    """A scope made while the form of the keys was unknown. A class of its own, because `__getattr__` makes attributes slower."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        """Build the Redis keys that were not built at first. Python calls this for what is not there."""
        if name not in ("keys", "script_keys", "delete_keys"):
            raise AttributeError(name)
        self._build()
        object.__setattr__(self, "__class__", Scope)
        return getattr(self, name)


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
