"""Permissions of an agent in its user's store, enforced by the host."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from redis_store.errors import AccessDenied, DataStoreError
from redis_store.namespace.access import EVERYTHING, Access, Pattern, Patterns
from sandbox.errors import InvalidInput, InvalidType
from sandbox.protocol.messages import WATCHES
from sandbox.protocol.operations import OPERATIONS

_NAMES = {
    "scan_page": "iter_keys",
    "scan_items_page": "iter_items",
    "replace": "update",
    "claim_value": "get_or_set",
    "renew_value": "get_or_set",
    "commit_value": "get_or_set",
    "fail_value": "get_or_set",
    "commit_transaction": "transaction",
    "acquire_lock": "lock",
    "renew_lock": "lock",
    "release_lock": "lock",
    "acquire_place": "semaphore",
    "renew_place": "semaphore",
    "release_place": "semaphore",
    "take_moment": "rate_limit",
}
KNOWN_OPERATIONS = frozenset(_NAMES.get(name, name) for name in (*OPERATIONS, *WATCHES))
"""Names of the operations, as agents call them; ``contains`` is ``in``, ``count`` is ``len``.

``get_or_set``, ``update`` and the reads of a ``transaction`` also need ``get``, because they read before they write.
"""

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """Namespaces that an agent may read and write, the operations that it may use, and a quota.

    A pattern is the name of a namespace, or a prefix followed by ``*`` as the last character; every other character is literal.
    ``{name}`` is replaced by that field of `input_dict`, always literally; ``{{`` and ``}}`` stand for braces.

    Without `read`, `write` and `namespaces` every namespace is allowed. If any of them is given, only the listed ones are.
    Permission to write does not include permission to read. Nested agents have the permissions of their run.
    """

    read: Iterable[str] | None = None
    """Patterns of the namespaces that may be read."""
    write: Iterable[str] | None = None
    """Patterns of the namespaces that may be written."""
    namespaces: Iterable[str] | None = None
    """Patterns of the namespaces that may be both read and written."""
    quota_bytes: int | None = None
    """Server memory that all writable namespaces together may take, in bytes, by the server's estimate; None for no quota."""
    operations: Collection[str] | None = None
    """Names of the allowed operations, such as ``get``; None for all."""

    def __post_init__(self) -> None:
        for name in ("read", "write", "namespaces"):
            written = getattr(self, name)
            if written is not None:
                object.__setattr__(self, name, _templates(written, name))
        if self.operations is not None:
            object.__setattr__(self, "operations", _operations(self.operations))
        _check_quota(self.quota_bytes)

    def granted(self, input_dict: Mapping[str, Any]) -> Granted:
        """Return the permissions with fields of the input filled in, or raise `InvalidInput`."""
        if self.read is None and self.write is None and self.namespaces is None:
            return Granted(EVERYTHING, self.quota_bytes, _as_protocol(self.operations))
        both = _filled(self.namespaces, input_dict)
        access = Access(_filled(self.read, input_dict) + both, _filled(self.write, input_dict) + both)
        return Granted(access, self.quota_bytes, _as_protocol(self.operations))


@dataclass(frozen=True, slots=True)
class Granted:
    """Permissions of one run, with fields of its input filled in."""

    access: Access = EVERYTHING
    quota_bytes: int | None = None
    operations: frozenset[str] | None = None

    def check(self, operation: str) -> None:
        """Raise `AccessDenied` if the operation is not allowed."""
        if self.operations is None or operation in self.operations:
            return
        allowed = sorted({_NAMES.get(name, name) for name in self.operations})
        raise AccessDenied(
            f"The operation {_NAMES.get(operation, operation)!r} is not allowed here; allowed operations:"
            f" {', '.join(map(repr, allowed)) or 'none'}.",
            action=operation,
            readable=[str(pattern) for pattern in self.access.read],
            writable=[str(pattern) for pattern in self.access.write],
        )


def _templates(written: object, what: str) -> tuple[str, ...]:
    if isinstance(written, (str, bytes)) or not isinstance(written, Iterable):
        raise InvalidType(
            f"Permissions.{what} must be a list of namespace patterns, not {type(written).__name__}: put a single one in a"
            " list."
        )
    templates = tuple(written)
    for template in templates:
        try:
            Pattern.of(template)
        except DataStoreError as error:
            kind = InvalidType if isinstance(error, TypeError) else InvalidInput
            raise kind(f"Permissions.{what}: {error}") from None
    return templates


def _operations(names: object) -> frozenset[str]:
    if isinstance(names, (str, bytes)) or not isinstance(names, Collection):
        raise InvalidType(f"Permissions.operations must be a list of names, not {type(names).__name__}.")
    unknown = [name for name in names if name not in KNOWN_OPERATIONS]
    if unknown:
        known = ", ".join(sorted(KNOWN_OPERATIONS))
        raise InvalidInput(
            f"Permissions.operations contains {unknown[0]!r}, which is not an operation; give any of: {known}."
        )
    return frozenset(names)


def _as_protocol(names: Collection[str] | None) -> frozenset[str] | None:
    if names is None:
        return None
    return frozenset(name for name in (*OPERATIONS, *WATCHES) if _NAMES.get(name, name) in names)


def _check_quota(quota: object) -> None:
    if quota is None:
        return
    if isinstance(quota, bool) or not isinstance(quota, int):
        raise InvalidType(f"Permissions.quota_bytes must be an int or None, not {type(quota).__name__}.")
    if quota < 1:
        raise InvalidInput(
            f"Permissions.quota_bytes={quota} cannot be used: give at least 1, or grant no write access."
        )


def _filled(templates: Iterable[str] | None, input_dict: Mapping[str, Any]) -> Patterns:
    return tuple(_fill(template, input_dict) for template in templates or ())


def _fill(template: str, input_dict: Mapping[str, Any]) -> Pattern:
    """Return a pattern with fields of the input filled in; a ``*`` from the input is literal."""
    pattern = Pattern.of(template)

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return match.group()[0]
        given = input_dict.get(name)
        if isinstance(given, bool) or not isinstance(given, (str, int)) or given == "":
            raise InvalidInput(
                f"The permission {template!r} needs {name!r} in input_dict, as a non-empty str or an int."
            )
        return str(given)

    return replace(pattern, text=_PLACE.sub(value, pattern.text))
