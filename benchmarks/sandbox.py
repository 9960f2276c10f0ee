"""`make bench-sandbox`: measure the cost of isolation, beside starting a bare interpreter and beside redis-py outside.

Runs are compared with ``python -I -S -c "import asyncio"``; calls from inside the sandbox with the same work by redis-py in
the host. Rounds alternate. Only the server is pinned to a core; the cores are shared, as on a user's machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
import redis

import sandbox
from benchmarks.documents import SHAPES
from benchmarks.echo import Echo
from benchmarks.rounds import Figure, compare, figure
from benchmarks.rows import BATCH, MANY
from benchmarks.server import BenchServer, placed, running_server
from benchmarks.targets import WRITES
from benchmarks.wire import Floors
from redis_store import DataStore, connect
from sandbox import isolation
from sandbox.isolation import tiers
from sandbox.isolation.recipes import Recipe
from sandbox.isolation.zygote import Zygote
from sandbox.protocol.frames import Part, pack

HASH = "bare"
BARE = [sys.executable, "-I", "-S", "-c", "import asyncio"]
IDLE = "def run(input_dict, tools):\n    return {}\n"
ROUNDS, CALLS, SECONDS, SIDE_BY_SIDE = 15, 300, 3.0, 4
NESTED_CALLS, BUSY_CALLS, BUSY_ROUNDS = 3, 30, 9

CALLER = """
from time import perf_counter

def run(input_dict, tools):
    calls, times = input_dict["calls"], []
    work = WORK[input_dict["kind"]](input_dict["key"], tools)
    work(), tools["theirs"]()
    for turn in range(input_dict["rounds"]):
        theirs = tools["theirs"]() if turn % 2 else None
        start = perf_counter()
        for _ in range(calls):
            work()
        ours = (perf_counter() - start) / calls * 1e6
        times.append([ours, theirs or tools["theirs"](), tools["floor"]()])
    return {"times": times}

def get(key, tools):
    return lambda: data_store.get(key)

def set_(key, tools):
    value = data_store.get(key)
    return lambda: data_store.set(key, value)

def get_many(key, tools):
    store = data_store.use_namespace("many " + key)
    keys = store.list_keys()
    return lambda: store.get_many(keys)

def set_many(key, tools):
    store = data_store.use_namespace("many " + key)
    values = store.get_all()
    return lambda: store.set_many(values)

def list_keys(key, tools):
    return data_store.use_namespace("list").list_keys

def tool(key, tools):
    return tools["nothing"]

WORK = {"get": get, "miss": get, "set": set_, "get_many": get_many, "set_many": set_many, "list_keys": list_keys, "tool": tool}
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
    data_store.get("100 B record")
    start = perf_counter()
    for _ in range({BUSY_CALLS}):
        data_store.get("100 B record")
    return {{"us": (perf_counter() - start) / {BUSY_CALLS} * 1e6}}
