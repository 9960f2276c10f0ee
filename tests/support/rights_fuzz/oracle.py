"""What a request may see and change, from the documented rights alone: a model of one user's data, and of who may do what.

It imports nothing that decides rights. The state before a request is the server's, so each request is judged by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from sandbox.permissions import AGENTS_NAMES, Permissions
from sandbox.protocol.arguments import BOUND, DELETE, EXPECT, READ, SET
from tests.support.rights_fuzz.requests import Asked

Data = dict[str, dict[str, Any]]
Raw = dict[bytes, Any]

READS_OF_INFOS = {"get_many_info", "get_all_info", "scan_infos_page"}
READS = {
    *("get", "get_many", "get_all", "list_keys", "scan_page", "scan_items_page", "info", "infos", "contains", "count"),
    *READS_OF_INFOS,
    *("sequence_last", "sequence_range", "sequence_page"),
}
WRITES = {"set", "set_many", "delete", "delete_many", "clear"}
CLAIMS = {"claim_value", "renew_value", "commit_value", "fail_value"}
TOUCH = {"get_touched", "get_sliding", "get_many_sliding"}
BOTH = {
    "expire",
    "persist",
    "increment",
    "append",
    "set_if_absent",
    "compare_and_set",
    "set_if_version",
    "delete_if_version",
    *TOUCH,
    "look_value",
    "sequence_append",
    "sequence_append_bounded",
    "sequence_pop",
    "rename",
    "pop",
    "replace",
    *CLAIMS,
}
NEED_GET = {"pop", "replace", "look_value", *CLAIMS, *TOUCH}
COMPARE_VERSIONS = {"set_if_version", "delete_if_version"}
NEED_INFO = COMPARE_VERSIONS | READS_OF_INFOS
LOCKS = {f"{what}_{kind}" for what in ("acquire", "renew", "release") for kind in ("lock", "place")}
STORE = {
    "set",
    "set_if_version",
    "increment",
    "append",
    "set_if_absent",
    "compare_and_set",
    "rename",
    "replace",
    "commit_value",
}
"""Operations whose every call counts for the quota."""
NOTED = {*CLAIMS, "get_touched", "get_sliding", "acquire_lock", "acquire_place", "take_moment", "expire", "persist"} - {
    "fail_value"
}
"""Operations that store something beside the data, whose calls count for the quota too."""

_KINDS = {"lock": "locks", "limit": "locks", "rate": "limits", "tag": "tags", "consumer": "consumers"}
_CONSUMER_LOCKS = "consumer:"

GONE = object()
"""Stands for a value that is not there."""


def matches(patterns: Any, name: str) -> bool:
    return any(name.startswith(one[:-1]) if one.endswith("*") else name == one for one in patterns)


@dataclass(frozen=True)
class Rights:
    """What the permissions of an agent say."""

    given: Permissions
    agent: str

    @property
    def limited(self) -> bool:
        return not (self.given.read is None and self.given.write is None and self.given.namespaces is None)

    def patterns(self, right: str) -> list[str]:
        if not self.limited:
            return ["*"]
        return [*(getattr(self.given, right) or ()), *(self.given.namespaces or ())]

    def may(self, right: str, namespace: str) -> bool:
        return matches(self.patterns(right), namespace)

    def shares(self, kind: str, name: str) -> bool:
        """Whether a name is the user's. If it is not, it is the agent's own, or refused."""
        shared = getattr(self.given, kind)
        return not self.limited if shared is None else matches(shared, name)

    def has_own(self, kind: str) -> bool:
        return self.limited and getattr(self.given, kind) is None

    def may_use(self, kind: str, name: str) -> bool:
        if getattr(self.given, kind) is None and not self.patterns("write"):
            return False
        return self.has_own(kind) or self.shares(kind, name)

    def may_call(self, *operations: str) -> bool:
        allowed = self.given.operations
        return allowed is None or {AGENTS_NAMES.get(one, one) for one in operations} <= set(allowed)

    def allows(self, asked: Asked) -> bool:
        """Whether a request may be carried out."""
        operation = asked.operation
        needs = ["get"] * (operation in NEED_GET) + ["info"] * (operation in NEED_INFO)
        needs += ["delete"] * (asked.max_keys is not None or operation == "sequence_append_bounded")
        needs += ["expire"] * (operation in TOUCH)
        needs += ["sequence_last"] * (operation == "sequence_pop")
        if operation == "commit_transaction":
            needs += [
                {READ: "get", DELETE: "delete", BOUND: "delete", EXPECT: "info"}[step[0]]
                for step in asked.steps
                if step[0] != SET
            ]
            rights = [
                ("read" if step[0] in (READ, EXPECT) else "write", step[1]) for step in asked.steps if step[0] != BOUND
            ]
            return self.may_call(operation, *needs) and all(self.may(*right) for right in rights)
        if not self.may_call(operation, *needs):
            return False
        if operation in READS | BOTH and not self.may("read", asked.namespace):
            return False
        if operation in WRITES | BOTH and not self.may("write", asked.namespace):
            return False
        if operation in LOCKS:
            return self.may_use("locks", asked.parts[0])
        if operation == "take_moment":
            return self.may_use("limits", asked.parts[0])
        if operation == "invalidate_tag":
            narrowed = self.narrowed(asked)
            return bool(narrowed) and (self.has_own("tags") or self.shares("tags", asked.parts[0]))
        return all(self.has_own("tags") or self.shares("tags", tag) for tag in tags_of(asked))

    def narrowed(self, asked: Asked) -> list[tuple[str, str]]:
        """Return the pairs of patterns, of the run and of the request, that have a namespace in common."""
        sent = [one for what, one in zip(asked.parts[1::2], asked.parts[2::2], strict=True) if what == 1]
        return [(ours, theirs) for ours in self.patterns("write") for theirs in sent if _meet(ours, theirs)]

    def prefix(self, user: str, kind: str, name: str) -> bytes:
        """Return the beginning of the Redis keys of a shared name, or of one of the agent's own."""
        own = "" if self.shares(kind, name) else f"own:{_percent(self.agent)}:"
        return f"user:{user}:{own}".encode()

    def may_change(self, user: str, key: bytes, changed: set[str]) -> bool:
        """Whether a Redis key may change; `changed` are the namespaces whose data did."""
        start = f"user:{user}:"
        text = key.decode()
        if not text.startswith(start):
            return False
        kind, _, name = text.removeprefix(start).partition(":")
        own = kind == "own"
        if own:
            agent, _, rest = name.partition(":")
            if unquote_to_bytes(agent).decode() != self.agent:
                return False
            kind, _, name = rest.partition(":")
        elif kind in ("ns", "info", "flight", "log"):
            return self.may("write", name)
        elif kind == "namespaces":
            return bool(changed)
        elif kind == "computed":  # counts of hits and computations
            return self.may_call("claim_value")
        if kind == "beside":  # what the quota finds of the agent, by the end of its Redis key
            limited = self.limited or any(getattr(self.given, one) is not None for one in set(_KINDS.values()))
            return self.given.quota_bytes is not None and name == (_percent(self.agent) if limited else "")
        if kind == "tags":
            return self.has_own("tags") if own else self.given.tags != [] and not self.has_own("tags")
        if kind in ("queue", "tries"):
            kind, _, name = name.partition(":")
        if kind == "fence":
            return self.has_own("locks") == own
        if kind == "lock" and name.startswith(_CONSUMER_LOCKS):
            kind, name = "consumer", name.removeprefix(_CONSUMER_LOCKS).partition(":")[0]
        of = _KINDS.get(kind)
        return of is not None and (self.has_own(of) if own else self.shares(of, name))


