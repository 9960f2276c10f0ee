"""Permissions of an agent in its user's store, enforced by the host."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from redis_store.errors import AccessDenied, DataStoreError
from redis_store.limits import MAX_BOUND, shown
from redis_store.namespace.access import EVERYTHING, Access, Names, Pattern, Patterns
from redis_store.options import names_its_fields
from sandbox.errors import InvalidInput, InvalidType
from sandbox.protocol.messages import WATCHES
from sandbox.protocol.operations import OPERATIONS

AGENTS_NAMES = {
    "scan_page": "iter_keys",
    "scan_items_page": "iter_items",
    "scan_infos_page": "iter_items_info",
    "sequence_page": "sequence_range",
    "replace": "update",
    "look_value": "get_or_set",
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
"""The names by which agents call the operations that have other names in messages."""

KNOWN_OPERATIONS = frozenset(AGENTS_NAMES.get(name, name) for name in (*OPERATIONS, *WATCHES))
"""Names of the operations, as agents call them. ``contains`` is also ``in``, and ``count`` is ``len``. ``set_if_version`` and
``delete_if_version`` are ``set`` and ``delete`` with `if_version`. ``get_many_info``, ``get_all_info`` and ``iter_items_info``
are the reads with ``info=True``. ``get_touched`` is ``get`` with `touch`; ``get_sliding`` and ``get_many_sliding`` are the reads
of a handle with `sliding`. Those of a `sequence` begin with ``sequence_``.

Some operations need a second one, because of what they reveal or delete (`Row.needs`, and the table in docs/security.md):
``get_or_set``, ``update``, ``pop`` and the reads of a ``transaction`` need ``get``; its deletions, and all that can add keys in a
namespace with ``max_keys``, need ``delete``; comparisons of versions and reads with infos need ``info``.
"""

_KINDS_OF_NAMES = ("locks", "limits", "tags", "consumers")

PATTERNS = ("read", "write", "namespaces", *_KINDS_OF_NAMES)
"""The fields that are lists of patterns."""

DEFAULT_AGENT = "agent"
"""The name of an agent that was passed as source code without a name."""

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")


@names_its_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """Namespaces that an agent may read and write, names that it shares, the operations that it may use, and a quota.

    A pattern is the name of a namespace, or a prefix followed by ``*`` as the last character; every other character is literal.
    ``{name}`` is replaced by that field of `input_dict`, always literally; ``{{`` and ``}}`` stand for braces.

    Without `read`, `write` and `namespaces` every namespace is allowed. If any of them is given, only the listed ones are.
    Permission to write does not include permission to read. Nested agents have the permissions of their run.

    `locks`, `limits`, `tags` and `consumers` list the names that the agent shares with its user's other agents and with the host;
    others raise `AccessDenied`. Without one of them, an agent whose namespaces are limited has names of its own: every name
    works, and only runs with the same agent name share it. An agent whose namespaces are not limited shares all names.
    """

    read: Iterable[str] | None = None
    """Patterns of the namespaces that may be read."""
    write: Iterable[str] | None = None
    """Patterns of the namespaces that may be written."""
    namespaces: Iterable[str] | None = None
    """Patterns of the namespaces that may be both read and written."""
    locks: Iterable[str] | None = None
    """Patterns of the locks and semaphores that are shared."""
    limits: Iterable[str] | None = None
    """Patterns of the rate limits that are shared."""
    tags: Iterable[str] | None = None
    """Patterns of the tags that are shared."""
    consumers: Iterable[str] | None = None
    """Patterns of the consumers that are shared, whose cursors the agent may move."""
    quota_bytes: int | None = None
    """Server memory that all writable namespaces together may take, in bytes, by the server's estimate; None for no quota.

    It counts data, info, claims and change logs, and what the agent stores beside them: tags, locks, limits and consumers.
    """
    operations: Collection[str] | None = None
    """Names of the allowed operations, such as ``get``; None for all."""

    def __post_init__(self) -> None:
        for name in PATTERNS:
            written = getattr(self, name)
            if written is not None:
                object.__setattr__(self, name, _templates(written, name))
        if self.operations is not None:
            object.__setattr__(self, "operations", _operations(self.operations))
        _check_quota(self.quota_bytes)

    def granted(self, input_dict: Mapping[str, Any], agent: str = DEFAULT_AGENT) -> Granted:
        """Return the permissions with fields of the input filled in, or raise `InvalidInput`.

        `agent` is the agent to whom names belong that are not shared.
        """
        access = EVERYTHING
        limited = not (self.read is None and self.write is None and self.namespaces is None)
        if limited:
            both = _filled(self.namespaces, input_dict)
            access = Access(_filled(self.read, input_dict) + both, _filled(self.write, input_dict) + both)
        given = {kind: getattr(self, kind) for kind in _KINDS_OF_NAMES}
        shared = {kind: _filled(one, input_dict) for kind, one in given.items() if one is not None}
        if limited or shared:
            unshared = dict.fromkeys(_KINDS_OF_NAMES, None if limited else EVERYTHING.names.locks)
            access = replace(access, names=Names(agent, **(unshared | shared)))
        return Granted(access, self.quota_bytes, _as_protocol(self.operations))


@dataclass(frozen=True, slots=True)
class Granted:
    """Permissions of one run, with fields of its input filled in."""

    access: Access = EVERYTHING
    quota_bytes: int | None = None
    operations: frozenset[str] | None = None

    def check(self, operation: str, needs: Iterable[str] = ()) -> None:
        """Raise `AccessDenied` if the operation, or another one that it `needs`, is not allowed."""
        if self.operations is None:
            return
        missing = [name for name in (operation, *sorted(needs)) if name not in self.operations]
        if not missing:
            return
        name = AGENTS_NAMES.get(operation, operation)
        what = repr(name) if missing[0] == operation else f"{missing[0]!r}, which this {name!r} needs,"
        allowed = sorted({AGENTS_NAMES.get(name, name) for name in self.operations})
        raise AccessDenied(
            f"The operation {what} is not allowed here; allowed operations: {', '.join(map(repr, allowed)) or 'none'}.",
            action=missing[0],
            readable=[str(pattern) for pattern in self.access.read],
            writable=[str(pattern) for pattern in self.access.write],
        )


def _templates(written: object, what: str) -> tuple[str, ...]:
    of = "name" if what in _KINDS_OF_NAMES else "namespace"
    if isinstance(written, (str, bytes)) or not isinstance(written, Iterable):
        raise InvalidType(
            f"Permissions.{what} must be a list of {of} patterns, not {type(written).__name__}: put a single one in a"
            " list."
        )
    templates = tuple(written)
    for template in templates:
        try:
            Pattern.of(template, f"{of} pattern")
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
    return frozenset(name for name in (*OPERATIONS, *WATCHES) if AGENTS_NAMES.get(name, name) in names)


def _check_quota(quota: object) -> None:
    if quota is None:
        return
    if isinstance(quota, bool) or not isinstance(quota, int):
        raise InvalidType(f"Permissions.quota_bytes must be an int or None, not {type(quota).__name__}.")
    if not 1 <= quota <= MAX_BOUND:
        raise InvalidInput(
            f"Permissions.quota_bytes={shown(quota)} cannot be used: give at least 1 and at most 2**53, or None for no quota."
            " To forbid writing, grant no write access."
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
