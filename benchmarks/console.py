"""`make bench-console`: what the console's pages take on a big server, and for how long they keep it from other clients.

It fills a server as `make bench-operators` does, with 20,000 namespaces and 2 million keys, and with a namespace of a million
keys besides. The console runs as the command does. Each page is asked for several times; the median and the longest are shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import redis

from benchmarks.harm import Neighbour
from benchmarks.operators import fill, slowest_ms
from benchmarks.server import running_server
from redis_store import connect

_USER = "user-big"
_NAMESPACE = "pages"
_TIMES = 10

_PAGES = {
    "users": "/",
    "users, a search": "/?text=0077&by=memory",
    "a user with 20 namespaces": "/user?user=user-00000",
    "a namespace with 90 keys": "/namespace?user=user-00001&namespace=ns-3",
    "a million keys, grouped": f"/namespace?user={_USER}&namespace={_NAMESPACE}",
    "a million keys, in a group": f"/namespace?user={_USER}&namespace={_NAMESPACE}&prefix=site-05/",
    "a million keys, first page": f"/namespace?user={_USER}&namespace={_NAMESPACE}&flat=1",
    "a million keys, in the middle": f"/namespace?user={_USER}&namespace={_NAMESPACE}&flat=1&after=site-49/page:0005000",
    "a key": f"/key?user={_USER}&namespace={_NAMESPACE}&key=site-49/page:0005000",
    "changes, whose": "/changes",
    "consumers and dead letters": "/consumers",
    "locks and limits": "/locks",
    "audit": "/audit",
}


def fill_big(client: redis.Redis, keys: int) -> None:
    """Write one namespace with many keys in a hundred groups, as the store does."""
    now = int(time.time() * 1000)
    info = b'{"created":%d,"by":"bench","updated":%d}' % (now - 1000, now)
    each = keys // 100
    pipe = client.pipeline(transaction=False)
    for site in range(100):
        for start in range(0, each, 1000):
            fields = [f"site-{site:02}/page:{number:07}" for number in range(start, min(each, start + 1000))]
            pipe.hset(f"user:{_USER}:ns:{_NAMESPACE}", mapping=dict.fromkeys(fields, b'{"title":"a page","words":120}'))
            pipe.hset(f"user:{_USER}:info:{_NAMESPACE}", mapping=dict.fromkeys(fields, info))
            pipe.execute()
    client.sadd(f"user:{_USER}:namespaces", _NAMESPACE)


@contextmanager
def console(url: str) -> Iterator[httpx.Client]:
    """Start the command, and sign in."""
    command = [sys.executable, "-m", "redis_store", "ui", "--url", url, "--port", "0", "--json", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        entry = json.loads(process.stdout.readline())["url"]
        with httpx.Client(base_url=entry.partition("?")[0], timeout=60) as client:
            client.get(entry)
            yield client
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=2_000_000)
    parser.add_argument("--namespaces", type=int, default=20_000)
    parser.add_argument("--big", type=int, default=1_000_000)
    given = parser.parse_args()
    with running_server() as server, redis.Redis.from_url(server.url) as client:
        print(
            f"{server.version}: {given.namespaces:,} namespaces with {given.keys:,} keys, and one with {given.big:,}",
            flush=True,
        )
        fill(client, 1000, given.namespaces, given.keys)
        fill_big(client, given.big)
        client.config_set("slowlog-log-slower-than", 500)
        neighbour = Neighbour(server)
        try:
            with console(server.url) as browser:
                measure(browser, client, neighbour)
                with connect(server.url, user=_USER, namespace=_NAMESPACE) as store, store.watch() as changes:
                    print("Watched, with 100 keys that come and go before each page:")
                    store.set("first", 1)
                    next(changes)
                    show("a million keys, in the middle", browser, client, neighbour, lambda turn: change(store, turn))
        finally:
            neighbour.close()


def change(store, turn: int) -> None:
    store.set_many({f"site-49/page:0005{number:03}x{turn}": 1 for number in range(100)})
    if turn:
        store.delete_many([f"site-49/page:0005{number:03}x{turn - 1}" for number in range(100)])


def measure(browser: httpx.Client, client: redis.Redis, neighbour: Neighbour) -> None:
    """Ask for the pages that begin to count and read, until they are done; then for each page several times."""
    print(f"{'page':<32} {'median':>9} {'longest':>9} {'KB':>6} {'others wait':>12} {'slowest command':>16}")
    time.sleep(1)
    print(f"{'(nothing)':<32} {'':>26} {neighbour.longest_ms():>9.1f} ms")
    for name, page, ready in (
        ("counting all", "/", "Counted "),
        ("reading a million keys", _PAGES["a million keys, grouped"], "site-99"),
    ):
        slowest_ms(client), neighbour.longest_ms()
        began, first = time.perf_counter(), None
        while ready not in browser.get(page).text:
            first = first or time.perf_counter() - began
            time.sleep(0.1)
        report(name, [first or 0.0, time.perf_counter() - began], 0, client, neighbour)
    for name in _PAGES:
        show(name, browser, client, neighbour)


def show(name: str, browser: httpx.Client, client: redis.Redis, neighbour: Neighbour, before=lambda turn: None) -> None:
    took, size = [], 0
    for turn in range(_TIMES):
        before(turn)
        if not turn:
            slowest_ms(client), neighbour.longest_ms()
        began = time.perf_counter()
        with browser.stream("GET", _PAGES[name]) as answer:
            size = sum(map(len, answer.iter_raw()))
            answer.raise_for_status()
        took.append(time.perf_counter() - began)
    report(name, took, size, client, neighbour)


def report(name: str, took: list[float], size: int, client: redis.Redis, neighbour: Neighbour) -> None:
    longest, what = slowest_ms(client)
    median, most = statistics.median(took) * 1000, max(took) * 1000
    print(
        f"{name:<32} {median:>6.0f} ms {most:>6.0f} ms {size / 1000:>6.0f} {neighbour.longest_ms():>9.1f} ms"
        f" {longest:>13.1f} ms  {what}",
        flush=True,
    )


if __name__ == "__main__":
    main()
