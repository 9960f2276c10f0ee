"""Rounds: some runs of two users send requests in turn, and the oracle judges each answer and the server's whole state."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgpack
import redis

from redis_store import DataStore, connect
from sandbox.host.remote_broker import BrokerProcess
from tests.support.rights_fuzz.oracle import Expected, Oracle, Raw, Rights, changes, compact, data_of, is_dead, members
from tests.support.rights_fuzz.requests import AGENTS, NAMESPACES, SHARED, Asked, Requests, random_permissions
from tests.support.rights_fuzz.runs import Run
from tests.support.servers import Server
from tests.support.steps import Steps

DATABASE = 11
"""The database of the server that a round empties and uses."""

STEPS = 250
"""Requests in a round."""

_USERS = ("anna", "anna.2")
_RUNS = 4
_UNIQUE = re.compile(rb"u\d+u")
_HIDDEN = re.compile(rb"zq-hidden-\d")

_EXPIRING = re.compile(rb":(queue|tries):lock:")
"""What a waiter leaves; it expires within seconds."""

_SNAPSHOT = """
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
    local kind = redis.call('TYPE', key).ok
    local held
    if kind == 'hash' then held = redis.call('HGETALL', key)
    elseif kind == 'zset' then held = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    elseif kind == 'string' then held = redis.call('GET', key)
    elseif kind == 'list' then held = redis.call('LRANGE', key, 0, -1)
    elseif kind == 'set' then held = redis.call('SMEMBERS', key)
    else held = redis.call('XRANGE', key, '-', '+') end
    all[#all + 1] = {key, kind, held}
end
return all
"""


class Violation(AssertionError):
    """A request that saw or changed what it must not, or did not do what it must."""


@dataclass
class Report:
    """What a round did."""

    seed: int
    kind: str
    answers: Counter[str] = field(default_factory=Counter)
    violation: str | None = None

    def __str__(self) -> str:
        said = ", ".join(f"{count} {what}" for what, count in self.answers.most_common(4))
        return f"seed {self.seed} on {self.kind}: {said}" + (f"\n{self.violation}" if self.violation else "")


def rounds(server: Server, seed: int, seconds: float | None = None, count: int | None = None) -> Iterator[Report]:
    """Yield the report of each round, with seeds in a row, until the time or the number of rounds is up."""
    url = f"{server.url}?db={DATABASE}"
    end = None if seconds is None else time.monotonic() + seconds
    with ExitStack() as stack:
        store = stack.enter_context(connect(url, user="sandbox"))
        raw = stack.enter_context(server.client(db=DATABASE))
        process = BrokerProcess(url)
        stack.callback(process.close)
        done = 0
        while (count is None or done < count) and (end is None or time.monotonic() < end):
            yield Round(seed + done, server, store, raw, process).go()
            done += 1


class Round:
    """One round, decided by its seed."""

    def __init__(
        self, seed: int, server: Server, store: DataStore, raw: redis.Redis, process: BrokerProcess, steps: int = STEPS
    ) -> None:
        self.rng = random.Random(seed)
        self.report = Report(seed, server.kind)
        self._oracle = Oracle(server.has_ttl)
        self._store, self._raw, self._process, self._steps = store, raw, process, steps
        self._made = 0
        self._places: dict[bytes, set[tuple[str, str]]] = {}
        """The namespaces where each text has been, with their users."""
        self._writers: dict[bytes, set[str]] = {}
        """The runs that sent each text."""
        self._runs: list[Run] = []
        self._before: Raw = {}
        self._watched: dict[str, set[str]] = {user: set() for user in _USERS}
        """The namespaces of each user that a reader has watched. What watching keeps there changes at any time."""

    def go(self) -> Report:
        """Play the round, up to the first violation."""
        self._raw.flushdb()
        step = -1
        try:
            self._prepare()
            self._before = self._state()
            self._note(self._before, self._before)
            self._runs = [self._new_run() for _ in range(_RUNS)]
            for step in range(self._steps):  # noqa: B007  # a violation is reported with it
                self._step()
        except Violation as violation:
            self.report.violation = f"In step {step}: {violation}"
        finally:
            for run in self._runs:
                run.close()
        left = [key for key in self._state() if re.search(rb":(lock|limit|queue|tries):", key)]
        if not self.report.violation and set(left) != self._of_the_host:
            self.report.violation = f"Left at the end: {sorted(left)}"
        return self.report

    def _unique(self) -> str:
        self._made += 1
        return f"u{self._made}u"

    def _prepare(self) -> None:
        """Store what the users have before the runs: values, tags, locks, slots, limits and a consumer."""
        for user in _USERS:
            with connect(self._store.url, user=user) as host:
                for namespace in NAMESPACES:
                    there = host.use_namespace(namespace)
                    there.set_many({"k": self._unique(), "n": 5, "list": [self._unique()], f"key-{self._unique()}": 1})
                    text = self._unique()
                    there.get_or_set("k2", lambda text=text: text, tags=["t", "x"])  # type: ignore[misc]
                hold = Steps(host)
                hold.acquire_lock("gpu", "token-of-the-host", 3000)
                hold.acquire_place("gpu", "token-of-the-host", 2, 3000)
                host.rate_limit("llm", 2, per=3000).try_acquire()
                self._watched[user].add(host.namespace)
                with host.watch(consumer="x", initial=True) as watch:
                    watch.take(1, 0)
        self._of_the_host = {key for key in self._state() if re.search(rb":(lock|limit|queue|tries):", key)}

    def _new_run(self) -> Run:
        self._made += 1
        rights = Rights(random_permissions(self.rng), self.rng.choice(AGENTS))
        process = self._process if self.rng.random() < 0.5 else None
        return Run(self._store, process, rights, self.rng.choice(_USERS), self._made)

    def _step(self) -> None:
        run = self.rng.choice(self._runs)
        chance = self.rng.random()
        if chance < 0.02:
            self._replace(run)
        elif chance < 0.05:
            self._watch(run)
        else:
            self._ask(run, wrong=chance < 0.15)

    def _ask(self, run: Run, *, wrong: bool) -> None:
        """Send a request, and judge its answer and what it changed."""
        others = tuple(token for one in self._runs if one is not run for token in one.tokens)
        requests = Requests(self.rng, run.tokens, others, self._unique, run.taken)
        data = data_of(self._before, run.user)

        def stored(namespace: str, key: str) -> bytes | None:
            found = data.get(namespace, {})
            return compact(found[key]) if key in found else None

        asked = requests.next(stored)
        message = asked.message(run.next_number())
        body = requests.wrong(message) if wrong else msgpack.packb(message, use_bin_type=True)
        for text in _UNIQUE.findall(body):
            self._writers.setdefault(text, set()).add(run.name)
        reply = run.send(body)
        what = f"{asked} as {body!r}" if wrong else str(asked)
        if reply is None:
            self._require(wrong, run, what, reply, "The run ended.")
            self.report.answers["frames that ended a run"] += 1
            self._replace(run)
            return
        answer = msgpack.unpackb(reply)
        self.report.answers["carried out" if answer[1] else answer[2]] += 1
        after = self._judge_changes(run, what, reply)
        self._judge_answer(run, what, body, reply)
        if not wrong:
            self._judge(run, asked, answer, self._oracle.expect(run.rights, run.user, asked, self._before), after)
        self._before = after

    def _judge(self, run: Run, asked: Asked, answer: list[Any], expected: Expected, after: Raw) -> None:
        """Compare the answer and the data with what the oracle expects."""
        data, done = data_of(after, run.user), answer[1] == 1
        differing = {
            key: (self._before.get(key), after.get(key))
            for key in changes(self._before, after)
            if not _EXPIRING.search(key) and not self._is_housekeeping(run.user, key, after)
        }
        if not done:
            should = expected.answer is not None and answer[2] not in expected.or_error
            self._require(not should, run, asked, answer, "It should not fail.")
            self._require(answer[2] != "DataStoreError", run, asked, answer, "The host failed.")
            self._require(not differing, run, asked, answer, f"It failed and changed {differing}.")
            return
        self._require(expected.answer is not None, run, asked, answer, "It should fail.")
        assert expected.answer is not None
        self._require(expected.answer(answer[2:]), run, asked, answer, "The answer is wrong.")
        self._require(expected.fits(answer[2:], data), run, asked, answer, f"The data is {data}, not {expected.after}.")

    def _watch(self, run: Run) -> None:
        """Watch one namespace or all for a moment, perhaps as a consumer, and judge what came."""
        namespace, everywhere = self.rng.choice(NAMESPACES), self.rng.random() < 0.4
        consumer = self.rng.choice([None, *SHARED])
        what = f"a watch of {'all' if everywhere else namespace} as {consumer!r}"
        said = run.watch(namespace, everywhere, consumer)
        self.report.answers["watches"] += 1
        names = {*NAMESPACES, *data_of(self._before, run.user)}  # a wrong frame may have named another
        readable = {name for name in names if run.rights.may("read", name)}
        watched = names if everywhere else {namespace}
        answer = b"".join(msgpack.packb(one, use_bin_type=True) for one in said)
        named = consumer is None or run.rights.has_own("consumers") or run.rights.shares("consumers", consumer)
        allowed = run.rights.may_call("watch_all" if everywhere else "watch") and named
        allowed &= everywhere or namespace in readable
        if not allowed:
            self._require(said[0][0] == "refused", run, what, answer, "It should fail.")
        else:
            self._watched[run.user] |= watched & readable
        after = self._judge_changes(run, what, answer)
        self._judge_answer(run, what, what.encode(), answer)
        self._before = after

    def _replace(self, run: Run) -> None:
        """End a run, judge what that changed, and start another."""
        run.close()
        self._runs.remove(run)
        self._before = self._judge_changes(run, "its end", None)
        self._runs.append(self._new_run())

    def _judge_changes(self, run: Run, what: Any, reply: bytes | None) -> Raw:
        """Return the state now, once every difference from the state before is one that the run may make."""
        after = self._state()
        start = f"user:{run.user}:ns:".encode()
        differing = [key for key in changes(self._before, after) if key in after or not _EXPIRING.search(key)]
        touched = {key.removeprefix(start).decode() for key in differing if key.startswith(start)}
        for key in differing:
            may = run.rights.may_change(run.user, key, touched)
            if b":tag:" in key and key.startswith(f"user:{run.user}:".encode()):
                tagged = self._namespaces_of_entries(key, after)
                # A value that is deleted or renamed takes its entries with it, in anybody's tags.
                may = tagged <= touched or (may and all(run.rights.may("write", namespace) for namespace in tagged))
                may = may or self._are_swept(run.user, key, after)
            old, new = (f"{state.get(key)!r:.300}" for state in (self._before, after))
            self._require(may, run, what, reply, f"It changed {key!r}: {old} to {new}.")
        self._note(self._before, after)
        return after

    def _namespaces_of_entries(self, tag: bytes, after: Raw) -> set[str]:
        """Return the namespaces of the entries of a tag that differ."""
        old, new = self._before.get(tag, {}), after.get(tag, {})
        return {members(entry)[0] for entry in {**old, **new} if old.get(entry) != new.get(entry)}

    def _is_housekeeping(self, user: str, key: bytes, after: Raw) -> bool:
        """Whether a change is one that the host makes for the quota before a call, which may then fail."""
        return b":beside:" in key or key.endswith(b":tags") or (b":tag:" in key and self._are_swept(user, key, after))

    def _are_swept(self, user: str, tag: bytes, after: Raw) -> bool:
        """Whether a tag has only lost entries of values that do not carry it."""
        old, new = self._before.get(tag, {}), after.get(tag, {})
        return new.items() <= old.items() and all(is_dead(after, user, tag, entry) for entry in old.keys() - new.keys())

    def _judge_answer(self, run: Run, what: Any, sent: bytes, reply: bytes) -> None:
        """Check that an answer holds no text and no name that the run may not see."""
        for text in set(_UNIQUE.findall(reply)):
            known = run.name in self._writers.get(text, ()) or any(
                user == run.user and run.rights.may("read", namespace) for user, namespace in self._places.get(text, ())
            )
            self._require(known, run, what, reply, f"It saw {text!r}, which was in {self._places.get(text)}.")
        for name in set(_HIDDEN.findall(reply)) - set(_HIDDEN.findall(sent)):
            hidden = name.decode()
            known = run.rights.may("read", hidden) or run.rights.may("write", hidden)
            self._require(known, run, what, reply, f"It saw the name {hidden!r}.")

    def _note(self, before: Raw, after: Raw) -> None:
        """Note the namespaces in which each text is now."""
        for key in after:
            user = next((one for one in _USERS if key.startswith(f"user:{one}:".encode())), None)
            if user is None or (before is not after and before.get(key) == after[key]):
                continue
            kind, _, name = key.removeprefix(f"user:{user}:".encode()).partition(b":")
            if kind in (b"ns", b"info", b"flight", b"log"):
                for text in _UNIQUE.findall(repr(after[key]).encode()):
                    self._places.setdefault(text, set()).add((user, name.decode()))

    def _state(self) -> Raw:
        """Return everything that the server holds."""
        found: Raw = {}
        for key, kind, held in self._raw.eval(_SNAPSHOT, 0):  # type: ignore[union-attr]
            if any(self._belongs_to_a_watch(user, key) for user in _USERS):
                continue
            if kind == b"string" and held.startswith(b'{"kept_for"'):  # for a second, for the first waiter
                continue
            if kind in (b"hash", b"zset"):
                found[key] = dict(zip(held[::2], held[1::2], strict=True))
            else:
                found[key] = sorted(held) if kind == b"set" else held
        return found

    def _belongs_to_a_watch(self, user: str, key: bytes) -> bool:
        kind, _, name = key.removeprefix(f"user:{user}:".encode()).partition(b":")
        return key.startswith(f"user:{user}:".encode()) and (
            (kind in (b"seen", b"log") and name.decode() in self._watched[user]) or kind == b"w"
        )

    def _require(self, holds: object, run: Run, what: Any, reply: Any, why: str) -> None:
        if not holds:
            raise Violation(f"{why}\n  {run}\n  sent {what}\n  and got {reply!r}")
