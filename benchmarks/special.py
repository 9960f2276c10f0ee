"""Rows that are not a ratio of two calls: longest wait of other clients, influence of foreign keys, memory of a namespace."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any

import orjson
import redis

from benchmarks.clients import USER, connected
from benchmarks.documents import SMALL
from benchmarks.race import Entrant, race, same
from benchmarks.server import running_server
from redis_store import connect

MILLION = 1_000_000
NAMESPACES = 10_000
BATCH = 10_000
MEMORY_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Note:
    """A row with a text result."""

    name: str
    at_most: str
    said: str
    figures: dict[str, float]


def fill(port: int, name: str, keys: int, value: Any = SMALL) -> None:
    """Store `keys` keys in a namespace of the benchmark's user."""
    with connect(f"redis://127.0.0.1:{port}", user=USER, agent="bench") as store:
        namespace = store.use_namespace(name)
        for start in range(0, keys, BATCH):
            namespace.set_many({f"key-{i:07}": value for i in range(start, min(keys, start + BATCH))})


def longest_wait(port: int) -> Note:
    """Measure the longest get of another client while a namespace of a million keys is listed.

    Another process lists, because threads of one process would wait for the interpreter lock. The server's slow log gives the
    time of its longest command, which other load on the machine does not affect.
    """
    fill(port, "million", MILLION)
    ours_ms, ours_server_ms = _wait_beside(port, _list_ours)
    theirs_ms, theirs_server_ms = _wait_beside(port, _list_theirs)
    return Note(
        "listing 1,000,000 keys: others wait at most",
        "5 ms",
        f"{ours_ms:.1f} ms, the server's longest command {ours_server_ms:.2f} ms"
        f" (redis-py's hkeys: {theirs_ms:.0f} and {theirs_server_ms:.0f} ms)",
        {
            "ours_ms": ours_ms,
            "ours_server_ms": ours_server_ms,
            "hkeys_ms": theirs_ms,
            "hkeys_server_ms": theirs_server_ms,
        },
    )


def _list_ours(port: int) -> None:
    with connect(f"redis://127.0.0.1:{port}", user=USER) as store:
        assert len(store.use_namespace("million").list_keys()) == MILLION


def _list_theirs(port: int) -> None:
    with redis.Redis(port=port) as bare:
        assert len(bare.hkeys(f"user:{USER}:ns:million")) == MILLION


def _wait_beside(port: int, listing: Callable[[int], None]) -> tuple[float, float]:
    process = multiprocessing.get_context("spawn").Process(target=listing, args=(port,))
    with connect(f"redis://127.0.0.1:{port}", user=USER) as store, redis.Redis(port=port) as bare:
        before = bare.config_get("slowlog-log-slower-than")
        bare.config_set("slowlog-log-slower-than", 500)
        bare.slowlog_reset()
        store.set("small", 1)
        process.start()
        longest_s = 0.0
        while process.is_alive():
            start = perf_counter()
            store.get("small")
            longest_s = max(longest_s, perf_counter() - start)
            sleep(0.0002)
        if process.exitcode != 0:
            raise SystemExit("Listing a million keys failed, see above.")
        slow_us = [entry["duration"] for entry in bare.slowlog_get(1000)]
        bare.config_set("slowlog-log-slower-than", before["slowlog-log-slower-than"])
    return longest_s * 1e3, max(slow_us, default=500) / 1e3


def foreign_keys(loop: asyncio.AbstractEventLoop) -> Note:
    """Measure `list_namespaces` of 10,000 namespaces with a million foreign keys, relative to a server without them."""
    with running_server() as full, running_server() as empty:
        with redis.Redis(port=full.port) as bare:
            script = "for i = ARGV[1], ARGV[1] + 9999 do redis.call('SET', 'other:' .. i, 'x') end"
            for start in range(0, MILLION, 10_000):
                bare.eval(script, 0, start)
        for server in (full, empty):
            with redis.Redis(port=server.port) as bare:
                pipe = bare.pipeline(transaction=False)
                for number in range(NAMESPACES):
                    pipe.sadd(f"user:{USER}:namespaces", f"ns-{number:05}").hset(
                        f"user:{USER}:ns:ns-{number:05}", "k", "1"
                    )
                pipe.execute()
        with connected(full.port, loop) as there, connected(empty.port, loop) as here:
            same("list_namespaces", there.store.list_namespaces(), here.store.list_namespaces())
            with_them, without = race(
                [Entrant("with", there.store.list_namespaces), Entrant("without", here.store.list_namespaces)], loop
            )
    low, high = with_them.quartiles
    return Note(
        "list_namespaces 10,000 among 1,000,000 foreign keys",
        "as without",
        f"{with_them.ratio:.2f} [{low:.2f} {high:.2f}] of the same without them ({with_them.us / 1e3:.1f} ms)",
        {"ratio": with_them.ratio, "low": low, "high": high, "us": with_them.us, "without_us": without.us},
    )


def memory(port: int) -> Note:
    """Measure the memory of a namespace of 90-byte values with their info, relative to the bare hash."""
    value = {"text": "x" * 79}
    text = orjson.dumps(value)
    assert len(text) == 90
    fill(port, "memory", MEMORY_KEYS, value)
    with redis.Redis(port=port) as bare:
        bare.hset("bare-memory", mapping={f"key-{i:07}": text for i in range(MEMORY_KEYS)})

        def used(key: str) -> int:
            return bare.memory_usage(key, samples=0) or 0

        ours = used(f"user:{USER}:ns:memory") + used(f"user:{USER}:info:memory")
        theirs = used("bare-memory")
    return Note(
        "memory of 90-byte values with info, of the bare hash",
        "1.9",
        f"{ours / theirs:.2f} ({ours / MEMORY_KEYS:.0f} bytes a key for {theirs / MEMORY_KEYS:.0f})",
        {"ratio": ours / theirs, "bytes_a_key": ours / MEMORY_KEYS, "bare_bytes_a_key": theirs / MEMORY_KEYS},
    )
