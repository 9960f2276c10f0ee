"""`make bench-operators`: what operators' commands take on a big server, and for how long they keep it from other clients.

It fills a server with 1,000 users, 20,000 namespaces and 2 million keys, and runs each command. Another process sends PING
without a pause and notes the longest wait for a reply; the machine's own pauses are in it. So the longest that the server worked
at one command is shown too, by its own measurement.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import redis

from benchmarks.harm import Neighbour
from benchmarks.server import running_server
from redis_store.admin import Admin

_BIG = "user-00000"
"""The user with one namespace that holds a tenth of all keys."""

_VALUE = b'{"title":"a document","lines":120,"tags":["x","y"],"text":"%s"}' % (b"word " * 20)


def fill(client: redis.Redis, users: int, namespaces: int, keys: int) -> None:
    """Write data as the store does, by plain commands, which is faster."""
    now = int(time.time() * 1000)
    per_namespace = keys * 9 // 10 // namespaces
    pipe = client.pipeline(transaction=False)
    for number in range(namespaces):
        owner = f"user-{number % users:05}"
        name = f"ns-{number // users}" if number % 50 else f"odd \n*{number}"
        _write(pipe, owner, name, per_namespace, now - number % 60 * 86_400_000)
        if not number % 20:
            pipe.execute()
    for start in range(0, keys // 10, 1000):
        _write(pipe, _BIG, "big", min(1000, keys // 10 - start), now - 10_000, start)
        pipe.execute()
    pipe.execute()


def _write(pipe: redis.client.Pipeline, owner: str, name: str, count: int, at: int, start: int = 0) -> None:
    info = b'{"created":%d,"by":"bench","updated":%d}' % (at - 1000, at)
    fields = [f"document-{number:07}" for number in range(start, start + count)]
    pipe.hset(f"user:{owner}:ns:{name}", mapping=dict.fromkeys(fields, _VALUE))
    pipe.hset(f"user:{owner}:info:{name}", mapping=dict.fromkeys(fields, info))
    pipe.sadd(f"user:{owner}:namespaces", name)


def commands(admin: Admin) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield the commands, and what runs each and returns the number of its records."""
    minutes = datetime.now(UTC) - timedelta(minutes=10)
    yield "users --by memory", lambda: len(admin.list_users("memory"))
    yield "namespaces", lambda: len(admin.list_namespaces())
    yield "namespaces --user", lambda: len(admin.list_namespaces(_BIG))
    yield "keys of a big namespace", lambda: len(admin.store(_BIG, "big").list_keys())
    yield "tail --since 10m", lambda: len(admin.list_changes(minutes))
    yield "search in all keys", lambda: sum(1 for _ in admin.search("document-0000077", keys_only=True))
    yield "search in all values", lambda: sum(1 for _ in admin.search("no such text"))
    yield "locks", lambda: len(admin.list_locks())
    yield "consumers", lambda: len(admin.list_consumers())
    yield "cache tags", lambda: len(admin.list_tags())


def slowest_ms(client: redis.Redis) -> tuple[float, str]:
    """Return the longest that the server has worked at one command since the last call, and the command."""
    entries = client.slowlog_get(128)
    client.slowlog_reset()
    slowest = max(entries, key=lambda entry: int(entry["duration"]), default=None)
    return (0.0, "") if slowest is None else (slowest["duration"] / 1000, str(slowest["command"][:24]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--namespaces", type=int, default=20_000)
    parser.add_argument("--keys", type=int, default=2_000_000)
    parser.add_argument("program", nargs="?", help="the server; the embedded Valkey without one")
    given = parser.parse_args()
    with running_server(given.program) as server, redis.Redis.from_url(server.url) as client:
        print(
            f"{server.version}: {given.users:,} users, {given.namespaces:,} namespaces, {given.keys:,} keys ...",
            flush=True,
        )
        fill(client, given.users, given.namespaces, given.keys)
        client.config_set("slowlog-log-slower-than", 500)
        print(f"{'command':<26} {'records':>9} {'seconds':>8} {'others wait':>12} {'slowest command':>16}")
        with closing(Neighbour(server)) as neighbour, Admin(server.url) as admin:
            time.sleep(1)
            print(f"{'(nothing)':<26} {'':>9} {1.0:>8.2f} {neighbour.longest_ms():>9.1f} ms")
            for name, run in commands(admin):
                slowest_ms(client)
                neighbour.longest_ms()
                began = time.perf_counter()
                count = run()
                took = time.perf_counter() - began
                longest, what = slowest_ms(client)
                print(
                    f"{name:<26} {count:>9,} {took:>8.2f} {neighbour.longest_ms():>9.1f} ms {longest:>13.1f} ms  {what}",
                    flush=True,
                )


if __name__ == "__main__":
    sys.exit(main())
