"""`python -m benchmarks.watching`: latency from a write to its watcher, beside bare pub/sub and ``XREAD BLOCK``.

Consumers run in their own process, as in production. Latency is the time from the return of the writer's call to the receipt,
by the clock that both processes share. It is negative if the consumer was faster than the writer's return; such values count
unchanged. Rounds of all contestants are interleaved. The cost of a write is measured in one process, in alternating rounds,
against an unwatched namespace of the same store.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from time import monotonic, sleep
from typing import Any

import redis

from benchmarks.rounds import Figure, compare
from benchmarks.server import BenchServer, placed, running_server
from redis_store import connect, connect_async

USER = "bench"
ROUNDS = 12
WRITES = 40
GAP_S = 0.004
"""Pause between writes, so that each is received separately, in seconds."""

VALUE = {"path": "src/main.py", "lines": 120, "ok": True}
STREAM = "bare:stream"
CHANNEL = "bare:channel"
BATCHES, BATCH = 40, 500


def main() -> int:
    """Print the tables. Return 0."""
    with running_server() as server:
        print(f"{server.version}, redis-py {redis.__version__}, Python {sys.version.split()[0]}, TCP loopback\n")
        for pinned in (False, True):
            with placed(server, pinned=pinned):
                print("everything on one core:" if pinned else "spread over the cores:")
                _latency(server)
                _write_cost(server)
                _throughput(server)
                print()
    return 0


# Latency from a write to its receipt.


def _latency(server: BenchServer) -> None:
    for name, (p50_ms, p99_ms) in latencies(server).items():
        print(f"  {name:30} p50 {p50_ms:6.2f} ms   p99 {p99_ms:6.2f} ms")


def latencies(server: BenchServer, only: str = "") -> dict[str, tuple[float, float]]:
    """Return the median and the 99th percentile of each receiver whose name contains `only`, in ms."""
    with ExitStack() as stack:
        store = stack.enter_context(connect(server.url, user=USER, agent="bench"))
        bare = stack.enter_context(redis.Redis(port=server.port))

        def write_bare(act: Callable[[str], object]) -> Callable[[int], None]:
            def write(number: int) -> None:
                text = json.dumps({**VALUE, "number": number})
                bare.hset("bare:hash", "key", text)
                act(text)

            return write

        def write_ours(namespace: str) -> Callable[[int], None]:
            mine = store.use_namespace(namespace)
            return lambda number: mine.set("key", {**VALUE, "number": number})

        everyone: dict[str, tuple[Any, str, int, Callable[[int], None]]] = {
            "watch, 1 watcher": (watch_threads, "one", 1, write_ours("one")),
            "watch, 1 watcher, asyncio": (watch_tasks, "one-async", 1, write_ours("one-async")),
            "watch, 50 watchers, asyncio": (watch_tasks, "fifty-async", 50, write_ours("fifty-async")),
            "watch, 50 watchers, threads": (watch_threads, "fifty", 50, write_ours("fifty")),
            "hset + publish, pub/sub": (listen, "", 1, write_bare(lambda text: bare.publish(CHANNEL, text))),
            "hset + xadd, XREAD BLOCK": (
                read_stream,
                "",
                1,
                write_bare(lambda text: bare.xadd(STREAM, {"value": text}, maxlen=1000)),
            ),
        }
        contestants = {name: contestant for name, contestant in everyone.items() if only in name}
        pipes = [
            stack.enter_context(_process(kind, server, namespace, watchers))
            for kind, namespace, watchers, _ in contestants.values()
        ]
        taken: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(ROUNDS):
            for (name, (_, _, watchers, write)), pipe in zip(contestants.items(), pipes, strict=True):
                taken[name] += _round(write, pipe, watchers)
    percentiles = {name: statistics.quantiles(seconds, n=100) for name, seconds in taken.items()}
    return {name: (of[49] * 1e3, of[98] * 1e3) for name, of in percentiles.items()}


def _round(write: Callable[[int], None], pipe: Connection, watchers: int) -> list[float]:
    returned = {}
    for number in range(WRITES):
        write(number)
        returned[number] = monotonic()
        sleep(GAP_S)
    received = [pipe.recv() for _ in range(WRITES * watchers)]
    return [at - returned[number] for number, at in received]


@contextmanager
def _process(kind: Any, server: BenchServer, namespace: str, watchers: int) -> Iterator[Connection]:
    """Run a consumer process; it sends (number, time) for each receipt."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=kind, args=(server.port, namespace, watchers, theirs), daemon=True)
    process.start()
    try:
        assert mine.recv() == "ready"
        yield mine
    finally:
        process.kill()
        process.join()


def watch_threads(port: int, namespace: str, watchers: int, pipe: Connection) -> None:
    """Watch with each watcher in a thread."""
    lock = threading.Lock()

    def consume(watch: Any) -> None:
        for change in watch:
            at = monotonic()
            with lock:
                pipe.send((change.value["number"], at))

    with connect(f"redis://127.0.0.1:{port}", user=USER, namespace=namespace, configure_server=True) as store:
        threads = [threading.Thread(target=consume, args=(store.watch(),), daemon=True) for _ in range(watchers)]
        for thread in threads:
            thread.start()
        pipe.send("ready")
        for thread in threads:
            thread.join()


