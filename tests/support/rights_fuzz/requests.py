"""The names of the world, random permissions, and random requests of agents, right and wrong ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from sandbox.permissions import KNOWN_OPERATIONS, Permissions
from sandbox.protocol.arguments import BOUND, DELETE, EXPECT, READ, SET
from sandbox.protocol.operations import BOUNDED, OPERATIONS

NAMESPACES = ("default", "a", "a:x", "ab", "a*", "zq-hidden-1", "zq-hidden-2")
NAMESPACE_PATTERNS = ("*", "*", "a*", "a:*", "a", "ab", "default", "none", "def*")
KEYS = ("k", "k2", "n", "n2", "list", "list2", "new")
COMPUTED = ("k2", "new")
"""Keys whose values are claimed and computed."""
SHARED = ("gpu", "llm", "t", "own:ann", "x")
"""Names of locks, limits, tags and consumers."""
SHARED_PATTERNS = ("*", "gpu", "l*", "t", "x", "own:*")
AGENTS = ("ann", "bob", "own", "ann:lock")

_LONG_S = 3000
"""Lifetime of what is held, in seconds, so that nothing expires during a round."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: an operation with its parts, and a bound on the keys of its namespace, if any."""

    operation: str
    namespace: str
    parts: tuple[Any, ...]
    max_keys: int | None = None

    def message(self, number: int) -> list[Any]:
        head = (self.operation,) if self.max_keys is None else (self.max_keys, self.operation)
        before = (
            [number, self.operation, self.namespace] if self.max_keys is None else [number, BOUNDED, self.namespace]
        )
        return [*before, *(head if self.max_keys is not None else ()), *self.parts]

    @property
    def steps(self) -> list[tuple[Any, ...]]:
        """The steps of a transaction."""
        return [self.parts[start : start + 5] for start in range(0, len(self.parts), 5)]


