"""The fault run: a writer, external writes and a consumer, while connections, server and consumer are killed.

Used by the suite (`test_faults`, short) and by ``python -m tests.support.soak`` (long). At the end these must hold:

- Every acknowledged write of the writer was given to the consumer, unless a reset replaced it.
- Writes came in order, and none twice within one life of the consumer, except writes that the writer itself repeated.
- The state that the consumer built from the changes equals the server's.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import redis

from redis_store import DataStore, StoreUnavailable, connect
from tests.support.servers import Server, wait_until

T = TypeVar("T")

USER = "alice"
DATA = f"user:{USER}:ns:default"
LOCK = f"user:{USER}:lock:consumer:c:default"
KEYS = 300
STANDSTILL_S = 20.0

CONSUMER = """
import json, sys, time
from redis_store import StoreUnavailable, connect
url, user, path = sys.argv[1:]

def begin(store):
    while True:  # the server may be down just now
        try:
            return store.watch(consumer="c", initial=True)
        except StoreUnavailable:
            time.sleep(0.02)

with open(path, "a", buffering=1) as out, connect(url, user=user, configure_server=True) as store:
    watch = begin(store)
    out.write(json.dumps({"life": watch.standing_by}) + "\\n")
    for change in watch:
        out.write(json.dumps({"op": change.op, "key": change.key, "value": change.value, "source": change.source}) + "\\n")