def watch_tasks(port: int, namespace: str, watchers: int, pipe: Connection) -> None:
    """Watch with each watcher in a task of one event loop."""

    async def consume(watch: Any) -> None:
        async for change in watch:
            pipe.send((change.value["number"], monotonic()))

    async def run() -> None:
        url = f"redis://127.0.0.1:{port}"
        async with connect_async(url, user=USER, namespace=namespace, configure_server=True) as store:
            watches = [await store.watch().begin() for _ in range(watchers)]
            pipe.send("ready")
            await asyncio.gather(*(consume(watch) for watch in watches))

    asyncio.run(run())


def listen(port: int, namespace: str, watchers: int, pipe: Connection) -> None:
    """Listen to bare pub/sub."""
    with redis.Redis(port=port) as bare, bare.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(CHANNEL)
        pubsub.get_message(timeout=1)
        pipe.send("ready")
        for message in pubsub.listen():
            number = json.loads(message["data"])["number"]
            pipe.send((number, monotonic()))


def read_stream(port: int, namespace: str, watchers: int, pipe: Connection) -> None:
    """Read a bare stream."""
    with redis.Redis(port=port) as bare:
        bare.xadd(STREAM, {"value": "{}"})
        last = bare.xrevrange(STREAM, count=1)[0][0]
        pipe.send("ready")
        while True:
            for _, entries in bare.xread({STREAM: last}, block=1000) or []:
                for entry_id, fields in entries:
                    pipe.send((json.loads(fields[b"value"])["number"], monotonic()))
                    last = entry_id


# Cost for the writer.


def _write_cost(server: BenchServer) -> None:
    """Print the time of a set in the server, and the time of the call relative to an unwatched namespace.

    On a machine with few cores the call's time mostly shows which process gets a core: writer, server and consumers all want one.
    """
    with ExitStack() as stack:
        store = stack.enter_context(connect(server.url, user=USER, agent="bench", configure_server=True))
        bare = stack.enter_context(redis.Redis(port=server.port))
        quiet = store.use_namespace("quiet")
        quiet.set("key", VALUE)
        print(f"  a set, no watcher              {_script_us(bare, quiet):5.1f} µs in the server")
    for watchers in (1, 50):
        in_server, figure = write_cost(server, watchers)
        low, high = figure.spread
        print(
            f"  {figure.name:30} {in_server:5.1f} µs in the server; the call {figure.ours_us:5.1f} µs"
            f" / {figure.theirs_us:5.1f} µs unwatched: {figure.ratio:4.2f} [{low:.2f} {high:.2f}]"
        )


def write_cost(server: BenchServer, watchers: int) -> tuple[float, Figure]:
    """Return the server's time for a set that is watched, in µs, and the comparison of the call with one that is not."""
    with ExitStack() as stack:
        store = stack.enter_context(connect(server.url, user=USER, agent="bench", configure_server=True))
        bare = stack.enter_context(redis.Redis(port=server.port))
        quiet, watched = store.use_namespace("quiet"), store.use_namespace(f"cost{watchers}")
        stack.enter_context(_process(sink, server, f"cost{watchers}", watchers))
        in_server_us = _script_us(bare, watched)
        return in_server_us, compare(
            f"a set, {watchers} watching", lambda: watched.set("key", VALUE), lambda: quiet.set("key", VALUE), 300, 21
        )


def _script_us(bare: Any, store: Any) -> float:
    """Return the server's own time for a set, at a moderate pace, in microseconds."""
    bare.config_resetstat()
    for _ in range(1000):
        store.set("key", VALUE)
        sleep(0.0002)
    return float(bare.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


def sink(port: int, namespace: str, watchers: int, pipe: Connection) -> None:
    """Watch and discard all changes."""

    async def consume(watch: Any) -> None:
        while True:
            await watch.take(1000)

    async def run() -> None:
        url = f"redis://127.0.0.1:{port}"
        async with connect_async(url, user=USER, namespace=namespace, configure_server=True) as store:
            watches = [await store.watch().begin() for _ in range(watchers)]
            pipe.send("ready")
            await asyncio.gather(*(consume(watch) for watch in watches))

    asyncio.run(run())


# Throughput.


def _throughput(server: BenchServer) -> None:
    with (
        connect(server.url, user=USER, namespace="flood", configure_server=True) as store,
        _process(count, server, "flood", 1) as pipe,
    ):
        start = monotonic()
        for batch in range(BATCHES):
            store.set_many({f"{batch % 10}-{i}": VALUE for i in range(BATCH)})
            while pipe.poll(0 if batch < BATCHES - 1 else None):
                if pipe.recv()[0] >= BATCHES * BATCH:
                    break
        seconds = monotonic() - start
        print(
            f"  changes a second through one hub, written meanwhile in batches of {BATCH}: {BATCHES * BATCH / seconds:,.0f}"
        )


def count(port: int, namespace: str, watchers: int, pipe: Connection) -> None:
    """Take all available changes, and count them."""
    with (
        connect(f"redis://127.0.0.1:{port}", user=USER, namespace=namespace, configure_server=True) as store,
        store.watch() as watch,
    ):
        pipe.send("ready")
        seen = 0
        while True:
            for change in watch.take(1000):
                seen += 1 if change.op != "reset" else 0
            pipe.send((seen, monotonic()))


if __name__ == "__main__":
    sys.exit(main())
