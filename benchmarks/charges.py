"""`make bench-charges`: measure how much memory of the server an agent takes for each byte that it is charged for.

Each call is made many times, with tiny and long names, and the memory of the server is compared with what the broker would
charge (`Limits.bytes_written`). Then agents with a quota store what they can, until it is refused, in several runs, and the
memory is compared with the quota (`Permissions.quota_bytes`). docs/limits.md has the worst case of each kind.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import redis

from benchmarks.server import running_server
from redis_store import DataStore, connect
from redis_store.brokers.lease import lease
from redis_store.brokers.steps import carry_out
from redis_store.errors import UnsupportedByServer
from sandbox import Permissions, Sandbox
from sandbox.protocol import charges
from sandbox.protocol.arguments import DELETE, MAX_TAGS, SET, charge_of_namespaces, size_of
from sandbox.protocol.operations import OPERATIONS

TOKEN = "token-of-a-claim"
LONG_NAME = "n" * 1000
LONG_KEY = "k" * 65_000
KILOBYTE = b'"%b"' % (b"x" * 1000)


class Agent:
    """Makes the calls of an agent, and counts what the broker would charge for them."""

    def __init__(self, store: DataStore, host: DataStore) -> None:
        self.host = host
        self.charged = 0
        self._store = store
        self._known: set[str] = set()

    def call(self, operation: str, *parts: Any, namespace: str = "n", max_keys: int | None = None) -> None:
        row = OPERATIONS[operation]
        new = [name for name in row.written_namespaces(namespace, [*parts]) if name not in self._known]
        self._known.update(new)
        self.charged += row.bytes_written([*parts]) + row.bytes_noted(namespace, [*parts]) + charge_of_namespaces(new)
        carry_out(self._store.use_namespace(namespace, max_keys=max_keys), operation, *row.decode([*parts]))

    def watch(self, namespace: str, consumer: str | None = None) -> None:
        self.charged += charges.WATCH_BYTES + 3 * size_of(namespace)
        if consumer is not None:
            self.charged += charges.HELD_BYTES + 3 * size_of(consumer) + charges.CURSOR_BYTES + size_of(namespace)
        self.host.use_namespace(namespace).watch(consumer=consumer).close()


def _keys(agent: Agent, count: int, key: str = "", ttl: float | None = None, metadata: bytes | None = None) -> None:
    for start in range(0, count, 1000):
        items = [part for number in range(start, min(count, start + 1000)) for part in (f"{number}{key}", b"1")]
        agent.call("set_many", metadata, ttl, *items)


def _each(operation: str, count: int, *rest: Any, name: str = "", **options: Any) -> Callable[[Agent], None]:
    def make(agent: Agent) -> None:
        for number in range(count):
            agent.call(operation, f"{number}{name}", *rest, **options)

    return make


def _namespaces(agent: Agent, count: int, name: str) -> None:
    for number in range(count):
        agent.call("set", "k", b"1", None, None, namespace=f"{number}{name}")


def _transactions(agent: Agent, name: str) -> None:
    for turn in range(20):
        steps = [part for number in range(100) for part in (SET, f"{turn}-{number}{name}", "k", b"1", None)]
        agent.call("commit_transaction", *steps, DELETE, "none", "k", None, None)


def _tags(agent: Agent, name: str) -> None:
    tags = [f"{number}" for number in range(MAX_TAGS)]
    agent.call("claim_value", "k", TOKEN, None, None, 30, 0, *tags, namespace=name)
    agent.call("commit_value", "k", TOKEN, b"1", None, None, *tags, namespace=name)


def _tagged(agent: Agent) -> None:
    for number in range(2000):
        agent.call("claim_value", f"{number}", TOKEN, None, None, 30, 0, "t")
        agent.call("commit_value", f"{number}", TOKEN, b"1", None, None, "t")


def _queues(agent: Agent) -> None:
    for number in range(500):
        for waiter in range(2):
            agent.call("acquire_lock", f"{number}", f"{TOKEN}-{waiter}", 30, 1)


def _failures(agent: Agent) -> None:
    for number in range(1000):
        agent.call("claim_value", f"{number}", TOKEN, None, None, 30, 0)
        agent.call("fail_value", f"{number}", TOKEN, "ValueError", "\x01" * 1000)


def _stale_claims(agent: Agent) -> None:
    for number in range(1000):
        agent.call("set", f"{number}", KILOBYTE, None, 1000)
        agent.call("claim_value", f"{number}", TOKEN, 1000, 2000, 30, 0)


def _logged(operation: str, value: bytes, *rest: Any) -> Callable[[Agent], None]:
    """Call an operation on one key of a watched namespace, again and again."""

    def make(agent: Agent) -> None:
        with agent.host.use_namespace("n").watch():
            agent.call("set", "0", value, None, None)
            for number in range(5000):
                key = f"{number}" if operation == "rename" else "0"
                agent.call(operation, key, *([f"{number + 1}"] if operation == "rename" else rest))

    return make


def _watched(agent: Agent) -> None:
    with agent.host.use_namespace("n").watch():
        for number in range(5000):
            agent.call("set", f"{number}", b"1", None, None)


def _watches(agent: Agent, count: int, name: str, consumer: str | None = None) -> None:
    for number in range(count):
        agent.watch(f"{number}{name}", consumer and f"{number}{consumer}")


WORK: dict[str, Callable[[Agent], None]] = {
    "keys, tiny": lambda agent: _keys(agent, 33_000),
    "keys, 65,000 bytes": lambda agent: _keys(agent, 300, LONG_KEY),
    "keys with a ttl, tiny": lambda agent: _keys(agent, 33_000, ttl=1000),
    "keys with metadata, tiny": lambda agent: _keys(agent, 33_000, metadata=b'{"a":1}'),
    "values, 1,000 bytes": _each("set", 5000, KILOBYTE, None, None),
    "keys in a namespace with max_keys": _each("set", 5000, b"1", None, None, max_keys=2500),
    "namespaces, short names": lambda agent: _namespaces(agent, 5000, ""),
    "namespaces, names of 1,000 bytes": lambda agent: _namespaces(agent, 5000, LONG_NAME),
    "transactions, a namespace for each key": lambda agent: _transactions(agent, ""),
    "transactions, long names": lambda agent: _transactions(agent, LONG_NAME),
    "tags of one value": lambda agent: _tags(agent, "n"),
    "tags of one value, long name of its namespace": lambda agent: _tags(agent, LONG_NAME),
    "values with one tag": _tagged,
    "claims of get_or_set": _each("claim_value", 900, TOKEN, None, None, 30, 0),
    "claims, stale values of 1,000 bytes": _stale_claims,
    "failures of get_or_set": _failures,
    "locks": _each("acquire_lock", 2000, TOKEN, 30, 0),
    "locks, names of 1,000 bytes": _each("acquire_lock", 2000, TOKEN, 30, 0, name=LONG_NAME),
    "locks with queues": _queues,
    "semaphores": _each("acquire_place", 2000, TOKEN, 5, 30, 0),
    "rate limits": _each("take_moment", 2000, 1000, 60, None),
    "change log: set": _watched,
    "change log: append to 1,000 bytes": _logged("append", b"[%b]" % b",".join([b"1"] * 500), 500, None, b"1"),
    "change log: rename of 1,000 bytes": _logged("rename", KILOBYTE),
    "change log: increment": _logged("increment", b"1", b"1", None),
    "change log: expire": _logged("expire", KILOBYTE, 1000),
    "watches of namespaces that hold nothing": lambda agent: _watches(agent, 300, ""),
    "the same, names of 1,000 bytes": lambda agent: _watches(agent, 300, LONG_NAME),
    "consumers": lambda agent: _watches(agent, 300, "", "c"),
}
"""What an agent does, by name."""


QUOTA = 1_000_000
RUNS = 3

ATTACK = """
from redis_store.errors import DataStoreError, LimitExceeded