def random_permissions(rng: random.Random) -> Permissions:
    """Return permissions of every kind, each given or not."""

    def some(patterns: tuple[str, ...], likely: float) -> list[str] | None:
        return rng.sample(patterns, rng.choice([0, 1, 2, 3])) if rng.random() < likely else None

    limited = rng.random() < 0.8
    operations = rng.sample(sorted(KNOWN_OPERATIONS), len(KNOWN_OPERATIONS) * 3 // 4) if rng.random() < 0.4 else None
    return Permissions(
        read=some(NAMESPACE_PATTERNS, 0.6) if limited else None,
        write=some(NAMESPACE_PATTERNS, 0.5) if limited else None,
        namespaces=some(NAMESPACE_PATTERNS, 0.5) if limited else None,
        locks=some(SHARED_PATTERNS, 0.3),
        limits=some(SHARED_PATTERNS, 0.3),
        tags=some(SHARED_PATTERNS, 0.3),
        consumers=some(SHARED_PATTERNS, 0.3),
        quota_bytes=rng.choice([None] * 6 + [1, 100_000_000]),
        operations=operations,
    )


_FOLLOWING = {
    "claim_value": ("renew_value", "commit_value", "fail_value"),
    "acquire_lock": ("renew_lock", "release_lock"),
    "acquire_place": ("renew_place", "release_place"),
}
"""The requests about what a request may have taken."""


class Requests:
    """Random requests of one run; every text in a value is made once, so that it tells where it has been."""

    def __init__(
        self,
        rng: random.Random,
        tokens: tuple[str, ...],
        others: tuple[str, ...],
        unique: Callable[[], str],
        taken: list[Asked],
    ) -> None:
        """`tokens` are the run's, `others` those of other runs; `taken` has its last requests that may have taken something."""
        self._rng = rng
        self._tokens, self._others = tokens, others
        self._unique = unique
        self._taken = taken

    def next(self, stored: Callable[[str, str], Any]) -> Asked:
        """Return a request of the right shape; `stored` tells the value of a key, so that some comparisons succeed."""
        rng = self._rng
        operation, namespace = rng.choice(list(OPERATIONS)), rng.choice(NAMESPACES)
        taken = rng.choice(self._taken) if self._taken and rng.random() < 0.2 else None
        if taken is not None:
            operation, namespace = rng.choice(_FOLLOWING[taken.operation]), taken.namespace
        parts = tuple(self._parts(operation, namespace, stored))
        if taken is not None:
            parts = (*taken.parts[:2], *parts[2:])
        bounded = OPERATIONS[operation].adds and rng.random() < 0.2
        asked = Asked(operation, namespace, parts, rng.randint(1, 3) if bounded else None)
        if operation in _FOLLOWING:
            self._taken[:] = [*self._taken[-4:], asked]
        return asked

    def wrong(self, right: list[Any]) -> bytes:
        """Return the body of a frame that a request becomes when parts or bytes of it are changed."""
        rng = self._rng
        odd = (None, True, -1, 2**63, 1.5, "", "\0", "a*", b"", b"[", b"1", [], {}, "__class__", *right)
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(right) + 1)
            right[at : at + rng.randint(0, 1)] = rng.sample(odd, rng.randint(0, 1))
        body = bytearray(msgpack.packb(right, use_bin_type=True))
        if rng.random() < 0.3:
            at = rng.randrange(len(body))
            body[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        return bytes(body)

    def text(self) -> bytes:
        """Return a value of some kind, as JSON."""
        value = self._rng.choice([self._unique(), self._rng.randint(0, 9), [self._unique()], {"in": self._unique()}])
        return json.dumps(value, separators=(",", ":")).encode()

    def _expected(self, namespace: str, key: str, stored: Callable[[str, str], Any]) -> bytes | None:
        current = stored(namespace, key)
        chosen = self._rng.choice([current, current, None, self.text()])
        assert chosen is None or isinstance(chosen, bytes)
        return chosen

    def _token(self) -> str:
        return self._rng.choice(self._tokens if self._rng.random() < 0.8 else self._others)

    def _tags(self) -> list[str]:
        return self._rng.sample(SHARED, self._rng.choice([0, 0, 1, 2]))

    def _access(self) -> list[Any]:
        """Return rights as an agent's handle sends them: it may claim more than it has."""
        rng = self._rng
        if rng.random() < 0.5:
            return [0, "*", 1, "*"]
        return [part for _ in range(rng.randint(0, 3)) for part in (rng.randint(0, 1), rng.choice(NAMESPACE_PATTERNS))]

    def _parts(self, operation: str, namespace: str, stored: Callable[[str, str], Any]) -> list[Any]:
        rng = self._rng
        key, name, computed = rng.choice(KEYS), rng.choice(SHARED), rng.choice(COMPUTED)
        keys = rng.sample(KEYS, rng.randint(0, 3))
        prefix = rng.choice([None, "k", "a", "n", "zq"])
        made: dict[str, Callable[[], list[Any]]] = {
            "get": lambda: [key],
            "set": lambda: [key, self.text(), rng.choice([None, b'{"m":"%s"}' % self._unique().encode()]), None],
            "set_if_version": lambda: [key, self.text(), None, None, rng.choice([0, 0, 1])],
            "delete": lambda: [key],
            "delete_if_version": lambda: [key, rng.choice([0, 0, 1])],
            "delete_many": lambda: keys,
            "list_keys": lambda: [prefix],
            "scan_page": lambda: ["0", prefix],
            "scan_items_page": lambda: ["0", prefix],
            "list_namespaces": lambda: [prefix],
            "get_many": lambda: keys,
            "get_all": lambda: [prefix],
            "get_many_info": lambda: keys,
            "get_all_info": lambda: [prefix],
            "scan_infos_page": lambda: ["0", prefix],
            "set_many": lambda: [None, None, *(part for one in keys for part in (one, self.text()))],
            "clear": list,
            "info": lambda: [key],
            "infos": lambda: keys,
            "contains": lambda: [key],
            "count": list,
            "get_touched": lambda: [key, _LONG_S],
            "get_sliding": lambda: [key, _LONG_S],
            "get_many_sliding": lambda: [_LONG_S, *keys],
            "expire": lambda: [key, _LONG_S],
            "persist": lambda: [key],
            "increment": lambda: [rng.choice(["n", "n2", key]), b"%d" % rng.randint(-3, 9), None],
            "append": lambda: [rng.choice(["list", "list2", key]), rng.choice([None, 1, 3]), None, self.text()],
            "set_if_absent": lambda: [key, self.text(), None],
            "compare_and_set": lambda: [key, self._expected(namespace, key, stored), self.text(), None],
            "rename": lambda: [key, rng.choice(KEYS)],
            "sequence_append": lambda: [None, *(self.text() for _ in range(rng.randint(0, 2)))],
            "sequence_append_bounded": lambda: [
                rng.randint(1, 3),
                None,
                *(self.text() for _ in range(rng.randint(0, 2))),
            ],
            "sequence_last": lambda: [rng.randint(0, 3)],
            "sequence_range": lambda: [rng.randint(0, 3), rng.choice([None, 0, 2, 9])],
            "sequence_page": lambda: [rng.randint(0, 3)],
            "sequence_pop": lambda: [f"{rng.randint(0, 3):016}", rng.choice([None, self.text()])],
            "pop": lambda: [key, self._expected(namespace, key, stored)],
            "replace": lambda: [key, self._expected(namespace, key, stored), self.text(), None],
            "look_value": lambda: [rng.choice([key, computed])],
            "claim_value": lambda: [computed, self._token(), None, None, _LONG_S, rng.choice([0, 1]), *self._tags()],
            "renew_value": lambda: [computed, self._token(), _LONG_S, *self._tags()],
            "commit_value": lambda: [computed, self._token(), self.text(), None, None, *self._tags()],
            "fail_value": lambda: [computed, self._token(), rng.choice(["", "Error"]), self._unique()],
            "invalidate_tag": lambda: [name, *self._access()],
            "commit_transaction": lambda: self._steps(stored),
            "acquire_lock": lambda: [name, self._token(), _LONG_S, rng.choice([0, 0, 1])],
            "renew_lock": lambda: [name, self._token(), _LONG_S],
            "release_lock": lambda: [name, self._token()],
            "acquire_place": lambda: [name, self._token(), rng.choice([2, 2, 3]), _LONG_S, 0],
            "renew_place": lambda: [name, self._token(), 2, _LONG_S],
            "release_place": lambda: [name, self._token(), 2],
            "take_moment": lambda: [name, rng.choice([2, 2, 3]), _LONG_S, 0],
        }
        return made[operation]()

    def _steps(self, stored: Callable[[str, str], Any]) -> list[Any]:
        rng = self._rng
        places = rng.sample([(one, key) for one in NAMESPACES for key in KEYS], rng.randint(1, 3))
        steps: list[Any] = []
        for namespace, key in places:
            kind = rng.choice([READ, READ, SET, SET, DELETE, BOUND, EXPECT])
            if kind == READ:
                steps += [READ, namespace, key, self._expected(namespace, key, stored), None]
            elif kind == SET:
                steps += [SET, namespace, key, self.text(), None]
            elif kind == DELETE:
                steps += [DELETE, namespace, key, None, None]
            elif kind == EXPECT:
                steps += [EXPECT, namespace, key, None, rng.choice([0, 0, 1])]
            else:
                steps += [SET, namespace, key, self.text(), None, BOUND, namespace, "", None, rng.randint(1, 3)]
        return steps
