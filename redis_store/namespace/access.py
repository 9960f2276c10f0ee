"""Which namespaces a handle may read and write, judged before anything is sent.

It imports `errors` and `namespace.keys` only, because the sandbox's child uses it too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redis_store.errors import AccessDenied, InvalidType
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES, encode_name


@dataclass(frozen=True, slots=True)
class Pattern:
    """A namespace's name, or the beginning of names; every character but a last ``*`` stands for itself."""

    text: str
    is_prefix: bool = False

    @classmethod
    def of(cls, written: str) -> Pattern:
        """Read a pattern as callers write it."""
        if isinstance(written, str) and written == "*":
            return cls("", True)
        encode_name(written, "namespace pattern", MAX_NAMESPACE_BYTES)
        is_prefix = written.endswith("*")
        return cls(written[:-1] if is_prefix else str(written), is_prefix)

    def matches(self, namespace: str) -> bool:
        """Whether a namespace is meant."""
        return namespace.startswith(self.text) if self.is_prefix else namespace == self.text

    def common(self, other: Pattern) -> Pattern | None:
        """The pattern of what both mean; None where that is nothing."""
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
class Access:
    """The namespaces that may be read, and those that may be written; the right to write is none to read."""

    read: Patterns = _ALL
    write: Patterns = _ALL

    @classmethod
    def of(
        cls,
        read: Iterable[str] | None = None,
        write: Iterable[str] | None = None,
        namespaces: Iterable[str] | None = None,
    ) -> Access:
        """Take what callers grant; nothing named grants all, anything named grants that and no more."""
        if read is None and write is None and namespaces is None:
            return EVERYTHING
        both = patterns_of(namespaces, "namespaces")
        return cls(patterns_of(read, "read") + both, patterns_of(write, "write") + both)

    @property
    def is_everything(self) -> bool:
        """Whether nothing is forbidden."""
        return _ALL[0] in self.read and _ALL[0] in self.write

    def may_read(self, namespace: str) -> bool:
        return any(pattern.matches(namespace) for pattern in self.read)

    def may_read_all(self, prefix: str) -> bool:
        """Whether every namespace may be read whose name begins so."""
        return any(pattern.is_prefix and prefix.startswith(pattern.text) for pattern in self.read)

    def may_write(self, namespace: str) -> bool:
        return any(pattern.matches(namespace) for pattern in self.write)

    def narrowed(self, other: Access) -> Access:
        """What both allow."""
        return Access(_common(self.read, other.read), _common(self.write, other.write))

    def refusal(self, action: str, namespace: str) -> AccessDenied:
        """The error for reading or writing what may not be."""
        shown = repr(namespace)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        doing = "Reading" if action == "read" else "Writing to"
        return AccessDenied(
            f"{doing} namespace {shown} is not allowed here: allowed are {self.described()}.",
            action=action,
            namespace=namespace,
            readable=[str(pattern) for pattern in self.read],
            writable=[str(pattern) for pattern in self.write],
        )

    def described(self) -> str:
        """Say what is allowed, as a part of a sentence."""
        return f"reading {_listed(self.read)}, writing {_listed(self.write)}"


EVERYTHING = Access()
NO_WRITES = Access(_ALL, ())


def patterns_of(written: Iterable[str] | None, what: str) -> Patterns:
    """Read a list of patterns; None stands for none."""
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
