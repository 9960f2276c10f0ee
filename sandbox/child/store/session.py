"""One namespace as an agent uses it: the channel to the host, the rights and the defaults. Shared by all modules here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from redis_store.errors import CorruptValue, UnsupportedEncoding
from redis_store.namespace.access import EVERYTHING, Access
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES, encode_name
from redis_store.types import Json, Ttl
from redis_store.values import rules
from sandbox.child.channels import DataChannel
from sandbox.child.store.arguments import max_keys_number, ttl_seconds
from sandbox.protocol.messages import BOUNDED, CHANGES, MAY_ADD, WRITES

_RESERVED_FIRST_BYTE = 0x01


@dataclass(frozen=True, slots=True)
class Session:
    """A caller of the host for one namespace of the run's user."""

    channel: DataChannel
    user: str
    namespace: str
    access: Access = EVERYTHING
    ttl_s: float | None = None
    """Default ttl of the namespace, in seconds."""
    max_keys: int | None = None
    """Limit on the namespace's keys; writes beyond it evict."""

    def moved(self, name: str, ttl: Ttl = None, max_keys: int | None = None) -> Session:
        """Return the session of another namespace, with its own default ttl and bound."""
        ttl_s = ttl_seconds(ttl, None)
        most = max_keys_number(max_keys)
        encode_name(name, "namespace", MAX_NAMESPACE_BYTES)
        return replace(self, namespace=str.__str__(name), ttl_s=ttl_s, max_keys=most)

    def narrowed(self, access: Access) -> Session:
        """Return the session with no more rights than these."""
        return replace(self, access=self.access.narrowed(access))

    def call(self, operation: str, *arguments: Any) -> list[Any]:
        """Call an operation on the namespace and return the parts of the reply."""
        if self.access is not EVERYTHING:
            self.check(operation)
        if self.max_keys is not None and operation in MAY_ADD:
            return self.channel.call(BOUNDED, self.namespace, self.max_keys, operation, *arguments)
        return self.channel.call(operation, self.namespace, *arguments)

    def call_for_user(self, operation: str, *arguments: Any) -> list[Any]:
        """Call an operation that belongs to no namespace or to several. The caller has checked the rights."""
        return self.channel.call(operation, self.namespace, *arguments)

    def check(self, operation: str) -> None:
        """Raise `AccessDenied` if this handle was narrowed. The host checks the rights of the whole run."""
        if (operation in CHANGES or operation not in WRITES) and not self.access.may_read(self.namespace):
            raise self.access.refusal("read", self.namespace)
        if (operation in CHANGES or operation in WRITES) and not self.access.may_write(self.namespace):
            raise self.access.refusal("write", self.namespace)

    def check_writes_somewhere(self) -> None:
        """Raise `AccessDenied` if this handle may write no namespace."""
        if not self.access.write:
            raise self.access.refusal("write", self.namespace)

    def decode(self, text: bytes, key: str) -> Json:
        """Return the value of stored bytes, or raise a `StoredDataError` that names the key."""
        try:
            return rules.load(text)
        except (ValueError, RecursionError):
            raise self._undecodable(text, key) from None

    def _undecodable(self, text: bytes, key: str) -> CorruptValue | UnsupportedEncoding:
        where = f"The value of {key!r} in namespace {self.namespace!r}"
        if text[:1] == bytes([_RESERVED_FIRST_BYTE]):
            return UnsupportedEncoding(
                f"{where} has an encoding that this version cannot read: upgrade agent-data-store.",
                namespace=self.namespace,
                key=key,
            )
        return CorruptValue(
            f"{where} is not JSON (it begins with {text[:32]!r}): set it again, or delete it.",
            namespace=self.namespace,
            key=key,
            first_bytes=text[:32],
        )