def tags_of(asked: Asked) -> tuple[str, ...]:
    at = {"claim_value": 6, "renew_value": 3, "commit_value": 5}.get(asked.operation)
    return () if at is None else asked.parts[at:]


def data_of(raw: Raw, user: str) -> Data:
    """Return the values of a user's namespaces."""
    start = f"user:{user}:ns:".encode()
    return {
        key.removeprefix(start).decode(): {field.decode(): json.loads(value) for field, value in fields.items()}
        for key, fields in raw.items()
        if key.startswith(start)
    }


def is_dead(raw: Raw, user: str, tag: bytes, entry: bytes) -> bool:
    """Whether the value that an entry of a tag names does not carry it: anybody's computations may remove the entry."""
    namespace, key = (part.encode() for part in members(entry))
    start = f"user:{user}:".encode()
    info = raw.get(start + b"info:" + namespace, {}).get(key, b"")
    carried = key in raw.get(start + b"ns:" + namespace, {}) and json.dumps(tag.decode())[1:-1].encode() in info
    return not carried and b"c" + key not in raw.get(start + b"flight:" + namespace, {})


def members(entry: bytes) -> tuple[str, str]:
    """Return the namespace and the key of an entry of a tag."""
    length, _, rest = entry.partition(b":")
    return rest[: int(length)].decode(), rest[int(length) + 1 :].decode()


