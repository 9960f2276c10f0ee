"""`make bench-sandbox`: measure the cost of isolation, beside starting a bare interpreter and beside redis-py outside.

Runs are compared with ``python -I -S -c "import asyncio"``; calls from inside the sandbox with the same work by redis-py in
the host. Rounds alternate. Only the server is pinned to a core; the cores are shared, as on a user's machine.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import orjson
import redis

import sandbox
from benchmarks.documents import DOCUMENTS
from benchmarks.quick import BATCH, HASH
from benchmarks.rounds import Figure, compare, figure
from benchmarks.server import BenchServer, placed, running_server
from redis_store import connect
from sandbox import isolation
from sandbox.isolation import tiers
from sandbox.isolation.recipes import Recipe
from sandbox.isolation.zygote import Zygote

BARE = [sys.executable, "-I", "-S", "-c", "import asyncio"]
IDLE = "def run(input_dict, tools):\n    return {}\n"
ROUNDS, CALLS, SECONDS, SIDE_BY_SIDE = 15, 300, 3.0, 4
NESTED_CALLS, BUSY_CALLS, BUSY_ROUNDS = 3, 30, 9

CALLER = f"""
from time import perf_counter
def run(input_dict, tools):
    small, big, many = "100 B", "2 KB", [f"k{{n}}" for n in range({BATCH})]
    values = {{key: data_store.get(key) for key in (small, big)}}
    work = {{
        "get 100 B": ({CALLS}, lambda: data_store.get(small)),
        "get 2 KB": ({CALLS}, lambda: data_store.get(big)),
        "get, miss": ({CALLS}, lambda: data_store.get("absent")),
        "set 100 B": ({CALLS}, lambda: data_store.set(small, values[small])),
        "get_many {BATCH} x 2 KB": (1, lambda: data_store.get_many(many)),
        "tool call": ({CALLS}, lambda: tools["nothing"]()),
    }}
    times = {{name: [] for name in work}}
    for turn in range({ROUNDS}):
        for name, (calls, call) in work.items():
            theirs = tools["theirs"](name, calls) if turn % 2 else None
            start = perf_counter()
            for _ in range(calls):
                call()
            ours = (perf_counter() - start) / calls * 1e6
            times[name].append([ours, theirs or tools["theirs"](name, calls)])
    return times
"""


NESTING = f"""
from time import perf_counter
async def run(input_dict, tools):
    times = []
    for turn in range({ROUNDS}):
        theirs = tools["theirs"]() if turn % 2 else None
        start = perf_counter()
        for _ in range({NESTED_CALLS}):
            await agents.call("idle", {{}})
        ours = (perf_counter() - start) / {NESTED_CALLS} * 1e6
        times.append([ours, theirs or tools["theirs"]()])
    return {{"times": times}}
"""
GETTER = f"""
from time import perf_counter
def run(input_dict, tools):
    data_store.get("100 B")
    start = perf_counter()
    for _ in range({BUSY_CALLS}):
        data_store.get("100 B")
    return {{"us": (perf_counter() - start) / {BUSY_CALLS} * 1e6}}