"""


def main() -> int:
    """Print the table. Return 0."""
    with running_server() as server, placed(server, pinned=False):
        print(f"{server.version}, redis-py {redis.__version__}, Python {sys.version.split()[0]}, TCP loopback")
        print("median of the ratios of neighbouring rounds [quartiles]\n")
        print(f"ratio to a bare interpreter, {' '.join(['python', *BARE[1:3], '-c', repr(BARE[-1])])}:")
        for tier in (*isolation.TIERS, isolation.UNSAFE):
            with suppress(sandbox.IsolationUnavailable):
                _show(runs(server, tier))
        _show(_zygote())
        _show(_nested_call(server))
        _throughput(server)
        print(
            "\nratio to redis-py outside, in the host; both with JSON; the slowest shape of document, and the others:"
        )
        for shapes in calls(server):
            worst = max(shapes, key=lambda one: one.ratio)
            _show(worst, "  ".join(f"{one.shape} {one.ratio:.2f}" for one in shapes if one is not worst))
        print("\nratio of broker='process' to broker='thread', while a thread of the host computes:")
        _show(_busy_host(server))
    return 0


def _show(one: Figure, others: str = "") -> None:
    low, high = one.spread
    floor = "" if one.floor_us is None else f"   floor {one.floor_us:.1f} µs"
    print(
        f"  {one.name:28} {one.ratio:5.2f} [{low:.2f} {high:.2f}]   ours {one.ours_us:9.1f} µs"
        f"   theirs {one.theirs_us:9.1f} µs{floor}   {one.shape}{f' ({others})' if others else ''}"
    )


def _bare() -> None:
    subprocess.run(BARE, check=True)


def _run(server: BenchServer, tier: str | None = None) -> None:
    sandbox.run(IDLE, {}, user="bench", url=server.url, isolation=tier).check()


def run_times_ms(server: BenchServer, count: int = 200) -> tuple[float, float]:
    """Return the median and the 99th percentile of a run with full isolation, on an idle machine."""
    times = []
    for _ in range(count + 5):
        start = time.perf_counter()
        _run(server, "full")
        times.append((time.perf_counter() - start) * 1e3)
    percentiles = statistics.quantiles(times[5:], n=100)
    return percentiles[49], percentiles[98]


def runs(server: BenchServer, tier: str) -> Figure:
    """Compare a run that does nothing with the start of a bare interpreter."""
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


def calls(server: BenchServer, rounds: int = ROUNDS) -> Iterator[list[Figure]]:
    """Time calls in an agent; between them a tool makes the host time redis-py. Yield the figures of each row, by shape."""
    with (
        connect(server.url, user="bench") as store,
        redis.Redis(port=server.port) as bare,
        Floors(server.port, "bench-floor") as floors,
        Echo() as echo,
    ):
        rows: list[tuple[str, list[_Work]]] = [
            *(
                (f"get {size}", [_get(store, bare, size, shape) for shape in SHAPES[size]])
                for size in ("100 B", "2 KB")
            ),
            (
                "get, miss",
                [_Work("miss", "absent", "", CALLS, lambda: bare.hget(HASH, "absent"), _bytes("get", "absent"))],
            ),
            (f"set 2 KB: {WRITES}", [_set(bare, floors, shape) for shape in SHAPES["2 KB"]]),
            ("get_many 1,000 x 2 KB", [_get_many(store, bare, floors, shape) for shape in SHAPES["2 KB"]]),
            (f"set_many 1,000 x 2 KB: {WRITES}", [_set_many(bare, floors, shape) for shape in SHAPES["2 KB"]]),
            ("list_keys 10,000", [_list_keys(store, bare, floors)]),
            ("tool call", [_tool(bare)]),
        ]
        for name, works in rows:
            # A run for each shape, because a run that moves more bytes than a bound is held to a pace.
            yield [_measured(server, f"in an agent: {name}", work, echo, rounds) for work in works]


class _Work(NamedTuple):
    """A call in the agent, and the same work outside."""

    kind: str
    key: str
    shape: str
    calls: int
    theirs: Callable[[], object]
    sizes: tuple[int, int]
    """The bytes of the message to the host and of its answer."""
    beyond: Callable[[], object] | None = None
    """The floor of what the host does at the server; None if it does nothing there."""


def _bytes(operation: str, *arguments: Part, answer: Iterable[Part] = ()) -> tuple[int, int]:
    messages: list[list[Part]] = [[1, operation, "default", *arguments], [1, 1, *answer]]
    request, reply = (len(pack(parts, 1 << 30)) for parts in messages)
    return request, reply


def _measured(server: BenchServer, name: str, work: _Work, echo: Echo, rounds: int) -> Figure:
    def theirs() -> float:
        start = time.perf_counter()
        for _ in range(work.calls):
            work.theirs()
        return (time.perf_counter() - start) / work.calls * 1e6

    input_dict = {"kind": work.kind, "key": work.key, "calls": work.calls, "rounds": rounds}
    tools = {
        "theirs": theirs,
        "nothing": lambda: None,
        "floor": lambda: echo.us(work.calls, *work.sizes, work.beyond),
    }
    result = sandbox.run(CALLER, input_dict, user="bench", url=server.url, tools=tools)
    times: list[Any] = result.check()["times"]  # type: ignore[assignment]
    compared = figure(name, [(ours, theirs) for ours, theirs, _ in times], work.shape)
    return replace(compared, floor_us=statistics.median(floor for _, _, floor in times))


def _tool(bare: Any) -> _Work:
    return _Work("tool", "", "", CALLS, lambda: bare.hget(HASH, "absent"), _bytes("call", b"[]", b"{}"))


def _get(store: DataStore, bare: Any, size: str, shape: str) -> _Work:
    value = SHAPES[size][shape]
    key, text = f"{size} {shape}", orjson.dumps(value)
    store.set(key, value), bare.hset(HASH, key, text)
    sizes = _bytes("get", key, answer=[text])  # which comes from the near cache
    return _Work("get", key, shape, CALLS, lambda: orjson.loads(bare.hget(HASH, key)), sizes)


def _set(bare: Any, floors: Floors, shape: str) -> _Work:
    value, key = SHAPES["2 KB"][shape], f"2 KB {shape}"
    sizes = _bytes("set", key, orjson.dumps(value), None, None)
    floor = floors.of(lambda there: there.set(key, value))
    return _Work("set", key, shape, CALLS, lambda: bare.hset(HASH, key, orjson.dumps(value)), sizes, floor)


def _get_many(store: DataStore, bare: Any, floors: Floors, shape: str) -> _Work:
    items, name = _items(shape), f"many {shape}"
    store.use_namespace(name).set_many(items), floors.store.use_namespace(name).set_many(items)
    bare.hset(name, mapping={key: orjson.dumps(value) for key, value in items.items()})
    keys = list(items)
    sizes = _bytes("get_many", *keys, answer=_flat(items))
    floor = floors.of(lambda there: there.use_namespace(name).get_many(keys))
    return _Work(
        "get_many", shape, shape, 1, lambda: [orjson.loads(text) for text in bare.hmget(name, keys)], sizes, floor
    )


def _set_many(bare: Any, floors: Floors, shape: str) -> _Work:
    items, name = _items(shape), f"many {shape}"

    def theirs() -> object:
        return bare.hset(name, mapping={key: orjson.dumps(value) for key, value in items.items()})

    floor = floors.of(lambda there: there.use_namespace(name).set_many(items))
    return _Work("set_many", shape, shape, 1, theirs, _bytes("set_many", None, None, *_flat(items)), floor)


def _items(shape: str) -> dict[str, Any]:
    return {f"k{number}": SHAPES["2 KB"][shape] for number in range(BATCH)}


def _flat(items: dict[str, Any]) -> list[Part]:
    return [part for key, value in items.items() for part in (key, orjson.dumps(value))]


def _list_keys(store: DataStore, bare: Any, floors: Floors) -> _Work:
    items = {f"key-{number:05}": number for number in range(MANY)}
    store.use_namespace("list").set_many(items), floors.store.use_namespace("list").set_many(items)
    bare.hset("list", mapping=items)
    sizes = _bytes("list_keys", None, answer=items)
    floor = floors.of(lambda there: there.use_namespace("list").list_keys())
    return _Work("list_keys", "", "", 1, lambda: sorted(key.decode() for key in bare.hkeys("list")), sizes, floor)


if __name__ == "__main__":
    sys.exit(main())