@dataclass
class Expected:
    """The answer that is expected, and the data after it. An `answer` of None stands for an error."""

    answer: Callable[[list[Any]], bool] | None
    after: Data
    or_error: tuple[str, ...] = ()
    """Errors that are right as well, and change nothing."""
    bounds: dict[str, int] = field(default_factory=dict)
    """The namespaces from which other keys are evicted if something was written, with the number of keys that remain."""

    def fits(self, parts: list[Any], data: Data) -> bool:
        """Whether this is the data after the request, of which the answer has these parts."""
        if not self.bounds or parts[:1] == [False]:
            return data == self.after
        kept = {
            name: {key: value for key, value in found.items() if name not in self.bounds or key in data.get(name, {})}
            for name, found in self.after.items()
        }
        return data == kept and all(len(data.get(name, {})) <= most for name, most in self.bounds.items())


class Oracle:
    """Judges the requests of runs."""

    def __init__(self, has_ttl: bool) -> None:
        self._has_ttl = has_ttl

    def expect(self, rights: Rights, user: str, asked: Asked, raw: Raw) -> Expected:
        """Return what a request of the right shape must lead to, in the state before it."""
        data = data_of(raw, user)
        if not rights.allows(asked):
            return Expected(None, data)
        expected = self._allowed(rights, user, asked, raw, data)
        if rights.given.quota_bytes == 1:
            found = data_of(raw, user).get(asked.namespace, {})
            stores_none = (asked.operation == "claim_value" and asked.parts[0] in found) or (
                asked.operation == "renew_value" and not tags_of(asked)
            )
            if (asked.operation in STORE | NOTED and not stores_none) or (
                len(asked.parts)
                > {"set_many": 2, "sequence_append": 1, "sequence_append_bounded": 2}.get(asked.operation, 99)
            ):
                return Expected(None, data_of(raw, user))
            if asked.operation == "commit_transaction" and any(step[0] == SET for step in asked.steps):
                return Expected(None, data_of(raw, user))
        expected.bounds = {step[1]: step[4] for step in self._steps(asked) if step[0] == BOUND}
        if asked.max_keys is not None:
            expected.bounds[asked.namespace] = asked.max_keys
        if expected.bounds:
            expected.or_error = (*expected.or_error, "LimitExceeded")  # it writes more keys than the bound allows
        return expected

    def _steps(self, asked: Asked) -> list[tuple[Any, ...]]:
        return asked.steps if asked.operation == "commit_transaction" else []

    def _allowed(self, rights: Rights, user: str, asked: Asked, raw: Raw, data: Data) -> Expected:
        found = data.get(asked.namespace, {})
        if asked.operation in READS or asked.operation == "list_namespaces":
            if asked.operation.startswith("sequence"):
                return Expected(self._sequence_read(user, asked, raw, found), data)
            return Expected(self._read(rights, asked, found, data), data)
        if asked.operation == "commit_transaction":
            return self._transaction(asked, data)
        if asked.operation == "invalidate_tag":
            return self._invalidated(rights, user, asked, raw, data)
        if asked.operation == "look_value":
            return Expected(self._read(rights, replace(asked, operation="get"), found, data), data)
        if asked.operation in TOUCH:
            too_old = () if self._has_ttl else ("UnsupportedByServer",)
            if asked.operation == "get_many_sliding":
                wanted = {key: found[key] for key in asked.parts[1:] if key in found}
                return Expected(lambda got: _pairs(got) == wanted, data, too_old)
            return Expected(
                lambda got: _loaded(got) == [found[key] for key in asked.parts[:1] if key in found], data, too_old
            )
        if asked.operation in CLAIMS:
            return self._claim(user, asked, raw, found, data)
        if asked.operation in LOCKS or asked.operation == "take_moment":
            return self._lock(rights, user, asked, raw, data)
        if asked.operation.startswith("sequence_append"):
            answer, or_error = self._appended(user, asked, raw, found), ()
        elif asked.operation == "sequence_pop":
            answer, or_error = self._popped(user, asked, raw, found), ()
        else:
            answer, or_error = self._change(asked, found)
        if found:
            data[asked.namespace] = found
        else:
            data.pop(asked.namespace, None)
        if asked.operation == "persist":  # whether the key had a ttl is not modelled
            return Expected(lambda got: got in ([False], answer), data, or_error)
        return Expected(None if answer is None else (lambda got: got == answer), data, or_error)

    def _read(self, rights: Rights, asked: Asked, found: dict[str, Any], data: Data) -> Callable[[list[Any]], bool]:
        operation, parts = asked.operation, asked.parts
        if operation == "list_namespaces":
            names = {name for name in data if rights.may("read", name) and name.startswith(parts[0] or "")}
            return lambda got: len(got) == len(names) and set(got) == names
        if operation == "get":
            return lambda got: _loaded(got) == ([found[parts[0]]] if parts[0] in found else [])
        if operation == "contains":
            return lambda got: got == [parts[0] in found]
        if operation == "count":
            return lambda got: got == [len(found)]
        if operation == "info":
            return lambda got: got[:1] == ([parts[0]] if parts[0] in found else [])
        if operation == "get_many_info":
            wanted = {key: found[key] for key in parts if key in found}
            return lambda got: _pairs_before_infos(got) == wanted
        if operation == "infos":
            return lambda got: got[0] == len([key for key in parts if key in found])
        if operation == "get_many":
            wanted = {key: found[key] for key in parts if key in found}
            return lambda got: _pairs(got) == wanted
        prefix = (parts[1] if operation.startswith("scan") else parts[0]) or ""
        wanted = {key: value for key, value in found.items() if key.startswith(prefix)}
        if operation in READS_OF_INFOS:
            return lambda got: _pairs_before_infos(got[operation.startswith("scan") :]) == wanted
        if operation == "get_all":
            return lambda got: _pairs(got) == wanted
        if operation == "list_keys":
            return lambda got: sorted(got) == sorted(wanted)
        if operation == "scan_page":
            return lambda got: sorted(got[1:]) == sorted(wanted)
        return lambda got: _pairs(got[1:]) == wanted

    def _ends(self, user: str, asked: Asked, raw: Raw, found: dict[str, Any]) -> tuple[int, int]:
        """Return the first position of a sequence, and that of the next item."""
        text = raw.get(f"user:{user}:info:{asked.namespace}".encode(), {}).get(b"")
        if text is not None and f"{int(text.split()[1]):016}" not in found:
            first, following = map(int, text.split())
            return first, following
        positions = [int(key) for key in found if len(key) == 16 and key.isdigit()]
        return min(positions, default=0), max(positions, default=-1) + 1

    def _sequence_read(self, user: str, asked: Asked, raw: Raw, found: dict[str, Any]) -> Callable[[list[Any]], bool]:
        first, following = self._ends(user, asked, raw, found)
        start, stop = asked.parts[0], (asked.parts[1:] or (None,))[0]
        if asked.operation == "sequence_last":
            start, stop = following - start, following
        names = [f"{at:016}" for at in range(max(start, first), following if stop is None else min(stop, following))]
        wanted = {name: found[name] for name in names if name in found}
        return lambda got: _pairs(got[asked.operation == "sequence_page" :]) == wanted

    def _appended(self, user: str, asked: Asked, raw: Raw, found: dict[str, Any]) -> list[Any]:
        first, following = self._ends(user, asked, raw, found)
        bounded = asked.operation == "sequence_append_bounded"
        items = asked.parts[1 + bounded :]
        for text in items:
            found[f"{following:016}"] = json.loads(text)
            following += 1
        for at in range(first, following - asked.parts[0] if bounded and items else 0):
            found.pop(f"{at:016}", None)
        return [following]

    def _popped(self, user: str, asked: Asked, raw: Raw, found: dict[str, Any]) -> list[Any]:
        first, following = self._ends(user, asked, raw, found)
        names = [name for at in range(first, following) if (name := f"{at:016}") in found]
        if not names:
            return [False]
        text = compact(found[names[-1]])
        if asked.parts != (names[-1], text):
            return [False, names[-1], text]
        del found[names[-1]]
        return [True]

    def _change(self, asked: Asked, found: dict[str, Any]) -> tuple[list[Any] | None, tuple[str, ...]]:
        """Change the namespace, and return the answer, or None for an error."""
        operation, parts = asked.operation, asked.parts
        key = parts[0] if parts else ""
        there = key in found
        if operation == "set":
            found[key] = json.loads(parts[1])
            return [], ()
        if operation in COMPARE_VERSIONS:  # the requests expect a missing key, or a version that no key has
            if parts[-1] != 0 or there:
                return None, ()
            if operation == "delete_if_version":
                return [False], ()
            found[key] = json.loads(parts[1])
            return [], ()
        if operation == "set_many":
            found |= {one: json.loads(text) for one, text in zip(parts[2::2], parts[3::2], strict=True)}
            return [len(parts) // 2 - 1], ()
        if operation in ("delete", "delete_many", "clear"):
            gone = [
                one for one in (parts if operation != "clear" else tuple(found)) if found.pop(one, GONE) is not GONE
            ]
            return [bool(gone)] if operation == "delete" else [len(gone)], ()
        if operation in ("expire", "persist"):
            return [there], () if self._has_ttl else ("UnsupportedByServer",)
        if operation == "increment":
            if there and (isinstance(found[key], bool) or not isinstance(found[key], int)):
                return None, ()
            found[key] = found.get(key, 0) + json.loads(parts[1])
            return [b"%d" % found[key]], ()
        if operation == "append":
            if there and not isinstance(found[key], list):
                return None, ()
            found[key] = [*found.get(key, []), *map(json.loads, parts[3:])][-parts[1] if parts[1] else 0 :]
            return [], ()
        if operation == "set_if_absent":
            found.setdefault(key, json.loads(parts[1]))
            return [not there], ()
        if operation == "rename":
            if there:
                found[parts[1]] = found.pop(key)
            return [there], ()
        return self._compared(operation, parts, found), ()

    def _compared(self, operation: str, parts: tuple[Any, ...], found: dict[str, Any]) -> list[Any]:
        key, expected = parts[:2]
        current = compact(found[key]) if key in found else None
        if operation == "pop":
            if current is None:
                return [False]
            if current != expected:
                return [False, current]
            del found[key]
            return [True]
        if current == expected:
            found[key] = json.loads(parts[2])
            return [True]
        return [False] if operation == "compare_and_set" or current is None else [False, current]

    def _transaction(self, asked: Asked, data: Data) -> Expected:
        before = json.loads(json.dumps(data))
        for step in asked.steps:
            current = data.get(step[1], {}).get(step[2], GONE)
            wanted = GONE if step[3] is None else json.loads(step[3])
            if step[0] == READ and current != wanted:
                return Expected(None, before)
            if step[0] == EXPECT and (step[4] != 0 or current is not GONE):
                return Expected(None, before)
        for what, namespace, key, text, _ in asked.steps:
            if what == SET:
                data.setdefault(namespace, {})[key] = json.loads(text)
            elif what == DELETE:
                data.get(namespace, {}).pop(key, None)
        return Expected(lambda got: got == [], {name: found for name, found in data.items() if found})

    def _invalidated(self, rights: Rights, user: str, asked: Asked, raw: Raw, data: Data) -> Expected:
        tag = asked.parts[0]
        entries = raw.get(rights.prefix(user, "tags", tag) + f"tag:{tag}".encode(), {})
        pairs = rights.narrowed(asked)
        count = 0
        for namespace, key in map(members, entries):
            if any(matches([ours], namespace) and matches([theirs], namespace) for ours, theirs in pairs):
                count += data.get(namespace, {}).pop(key, GONE) is not GONE
        return Expected(lambda got: got == [count], {name: found for name, found in data.items() if found})

    def _claim(self, user: str, asked: Asked, raw: Raw, found: dict[str, Any], data: Data) -> Expected:
        key, token = asked.parts[:2]
        claims = raw.get(f"user:{user}:flight:{asked.namespace}".encode(), {})
        claim = claims.get(b"c" + key.encode(), b"- ").split(b" ")[1].decode()
        if asked.operation == "claim_value":
            if key in found:
                return Expected(lambda got: got == [3, compact(found[key])], data)
            return Expected(lambda got: got[0] in ((1, 2) if claim else (0, 2)), data)
        if claim != token:
            return Expected(lambda got: got == [False], data)
        if asked.operation != "commit_value":
            return Expected(lambda got: got == [True], data)
        if key in found:  # set meanwhile
            return Expected(lambda got: got == [False], data)
        value = json.loads(asked.parts[2])
        return Expected(lambda got: got == [True], {**data, asked.namespace: {**found, key: value}})

    def _lock(self, rights: Rights, user: str, asked: Asked, raw: Raw, data: Data) -> Expected:
        name, operation = asked.parts[0], asked.operation
        if operation == "take_moment":
            return Expected(lambda got: len(got) == 2, data, ("InvalidInput",))
        token, prefix = asked.parts[1], rights.prefix(user, "locks", name)
        if operation.endswith("lock"):
            text = raw.get(prefix + f"lock:{name}".encode())
            holders = {json.loads(text)["owner"]} if text else set()
            most = 1
        else:
            slots = raw.get(prefix + f"limit:{name}".encode(), {})
            holders, most = {one.decode() for one in slots if one != b"n"}, int(slots.get(b"n", 2))
        if operation.startswith("acquire"):
            free = len(holders) < most
            odd = ("InvalidInput",) if operation.endswith("place") else ()
            return Expected(lambda got: token in holders or bool(got[0]) <= free, data, odd)
        if operation.startswith("renew"):
            return Expected(lambda got: got == [token in holders], data)
        return Expected(lambda got: got == [token in holders] or token not in holders, data)


def changes(before: Raw, after: Raw) -> Iterator[bytes]:
    """Yield the Redis keys whose content differs."""
    yield from (key for key in {**before, **after} if before.get(key) != after.get(key))


def _meet(ours: str, theirs: str) -> bool:
    if not ours.endswith("*"):
        return matches([theirs], ours)
    if not theirs.endswith("*"):
        return matches([ours], theirs)
    return ours[:-1].startswith(theirs[:-1]) or theirs[:-1].startswith(ours[:-1])


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _loaded(texts: list[bytes]) -> list[Any]:
    return [json.loads(text) for text in texts]


def _pairs(parts: list[Any]) -> dict[str, Any]:
    found = {key: json.loads(text) for key, text in zip(parts[::2], parts[1::2], strict=True)}
    assert len(found) == len(parts) // 2, "a key twice"
    return found


def _pairs_before_infos(parts: list[Any]) -> dict[str, Any]:
    assert all(json.loads(info) for info in parts[2::3])
    return _pairs([part for at, part in enumerate(parts) if at % 3 < 2])


def _percent(name: str) -> str:
    return quote(name, safe="_.-")