"""


def main() -> int:
    """Print the table. Return 0."""
    with running_server() as server, placed(server, pinned=False):
        print(f"Valkey {server.version}, redis-py {redis.__version__}, Python {sys.version.split()[0]}, TCP loopback")
        print("median of the ratios of neighbouring rounds [quartiles]\n")
        print(f"ratio to a bare interpreter, {' '.join(['python', *BARE[1:3], '-c', repr(BARE[-1])])}:")
        for tier in (*isolation.TIERS, isolation.UNSAFE):
            with suppress(sandbox.IsolationUnavailable):
                _show(_runs(server, tier))
        _show(_zygote())
        _show(_nested_call(server))
        _throughput(server)
        print("\nratio to redis-py outside, in the host; both with JSON:")
        for one in _calls(server):
            _show(one)
        print("\nratio of broker='process' to broker='thread', while a thread of the host computes:")
        _show(_busy_host(server))
    return 0


def _show(one: Figure) -> None:
    low, high = one.spread
    print(
        f"  {one.name:28} {one.ratio:5.2f} [{low:.2f} {high:.2f}]   ours {one.ours_us:9.1f} µs"
        f"   theirs {one.theirs_us:9.1f} µs"
    )


def _bare() -> None:
    subprocess.run(BARE, check=True)


def _run(server: BenchServer, tier: str | None = None) -> None:
    sandbox.run(IDLE, {}, user="bench", url=server.url, isolation=tier).check()


def _runs(server: BenchServer, tier: str) -> Figure:
    return compare(f"run, {tier}", lambda: _run(server, tier), _bare, calls=3, rounds=ROUNDS)


def _zygote() -> Figure:
    recipe: Recipe = tiers._recipe_of(None)

    def start() -> None:
        Zygote(recipe).close()

    return compare(f"start of a zygote, {recipe.tier}", start, _bare, calls=1, rounds=ROUNDS)


def _nested_call(server: BenchServer) -> Figure:
    def theirs() -> float:
        start = time.perf_counter()
        _bare()
        return (time.perf_counter() - start) * 1e6

    result = sandbox.run(
        NESTING, {}, user="bench", url=server.url, agents={"idle": IDLE}, tools={"theirs": theirs}
    ).check()
    return figure("nested call", [(a, b) for a, b in result["times"]])  # type: ignore[union-attr,misc]


def _busy_host(server: BenchServer) -> Figure:
    """Time gets in agents while a thread of the host computes, with the broker in a process and in a thread in turn."""
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1000))

    def timed(box: sandbox.Sandbox) -> float:
        return float(box.run(GETTER, {}, user="bench").check()["us"])  # type: ignore[arg-type]

    with (
        sandbox.Sandbox(url=server.url, broker="process") as ours,
        sandbox.Sandbox(url=server.url) as theirs,
    ):
        timed(ours), timed(theirs)
        busy = threading.Thread(target=compute)
        busy.start()
        try:
            times = [(timed(ours), timed(theirs)) for _ in range(BUSY_ROUNDS)]
        finally:
            stop.set()
            busy.join()
    return figure("get 100 B, busy host", times)


def _throughput(server: BenchServer) -> None:
    ours, theirs = (_a_second(work) for work in (lambda: _run(server), _bare))
    name = f"runs a second, {SIDE_BY_SIDE} at once"
    print(f"  {name:28} {ours / theirs:5.1f} times as many   ours {ours:9.1f}      theirs {theirs:9.1f}")


def _a_second(work: Callable[[], None]) -> float:
    """Return how often per second the threads together complete the work."""
    end, counts = time.monotonic() + SECONDS, [0] * SIDE_BY_SIDE

    def repeat(number: int) -> None:
        while time.monotonic() < end:
            work()
            counts[number] += 1

    threads = [threading.Thread(target=repeat, args=(number,)) for number in range(SIDE_BY_SIDE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / SECONDS


def _calls(server: BenchServer) -> list[Figure]:
    """Time calls in an agent; between them a tool makes the host time redis-py."""
    many = [f"k{n}" for n in range(BATCH)]
    with connect(server.url, user="bench") as store, redis.Redis(port=server.port) as bare:
        for key, document in DOCUMENTS.items():
            store.set(key, document), bare.hset(HASH, key, orjson.dumps(document))
        big = DOCUMENTS["2 KB"]
        store.set_many(dict.fromkeys(many, big)), bare.hset(HASH, mapping=dict.fromkeys(many, orjson.dumps(big)))
        work: dict[str, Callable[[], object]] = {
            "get 100 B": lambda: orjson.loads(bare.hget(HASH, "100 B")),
            "get 2 KB": lambda: orjson.loads(bare.hget(HASH, "2 KB")),
            "get, miss": lambda: bare.hget(HASH, "absent"),
            "set 100 B": lambda: bare.hset(HASH, "100 B", orjson.dumps(DOCUMENTS["100 B"])),
            f"get_many {BATCH} x 2 KB": lambda: [orjson.loads(text) for text in bare.hmget(HASH, many)],
            "tool call": lambda: bare.hget(HASH, "absent"),
        }

        def theirs(name: str, calls: int) -> float:
            start = time.perf_counter()
            for _ in range(calls):
                work[name]()
            return (time.perf_counter() - start) / calls * 1e6

        tools = {"theirs": theirs, "nothing": lambda: None}
        result = sandbox.run(CALLER, {}, user="bench", url=server.url, tools=tools)
        return [figure(name, [(a, b) for a, b in times]) for name, times in result.check().items()]  # type: ignore[union-attr]


if __name__ == "__main__":
    sys.exit(main())
