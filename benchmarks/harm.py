"""`make bench-harm`: measure for how long one call of an agent keeps the server from its other clients, at each bound.

Another process sends PING without a pause and notes the longest wait for a reply. Each call is made several times, and the
shortest of these waits is shown: the others have work of this machine in them. Beside it is the processor time of the server.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.server import BenchServer, running_server
from redis_store import DataStore, connect
from redis_store.brokers import steps
from redis_store.brokers.lease import lease
from redis_store.changelog.ops import attach
from redis_store.errors import UnsupportedByServer
from redis_store.flows.hold import GRACE_MS
from redis_store.flows.optimistic import MAX_PARTS, TransactionParts
from redis_store.limits import (
    MAX_CALL_KEYS,
    MAX_CALL_NAME_BYTES,
    MAX_FREED_BYTES,
    MAX_INFO_BYTES,
    MAX_READ_BYTES,
    MAX_SCRIPT_BYTES,
    MAX_STEP_BYTES,
    MAX_VALUE_BYTES,
)
from redis_store.namespace.access import EVERYTHING
from redis_store.operations import operations_of
from redis_store.ops.bounds import Bound, ending
from redis_store.ops.run_script import run_script
from redis_store.ops.updates import APPEND_COPIES
from redis_store.scripts import EVICT
from sandbox.protocol.arguments import MAX_TAGS

REPEATS = 4
TOKEN = "token-of-a-claim"
PING = r"""
import select, socket, sys, time
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
longest = 0.0
while True:
    start = time.perf_counter()
    sock.sendall(b"PING\r\n")
    sock.recv(64)
    longest = max(longest, time.perf_counter() - start)
    if select.select([sys.stdin], [], [], 0.0002)[0]:
        if not sys.stdin.readline():
            break
        print(longest, flush=True)
        longest = 0.0
"""


class Neighbour:
    """Another client of the server, in a process of its own."""

    def __init__(self, server: BenchServer) -> None:
        self._schedstat = Path(f"/proc/{server.pid}/task/{server.pid}/schedstat")
        command = [sys.executable, "-I", "-S", "-c", PING, str(server.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def longest_ms(self) -> float:
        """Return its longest wait since the last call, in ms."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline()) * 1000

    def server_ms(self) -> float:
        """Return the processor time of the server's main thread, in ms; 0 where the system does not tell."""
        with suppress(OSError):
            return int(self._schedstat.read_text().split()[0]) / 1e6
        return 0.0

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def text_of(size: int) -> bytes:
    """Return a JSON text of this size."""
    return b'"%b"' % (b"x" * (size - 2))