def fails():
    raise ValueError("\\x01" * 1000)

def run(input_dict):
    turn, held, refused = input_dict["turn"], [], 0
    q, long = data_store.use_namespace("q"), "n" * 900
    for n in range(600):
        here = data_store.use_namespace(f"q{turn}-{n}{long}")
        try:
            WORK
        except LimitExceeded:
            refused += 1
            if refused == 3:
                break
        except (DataStoreError, ValueError):
            pass
    return {}
"""

ATTACKS = {
    "keys, tiny": 'q.set_many({f"{turn}-{n}-{m}": 1 for m in range(100)})',
    "keys, 60,000 bytes": 'q.set(f"{turn}-{n}" + "k" * 60_000, 1)',
    "namespaces, long names": 'here.set("k", 1)',
    "tags": 'q.get_or_set(f"{turn}-{n}", lambda: 1, tags=[f"{turn}-{n}-{m}" for m in range(200)])',
    "tags, long names": 'q.get_or_set(f"{turn}-{n}", lambda: 1, tags=[f"{turn}-{n}-{m}{long}" for m in range(50)])',
    "tags of values with long names": (
        'q.get_or_set(f"{turn}-{n}{long * 6}", lambda: 1, tags=[f"{turn}-{n}-{m}" for m in range(50)])'
    ),
    "failures": 'q.get_or_set(f"{turn}-{n}", fails)',
    "failures in namespaces with long names": 'here.get_or_set("k", fails)',
    "locks, long names": 'held.append(data_store.lock(f"{turn}-{n}{long}", ttl=3600).__enter__())',
    "semaphores, long names": 'held.append(data_store.semaphore(f"{turn}-{n}{long}", 2, ttl=3600).__enter__())',
    "rate limits, long names": 'data_store.rate_limit(f"{turn}-{n}{long}", 2, per=80_000).__enter__()',
    "logs of cleared namespaces": """
                with here.watch():
                    for size in range(20):
                        here.set("k" * 50_000, "x" * 900)
                        here.clear()""",
    "watches with consumers, of what holds nothing": (
        'data_store.use_namespace(f"none{turn}-{n}{long}").watch(consumer=f"{turn}-{n}").close()'
    ),
    "watches of what holds nothing": 'data_store.use_namespace(f"none{turn}-{n}{long}").watch().close()',
}
"""What an agent with a quota does again and again, by name."""


def measure_quota(binary: str | None, work: str) -> tuple[str, int]:
    """Attack a quota on a new server, in several runs. Return its version, and the most memory that it took after a run."""
    permissions = Permissions(read=["*"], write=["q*"], quota_bytes=QUOTA)
    with running_server(binary) as server, redis.Redis.from_url(server.url) as client, ExitStack() as opened:
        box = opened.enter_context(Sandbox(url=server.url, permissions=permissions))
        source = textwrap.dedent(ATTACK).replace("WORK", work.strip())
        box.run(source, {"turn": 0}, user="other").check()  # connections and scripts
        client.execute_command("FLUSHALL", "SYNC")
        before = int(client.info("memory")["used_memory"])
        taken = []
        for turn in range(RUNS):
            box.run(source, {"turn": turn}, user="bench").check()
            taken.append(int(client.info("memory")["used_memory"]) - before)
        return server.version, max(taken)


def measure(binary: str | None, work: Callable[[Agent], None]) -> tuple[str, int, int]:
    """Do some work on a new server. Return its version, the memory that it took and what was charged, in bytes."""
    with running_server(binary) as server, redis.Redis.from_url(server.url) as client, ExitStack() as opened:

        def used() -> int:
            return int(client.info("memory")["used_memory"])

        host = opened.enter_context(connect(server.url, user="bench", agent="host"))
        leased = opened.enter_context(lease(host, user="bench", namespace="default", agent="agent"))
        agent = Agent(leased.as_json_text(), host)
        host.set("first", 1)
        before = used()
        work(agent)
        return server.version, used() - before, agent.charged


def main(*binaries: str) -> int:
    """Print the figures for the servers of these binaries; without any, for the embedded one. Return 0."""
    for binary in binaries or [None]:
        print(f"{binary or 'embedded server'}: bytes of the server for each charged byte")
        for name, work in WORK.items():
            with suppress(UnsupportedByServer):
                version, taken, charged = measure(binary, work)
                print(f"  {version}  {name:48} {taken / charged:5.2f}   {taken:12,} / {charged:12,}", flush=True)
        print(f"{binary or 'embedded server'}: bytes of the server for each byte of a quota")
        for name, attack in ATTACKS.items():
            version, taken = measure_quota(binary, attack)
            print(f"  {version}  {name:48} {taken / QUOTA:5.2f}   {taken:12,} / {QUOTA:12,}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
