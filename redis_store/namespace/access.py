"""Access rights of a handle: the namespaces that it may read and write, and the names that it shares; checked before a call.

This module imports only `errors` and `namespace.keys`, because the sandbox's child uses it too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redis_store.errors import AccessDenied, InvalidType
from redis_store.limits import shown
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES, encode_name


@dataclass(frozen=True, slots=True)
class Pattern:
    """The name of a namespace, a lock or the like, or a prefix of names; every character except a final ``*`` is literal."""

    text: str
    is_prefix: bool = False

    @classmethod
    def of(cls, written: str, what: str = "namespace pattern") -> Pattern:
        """Parse a pattern, or raise if it cannot be a name; `what` calls it in the error."""
        if isinstance(written, str) and written == "*":
            return cls("", True)
        encode_name(written, what, MAX_NAMESPACE_BYTES)
        is_prefix = written.endswith("*")
        return cls(written[:-1] if is_prefix else str(written), is_prefix)

    def matches(self, namespace: str) -> bool:
        """Whether the pattern includes a namespace."""
        return namespace.startswith(self.text) if self.is_prefix else namespace == self.text

    def common(self, other: Pattern) -> Pattern | None:
        """Return the pattern of the namespaces that both include, or None if there are none."""
        if not self.is_prefix:
            return self if other.matches(self.text) else None
        if not other.is_prefix:
            return other if self.matches(other.text) else None
        longer, shorter = (self, other) if len(self.text) >= len(other.text) else (other, self)
        return longer if shorter.matches(longer.text) else None

    def __str__(self) -> str:
        return f"{self.text}*" if self.is_prefix else self.text


Patterns = tuple[Pattern, ...]
_ALL: Patterns = (Pattern("", True),)


@dataclass(frozen=True, slots=True)
class Names:
    """The meaning of the names of locks, limits, tags and consumers that a handle uses.

    Each kind has the patterns of the names that it shares with its user, while others are refused; or None, if all its names are
    the agent's own, which no other agent and no other handle of the user can use.
    """

    agent: str = ""
    """The agent to whom own names belong; empty for handles outside the sandbox, which share every name."""
    locks: Patterns | None = _ALL
    """Locks and semaphores."""
    limits: Patterns | None = _ALL
    """Rate limits."""
    tags: Patterns | None = _ALL
    consumers: Patterns | None = _ALL

    def are_granted(self, kind: str) -> bool:
        """Whether the names of a kind are granted by themselves, also to an agent that may write no namespace."""
        return bool(self.agent) and getattr(self, kind) is not None

    def is_shared(self, kind: str, name: str) -> bool:
        """Whether a name is the user's, not the agent's own; or raise `AccessDenied` if the agent may not use it."""
        patterns: Patterns | None = getattr(self, kind)
        if patterns is None:
            return False
        if patterns is _ALL or any(pattern.matches(name) for pattern in patterns):
            return True
        raise AccessDenied(
            f"Using the name {shown(name)} is not allowed here: allowed {kind} are {_listed(patterns)}.",
            action=kind,
            readable=[],
            writable=[],
        )


@dataclass(frozen=True, slots=True)
class Access:
    """The namespaces that may be read, those that may be written, and the shared names of locks and the like.

    The right to write does not include reading. Narrowed handles keep their names.
    """

    read: Patterns = _ALL
    write: Patterns = _ALL
    names: Names = Names()

    @classmethod
    def of(
        cls,
        read: Iterable[str] | None = None,
        write: Iterable[str] | None = None,
        namespaces: Iterable[str] | None = None,
    ) -> Access:
        """Return the access that the arguments of `restricted` grant: everything if all are None, else only what they name."""
        if read is None and write is None and namespaces is None:
            return EVERYTHING
        both = patterns_of(namespaces, "namespaces")
        return cls(patterns_of(read, "read") + both, patterns_of(write, "write") + both)

    @property
    def is_everything(self) -> bool:
        """Whether every namespace may be read and written."""
        return _ALL[0] in self.read and _ALL[0] in self.write

    def may_read(self, namespace: str) -> bool:
        return any(pattern.matches(namespace) for pattern in self.read)

    def may_read_all(self, prefix: str) -> bool:
        """Whether every namespace whose name begins with `prefix` may be read."""
        return any(pattern.is_prefix and prefix.startswith(pattern.text) for pattern in self.read)

    def may_write(self, namespace: str) -> bool:
        return any(pattern.matches(namespace) for pattern in self.write)

    def narrowed(self, other: Access) -> Access:
        """Return the access that both allow."""
        return Access(_common(self.read, other.read), _common(self.write, other.write), self.names)

    def refusal(self, action: str, namespace: str) -> AccessDenied:
        """Return the error for reading or writing a namespace without the right to."""
        doing = "Reading" if action == "read" else "Writing to"
        return AccessDenied(
            f"{doing} namespace {shown(namespace)} is not allowed here: allowed are {self.described()}.",
            action=action,
            namespace=namespace,
            readable=[str(pattern) for pattern in self.read],
            writable=[str(pattern) for pattern in self.write],
        )

    def described(self) -> str:
        """Return what is allowed, worded as a part of a sentence."""
        return f"reading {_listed(self.read)}, writing {_listed(self.write)}"


EVERYTHING = Access()
NO_WRITES = Access(_ALL, ())


def patterns_of(written: Iterable[str] | None, what: str) -> Patterns:
    """Parse a list of patterns; None stands for an empty list."""
    if written is None:
        return ()
    if isinstance(written, (str, bytes)) or not isinstance(written, Iterable):
        raise InvalidType(
            f"{what} must be a list of namespace patterns, not {type(written).__name__}: put a single one in a list."
        )
    return tuple(Pattern.of(one) for one in written)


def _common(ours: Patterns, theirs: Patterns) -> Patterns:
    pairs = (one.common(other) for one in ours for other in theirs)
    return tuple(dict.fromkeys(pattern for pattern in pairs if pattern is not None))


def _listed(patterns: Patterns) -> str:
    if not patterns:
        return "nothing"
    if _ALL[0] in patterns:
        return "everything"
    names = [repr(str(pattern)) for pattern in patterns[:10]]
    more = [f"{len(patterns) - 10} more"] if len(patterns) > 10 else []
    return ", ".join(names + more)