def calls(host: DataStore) -> dict[str, tuple[Callable[[DataStore], object], Callable[[DataStore], object]]]:
    """Return the calls at their bounds, each with what is prepared before it."""
    keys = [f"key-{number}" for number in range(MAX_CALL_KEYS)]
    small = dict.fromkeys(keys, b"1")
    half, most = text_of(MAX_SCRIPT_BYTES // 2), text_of(MAX_SCRIPT_BYTES - 100)
    value = text_of(MAX_VALUE_BYTES)
    items = text_of(MAX_SCRIPT_BYTES // APPEND_COPIES - 100)
    tags = [f"tag-{number}" for number in range(MAX_TAGS)]
    many = dict.fromkeys(keys[:8000], text_of(MAX_READ_BYTES // 8000))
    batch = dict.fromkeys(keys[:8000], text_of(MAX_STEP_BYTES // 8000 - 16))

    def put(**values: bytes) -> Callable[[DataStore], object]:
        return lambda store: host.use_namespace(store.namespace).as_json_text().set_many(values)

    def claim(store: DataStore) -> object:
        return steps.carry_out(store, "claim_value", "key", TOKEN, None, None, 30, 0, tags)

    def commit(store: DataStore) -> object:
        return steps.carry_out(store, "commit_value", "key", TOKEN, most, None, None, tags)

    transaction = TransactionParts([], [("default", key, b"1", None) for key in keys[:MAX_PARTS]], [], {})
    return {
        f"set, {len(value):,} bytes": (put(), lambda store: steps.carry_out(store, "set", "key", value, None, None)),
        f"set with metadata, {len(most):,} bytes": (
            put(),
            lambda store: steps.carry_out(store, "set", "key", most, {"a": 1}, None),
        ),
        f"set with a ttl, {len(most):,} bytes": (
            put(),
            lambda store: steps.carry_out(store, "set", "key", most, None, 9),
        ),
        f"get, {len(value):,} bytes": (put(key=value), lambda store: store.get("key")),
        f"get_many, 8,000 keys, {MAX_READ_BYTES:,} bytes": (put(**many), lambda store: store.get_many(keys[:8000])),
        f"set_many, {len(keys):,} small values": (put(), lambda store: store.set_many(small)),
        f"set_many again, {len(keys):,} small values": (put(**small), lambda store: store.set_many(small)),
        f"set_many with metadata, {len(keys):,} small values": (
            put(),
            lambda store: store.set_many(small, metadata={"a": 1}),
        ),
        f"set_many with a ttl, {len(keys):,} small values": (put(), lambda store: store.set_many(small, ttl=9)),
        f"set_many, 8,000 keys, {MAX_STEP_BYTES:,} bytes": (put(), lambda store: store.set_many(batch)),
        f"get_many, {len(keys):,} small values": (put(**small), lambda store: store.get_many(keys)),
        f"delete_many, {len(keys):,} keys": (put(**small), lambda store: store.delete_many(keys)),
        f"rename, {len(most):,} bytes": (put(key=most), lambda store: store.rename("key", "new")),
        f"append to {len(items):,} bytes": (put(key=b"[%b]" % items), lambda store: store.append("key", b"1")),
        f"compare_and_set, 2 x {len(half):,} bytes": (
            put(key=half),
            lambda store: store.compare_and_set("key", half, half),
        ),
        f"pop, {len(most):,} bytes": (put(key=most), lambda store: store.pop("key")),
        f"get_or_set, {len(most):,} bytes, {MAX_TAGS:,} tags": (claim, commit),
        f"transaction, {MAX_PARTS:,} writes": (
            put(),
            lambda store: steps.carry_out(store, "commit_transaction", transaction),
        ),
        "delete, 64 MiB": (put(key=value), lambda store: store.delete("key")),
        f"clear, {len(keys):,} keys and 64 MiB": (put(**{**small, "key": value}), lambda store: store.clear()),
        "info, 64 MiB": (put(key=value), lambda store: store.info("key")),
        **calls_over_held_keys(host),
    }


def calls_over_held_keys(
    host: DataStore,
) -> dict[str, tuple[Callable[[DataStore], object], Callable[[DataStore], object]]]:
    """Return calls at their bounds whose keys hold tags, metadata, long names, big values or a watcher already."""
    tags = [f"tag-{number}" for number in range(MAX_TAGS)]
    tagged = [f"key-{number}" for number in range(10)]
    described = [f"key-{number}" for number in range(MAX_INFO_BYTES // 2 // 65_000 - 2)]
    named = [f"{number:05}".ljust(MAX_CALL_NAME_BYTES // MAX_CALL_KEYS, "x") for number in range(MAX_CALL_KEYS)]
    small, long = dict.fromkeys(named, b"1"), [f"{number:05}".ljust(65_000, "x") for number in range(600)]
    big = dict.fromkeys((f"key-{number}" for number in range(63)), text_of(MAX_FREED_BYTES // 64))

    def compute(store: DataStore, key: str, names: list[str]) -> None:
        steps.carry_out(store, "claim_value", key, TOKEN, None, None, 30, 0, names)
        steps.carry_out(store, "commit_value", key, TOKEN, b"1", None, None, names)

    def tag_all(store: DataStore) -> None:
        for key in tagged:
            compute(store, key, tags)

    def tag_long(store: DataStore) -> None:
        for key in long[:100]:
            compute(store, key, ["tag"])

    def describe(store: DataStore) -> None:
        for key in described:
            store.set(key, b"1", metadata={"a": "x" * 65_000})

    def put(values: dict[str, bytes]) -> Callable[[DataStore], object]:
        return lambda store: host.use_namespace(store.namespace).as_json_text().set_many(values)

    def fill(store: DataStore) -> None:
        for key, text in big.items():
            host.use_namespace(store.namespace).as_json_text().set(key, text)

    def watch(store: DataStore) -> None:
        host.use_namespace(store.namespace).as_json_text().set_many(small, metadata={"a": 1})
        steps.carry_out(store, "claim_value", "key", TOKEN, None, None, 30, 0, [])
        on = operations_of(store)
        on.run(attach([(on.scope.keys, on.scope.log, False)], [b"e"], None, 0))

    def transaction(store: DataStore, keys: list[str]) -> TransactionParts:
        return TransactionParts([], [(store.namespace, key, b"1", None) for key in keys], [], {})

    def evict(store: DataStore) -> object:
        on = operations_of(store)
        arguments = (*on.scope.script_head, *ending(*Bound(on.scope.keys, 1, ()).arguments()))
        return on.run(run_script(EVICT, on.scope.script_keys, arguments))

    def expire(store: DataStore) -> None:
        for key in range(20):
            steps.carry_out(store, "claim_value", f"old-{key}", TOKEN, None, None, 1, 0, tags)
        time.sleep(1.1)

    def wait_in_vain(store: DataStore) -> None:
        for number in range(10_000):
            steps.carry_out(store, "acquire_lock", store.namespace, f"{number:08}", 30, 1)
        time.sleep(GRACE_MS / 1000 + 0.1)

    return {
        f"set_many, {len(tagged)} keys with {MAX_TAGS:,} tags each": (
            tag_all,
            lambda store: store.set_many(dict.fromkeys(tagged, b"2")),
        ),
        f"transaction, {len(tagged)} keys with {MAX_TAGS:,} tags each": (
            tag_all,
            lambda store: steps.carry_out(store, "commit_transaction", transaction(store, tagged)),
        ),
        f"get_or_set, {MAX_TAGS:,} tags of a key of 7,000 bytes": (
            lambda store: steps.carry_out(store, "claim_value", "k" * 7000, TOKEN, None, None, 30, 0, tags),
            lambda store: steps.carry_out(store, "commit_value", "k" * 7000, TOKEN, b"1", None, None, tags),
        ),
        f"claim of get_or_set, {MAX_TAGS:,} tags with expired entries": (
            expire,
            lambda store: steps.carry_out(store, "claim_value", "new", TOKEN, None, None, 30, 0, tags),
        ),
        "rename, 1,000 tags": (
            lambda store: compute(store, "key", tags),
            lambda store: steps.carry_out(store, "rename", "key", "new"),
        ),
        "invalidate_tag, 100 keys of 65,000 bytes": (
            tag_long,
            lambda store: steps.carry_out(store, "invalidate_tag", "tag", EVERYTHING),
        ),
        f"set_many, {len(described)} keys with metadata of 65,000 bytes": (
            describe,
            lambda store: store.set_many(dict.fromkeys(described, b"2")),
        ),
        f"set_many, {len(named):,} watched keys with long names": (watch, lambda store: store.set_many(small)),
        f"set_many with a ttl, {len(named):,} watched keys": (watch, lambda store: store.set_many(small, ttl=9)),
        f"set_many with metadata, {len(named):,} watched keys": (
            watch,
            lambda store: store.set_many(small, metadata={"b": 1}),
        ),
        f"delete_many, {len(named):,} watched keys": (watch, lambda store: store.delete_many(named)),
        "transaction, 32 keys of 65,000 bytes": (
            lambda store: None,
            lambda store: steps.carry_out(store, "commit_transaction", transaction(store, long[:32])),
        ),
        "one step of an eviction, keys of 65,000 bytes": (put(dict.fromkeys(long, b"1")), evict),
        f"delete_many, {len(big)} keys, {MAX_FREED_BYTES:,} bytes": (fill, lambda store: store.delete_many([*big])),
        f"set_many, {len(big)} keys, which frees as much": (
            fill,
            lambda store: store.set_many(dict.fromkeys(big, b"1")),
        ),
        "release of a lock with 10,000 dead waiters": (
            wait_in_vain,
            lambda store: steps.carry_out(store, "release_lock", store.namespace, "00000000"),
        ),
    }


def measure(host: DataStore, neighbour: Neighbour) -> Iterator[tuple[str, float, float]]:
    """Yield each call with the longest wait of a neighbour and the processor time of the server, in ms."""
    number = 0
    with lease(host, user=host.user, namespace="default", max_read_bytes=2 * MAX_VALUE_BYTES) as agent:
        for name, (prepare, call) in calls(host).items():
            figures: list[tuple[float, float]] = []
            for _ in range(REPEATS):
                number += 1
                store = agent.use_namespace(f"n{number}").as_json_text()
                prepare(store)
                time.sleep(0.02)
                neighbour.longest_ms()
                before = neighbour.server_ms()
                try:
                    call(store)
                except UnsupportedByServer:
                    break
                figures.append((neighbour.longest_ms(), neighbour.server_ms() - before))
                host.use_namespace(store.namespace).clear()
            if figures:
                yield name, min(wait for wait, _ in figures), min(busy for _, busy in figures)


@contextmanager
def neighbour_of(server: BenchServer) -> Iterator[Neighbour]:
    neighbour = Neighbour(server)
    try:
        yield neighbour
    finally:
        neighbour.close()


def main(*binaries: str) -> int:
    """Print the figures for the servers of these binaries; without any, for the embedded one. Return 0."""
    for binary in binaries or [None]:
        with (
            running_server(binary) as server,
            neighbour_of(server) as neighbour,
            connect(server.url, user="bench") as host,
        ):
            print(
                f"{binary or 'embedded server'}, version {server.version}: longest wait of another client [processor time]"
            )
            for name, wait_ms, busy_ms in measure(host, neighbour):
                print(f"  {name:52} {wait_ms:6.1f} ms [{busy_ms:6.1f} ms]", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
