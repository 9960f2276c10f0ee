"""Reads: operations that a driver with a near cache may answer from memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from redis_store.protocol.call import Call, Op

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """An operation that reads a key, or a list of keys as one snapshot, and changes nothing.

    Each function takes the scope, the key or keys, and the default for a missing key. Then `result` takes the server's reply: the
    stored bytes, or None for a missing key, or a list of these. `again` takes what was kept: entries instead of bytes.
    """

    ask: Callable[[Any, Any, Any], Op[T]]
    """Makes the operation that asks the server."""
    again: Callable[[Any, Any, Any, Any], T]
    """Counts an answer from memory and returns the result."""
    result: Callable[[Any, Any, Any, Any], T] | None
    """Counts a reply and returns the result; None if the reply is not worth keeping."""
    many: bool = False
    """Whether it takes a list of keys."""
    call: Callable[[Any, Any], Call[Any]] | None = None
    """Makes the one call that `ask` consists of, so that a driver can do without the operation; None if it has several.

    It takes the scope and the key. Its reply is for `result`.
    """
