"""`make bench-operators`: what operators' commands take on a big server, and for how long they keep it from other clients.

It fills a server with 1,000 users, 20,000 namespaces and 2 million keys, and runs the command for each question of
`docs/operating.md`. What is restored and moved goes to a second server. Another process sends PING
without a pause and notes the longest wait for a reply; the machine's own pauses are in it. So the longest that the server worked
at one command is shown too, by its own measurement.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import redis

from benchmarks.harm import Neighbour
from benchmarks.server import running_server
from redis_store import connect
from redis_store.admin import Admin

_BIG = "user-00000"
"""The user with one namespace that holds a tenth of all keys."""

_SMALL = "user-00001"
"""The user with a consumer and a dead letter."""

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


def fill_watched(url: str) -> None:
    """Have a user with a consumer that lags, and with a dead letter."""
    with connect(url, user=_SMALL, namespace="inbox") as store:
        with store.watch(consumer="index", initial=True) as changes:
            store.set("a", 1)
            changes.done(next(changes))
        store.set_many({f"b{number}": number for number in range(500)})
        error = {"type": "KeyError", "message": "'title'", "traceback": "KeyError: 'title'"}
        change = {"namespace": "inbox", "key": "b1", "op": "set", "agent": None}
        store.use_namespace("dead-letter:index").set("b1@1", {"change": change, "error": error, "tries": 4})


def commands(admin: Admin, elsewhere: Admin, folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield the commands, and what runs each and returns the number of its records."""
    now = datetime.now(UTC)
    whole, moved = folder / "all.jsonl", folder / "one.jsonl"
    yield "users --by memory", lambda: len(admin.list_users("memory"))
    yield "namespaces", lambda: len(admin.list_namespaces())
    yield "namespaces --user", lambda: len(admin.list_namespaces(_BIG))
    yield "namespaces --older-than", lambda: len(admin.list_namespaces(unwritten_since=now - timedelta(days=30)))
    yield "keys of a big namespace", lambda: len(admin.store(_BIG, "big").list_keys())
    yield "tail --since 10m", lambda: len(admin.list_changes(now - timedelta(minutes=10)))
    yield "search in all keys", lambda: sum(1 for _ in admin.search("document-0000077", keys_only=True))
    yield "search in all values", lambda: sum(1 for _ in admin.search("no such text"))
    yield "locks", lambda: len(admin.list_locks())
    yield "consumers", lambda: sum(one.behind or 0 for one in admin.list_consumers())
    yield "dead-letters", lambda: sum(1 for _ in admin.iter_dead_letters())
    yield "cache tags", lambda: len(admin.list_tags())
    yield "doctor", lambda: len(admin.doctor())
    yield "login create", lambda: int(admin.create_login(_BIG).made)
    yield "export", lambda: admin.export(whole).keys
    yield "import (to the second)", lambda: elsewhere.import_(whole).written
    yield "export --user", lambda: admin.export(moved, _BIG).keys
    yield "user delete", lambda: admin.delete_user(_BIG).keys
    yield "import --user", lambda: admin.import_(moved, _BIG).written
    yield "clear --prefix --no-undo", lambda: admin.clear_namespaces(_BIG, "", undoable=False)


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
    with (
        running_server(given.program) as server,
        running_server(given.program) as second,
        redis.Redis.from_url(server.url) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        print(
            f"{server.version}: {given.users:,} users, {given.namespaces:,} namespaces, {given.keys:,} keys ...",
            flush=True,
        )
        fill(client, given.users, given.namespaces, given.keys)
        fill_watched(server.url)
        client.config_set("slowlog-log-slower-than", 500)
        print(f"{'command':<26} {'records':>9} {'seconds':>8} {'others wait':>12} {'slowest command':>16}")
        with (
            closing(Neighbour(server)) as neighbour,
            Admin(server.url) as admin,
            Admin(second.url) as elsewhere,
        ):
            time.sleep(1)
            print(f"{'(nothing)':<26} {'':>9} {1.0:>8.2f} {neighbour.longest_ms():>9.1f} ms")
            for name, run in commands(admin, elsewhere, Path(folder)):
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