"""


@dataclass
class Report:
    """The faults and results of a run."""

    writes: int = 0
    by_hand: int = 0
    connections_killed: int = 0
    servers_killed: int = 0
    consumers_killed: int = 0
    told: int = 0
    resets: int = 0
    lost: list[int] = field(default_factory=list)
    misplaced: list[tuple[int, int]] = field(default_factory=list)


class FaultRun:
    """One fault run, started by `go`."""

    def __init__(self, server: Server, folder: Path, seed: int, writes: int) -> None:
        self._server = server
        self._out = folder / "consumer.jsonl"
        self._chance = random.Random(seed)
        self._writes = writes
        self._store: DataStore = connect(server.url, user=USER, agent="writer")
        self._raw = server.client()
        self._consumer: subprocess.Popen[bytes] | None = None
        self._acknowledged: list[int] = []
        self._repeated: set[int] = set()
        self._number = 0
        self._wait_for_life: tuple[int, int] | None = None
        self.report = Report()

    def go(self) -> Report:
        """Write and cause faults; then wait until the consumer's state equals the server's, and check the changes."""
        try:
            self._start_consumer()
            self._wait_for_lives(1)
            # Writes before the first snapshot are given as one state, not one by one.
            self._store.set("begun", {})
            wait_until(lambda: any(line.get("key") == "begun" for line in self._lines()), "it has begun")
            # Each fault is planned twice, besides the random ones.
            faults = [self._kill_connections, self._kill_server, self._kill_consumer]
            planned = [(self._writes * at // 8, faults[at % 3]) for at in range(1, 7)]
            while self._number < self._writes:
                if planned and self._number >= planned[0][0]:
                    planned.pop(0)[1]()
                self._chance.choices(*zip(*self._acts(), strict=True))[0]()
                if self._wait_for_life is not None and self._number >= self._wait_for_life[1]:
                    self._wait_for_lives(self._wait_for_life[0])
                    self._wait_for_life = None
            self._wait_for_the_same_state()
            self._look_back()
            return self.report
        finally:
            if self._consumer is not None:
                self._consumer.kill()
                self._consumer.wait()
            self._store.close()
            self._raw.close()

    def _acts(self) -> list[tuple[Callable[[], None], float]]:
        ttl = 5.0 if self._server.has_ttl else 0.0
        return [
            (self._set, 45), (self._set_big, 8), (self._set_many, 20), (self._delete, 12), (self._clear, 0.2),
            (self._set_with_ttl, ttl), (self._write_by_hand, 3), (self._kill_connections, 0.4), (self._kill_server, 0.12),
            (self._kill_consumer, 0.15), (self._pause, 1.5),
        ]  # fmt: skip

    # The writer's acts.

    def _set(self) -> None:
        number = self._next()
        self._again(lambda: self._store.set(self._key(), {"n": number}))
        self._acknowledged.append(number)

    def _set_big(self) -> None:
        number = self._next()
        self._again(lambda: self._store.set(f"big{self._chance.randrange(50)}", {"big": number, "pad": "x" * 3000}))

    def _set_many(self) -> None:
        items = {self._key(): {"n": self._next()} for _ in range(self._chance.randrange(1, 40))}
        items = dict(sorted(items.items(), key=lambda item: item[1]["n"]))
        self._again(lambda: self._store.set_many(items))
        self._acknowledged += [value["n"] for value in items.values()]

    def _delete(self) -> None:
        self._again(lambda: self._store.delete(self._key()))

    def _clear(self) -> None:
        self._again(self._store.clear)

    def _set_with_ttl(self) -> None:
        ttl = self._chance.choice([0.05, 0.2, 100])
        key, number = f"ttl{self._chance.randrange(50)}", self._next()
        self._again(lambda: self._store.set(key, {"n": number}, ttl=ttl))
        self._acknowledged.append(number)

    # External writes and faults.

    def _write_by_hand(self) -> None:
        self.report.by_hand += 1
        text = json.dumps({"hand": self._next()})
        act = self._chance.choices([self._raw.hset, self._raw.hdel, self._raw.delete], [12, 7, 1])[0]
        if act == self._raw.hset:
            self._again(lambda: self._raw.hset(DATA, self._key(), text))
        elif act == self._raw.hdel:
            self._again(lambda: self._raw.hdel(DATA, self._key()))
        else:
            self._again(lambda: self._raw.delete(DATA))

    def _kill_connections(self) -> None:
        self.report.connections_killed += 1
        for kind in ("normal", "pubsub"):
            with suppress(redis.RedisError):
                self._raw.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def _kill_server(self) -> None:
        self.report.servers_killed += 1
        self._server.restart()

    def _kill_consumer(self) -> None:
        self.report.consumers_killed += 1
        assert self._consumer is not None
        self._consumer.kill()
        self._consumer.wait()
        # Delete the lock as if it had expired, so that the run need not wait for that.
        self._again(lambda: self._raw.delete(LOCK))
        self._start_consumer()
        lives = sum("life" in line for line in self._lines()) + 1
        self._wait_for_life = (lives, self._number + self._chance.choice([0, 20, 200, 600]))

    def _pause(self) -> None:
        time.sleep(self._chance.choice([0.003, 0.003, 0.003, 0.2]))

    # What it all led to.

    def _wait_for_the_same_state(self) -> None:
        """Wait as long as the consumer goes on: each of its steps is a write, which a slow disk makes slow."""
        told, since = 0, time.monotonic()
        while difference := self._difference():
            lines = len(self._lines())
            if lines > told:
                told, since = lines, time.monotonic()
            if time.monotonic() - since > STANDSTILL_S:
                raise AssertionError(f"consumer and server differ: {dict(list(difference.items())[:5])}")
            time.sleep(0.05)

    def _difference(self) -> dict[str, tuple[Any, Any]]:
        """Return the keys whose values differ: the consumer's value and the server's."""
        state: dict[str, Any] = {}
        for line in self._lines():
            if line.get("op") == "set":
                state[line["key"]] = line["value"]
            elif line.get("op") in ("delete", "expire"):
                state.pop(line["key"], None)
            elif "op" in line:
                state.clear()
        real = self._again(self._store.get_all)
        return {k: (state.get(k), real.get(k)) for k in state.keys() | real.keys() if state.get(k) != real.get(k)}

    def _look_back(self) -> None:
        lives: list[list[int]] = []
        for line in self._lines():
            if "life" in line or line["op"] == "reset":
                lives.append([])
                self.report.resets += "op" in line
            elif line["op"] == "set" and line["source"] == "log" and "n" in line["value"]:
                lives[-1].append(line["value"]["n"])
        seen = set().union(*lives)
        self.report.writes = len(self._acknowledged)
        self.report.told = len(seen)
        self.report.lost = [number for number in self._acknowledged if number not in seen]
        self.report.misplaced = [
            (a, b) for life in lives for a, b in itertools.pairwise(life) if b <= a and not {a, b} & self._repeated
        ]

    # Helpers.

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _key(self) -> str:
        return f"k{self._chance.randrange(KEYS)}"

    def _again(self, act: Callable[[], T]) -> T:
        """Repeat an act until it succeeds, and note the writes that may have happened twice."""
        while True:
            state = self._chance.getstate()
            try:
                return act()
            except StoreUnavailable as error:
                if error.outcome_unknown:
                    self._repeated.update(range(self._number - 45, self._number + 1))
            except redis.RedisError:
                pass
            self._chance.setstate(state)
            time.sleep(0.005)

    def _start_consumer(self) -> None:
        arguments = [self._server.url, USER, str(self._out)]
        self._consumer = subprocess.Popen([sys.executable, "-c", CONSUMER, *arguments])

    def _wait_for_lives(self, count: int) -> None:
        wait_until(lambda: sum("life" in line for line in self._lines()) >= count, "the consumer works")

    def _lines(self) -> list[dict[str, Any]]:
        if not self._out.exists():
            return []
        found = []
        for line in self._out.read_text().splitlines():
            with suppress(ValueError):  # one that was being written when the consumer was killed
                found.append(json.loads(line))
        return found
