"""`make bench-memory`: the memory that a call takes while it reads or writes the biggest values, in each process but the server.

Each call is made once, in a new process that has made a small one before. Its peak is the highest resident size during the
call, less that before it. A value's objects are needed in any case, and take the more the smaller the parts of the value are,
so what they take is subtracted: the rest is what a call adds, as a multiple of the value's JSON text.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

import sandbox
from benchmarks.documents import SHAPES
from benchmarks.server import running_server
from redis_store import connect

MIB = 1024 * 1024
AT_MOST = 3.0
VALUE_BYTES = 64 * MIB - 1024
"""Size of a value, just within the bound."""

BATCH_BYTES = 256 * MIB - 64 * 1024
AGENT_BATCH_BYTES = 24 * MIB - 64 * 1024
"""Size of a batch, just within the bound of the host and of an agent."""

AGENT_EMBEDDING_BYTES = 19 * MIB
"""Size of a list of a bit less than a million floats, as many JSON values as an agent's text may have."""

USER = "bench"


@dataclass(frozen=True, slots=True)
class Peak:
    """The peak of a process during a call."""

    name: str
    text_mib: float
    """The JSON text of what is stored."""
    value_mib: float
    """The Python objects that the caller passes or gets, in the process that has them."""
    peak_mib: float
    """The highest resident size during the call, less that before the value was there."""
    at_most: float = AT_MOST

    @property
    def times(self) -> float:
        """What the call adds to the value, as a multiple of the text."""
        return (self.peak_mib - self.value_mib) / self.text_mib


def measure() -> Iterator[Peak]:
    """Yield the peak of each call on each side."""
    with running_server() as server:
        for kind in ("one text", "embedding", "nested", "batch"):
            size_bytes = BATCH_BYTES if kind == "batch" else VALUE_BYTES
            written, read = (_in_a_process(_outside, server.port, call, kind, size_bytes) for call in _calls(kind))
            yield from (written, replace(read, value_mib=written.value_mib))  # the same objects
        for kind, size_bytes in (
            ("one text", VALUE_BYTES),
            ("embedding", AGENT_EMBEDDING_BYTES),
            ("batch", AGENT_BATCH_BYTES),
        ):
            for call in _calls(kind):
                yield from _in_a_process(_inside, server.port, call, kind, size_bytes)


def _calls(kind: str) -> tuple[str, str]:
    return ("set_many", "get_many") if kind == "batch" else ("set", "get")


def _in_a_process(function: Callable[..., Any], *arguments: object) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _outside(port: int, call: str, kind: str, size_bytes: int) -> Peak:
    value: Any = None
    having = 0.0
    with connect(f"redis://127.0.0.1:{port}", user=USER) as store:
        store.set("small", [None, 1.5]), store.get("small")
        before = _resident_mib()
        if call.startswith("set"):
            value = made(kind, size_bytes)
            having = _resident_mib() - before
        _forget_peak()
        if call == "set":
            store.set(kind, value)
        elif call == "set_many":
            store.set_many(value)
        elif call == "get":
            value = store.get(kind)
        else:
            value = store.get_many([f"{number}" for number in range(_parts(size_bytes))])
        peak = _peak_mib()
    return Peak(f"{call}, {kind}", len(orjson.dumps(value)) / MIB, having, peak - before)


def _parts(size_bytes: int) -> int:
    return size_bytes // (2 * MIB)


def made(kind: str, size_bytes: int) -> Any:
    """Return a value, or a batch of values, of this size as JSON."""
    if kind == "one text":
        return "x" * (size_bytes - 2)
    if kind == "embedding":
        return [math.sin(number) / 7 for number in range(size_bytes // 21)]
    if kind == "nested":
        text = orjson.dumps(SHAPES["100 KB"]["findings"])
        return [orjson.loads(text) for _ in range(size_bytes // (len(text) + 1))]
    return {f"{number}": "x" * (2 * MIB - 1024) for number in range(_parts(size_bytes))}


def _status_mib(what: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise LookupError(what)


def _resident_mib() -> float:
    return _status_mib("VmRSS")


def _peak_mib() -> float:
    return _status_mib("VmHWM")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


_AGENT = """
import math
import resource

def run(input_dict, tools):
    call, kind, size_bytes = input_dict["call"], input_dict["kind"], input_dict["size_bytes"]
    data_store.set("small", [None, 1.5]), data_store.get("small")
    before = peak()
    if call.startswith("set"):
        value = made(kind, size_bytes)
        having = peak()
        data_store.set_many(value) if call == "set_many" else data_store.set(kind, value)
    elif call == "get_many":
        value = data_store.get_many(list(map(str, range(size_bytes // (2 * 2**20)))))
    else:
        value = data_store.get(kind)
    after = peak()
    if not call.startswith("set"):
        having = before + size_of(value)
    return {"before": before, "having": having, "after": after}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def made(kind, size_bytes):
    if kind == "one text":
        return "x" * (size_bytes - 2)
    if kind == "embedding":
        return [math.sin(number) / 7 for number in range(size_bytes // 21)]
    return {f"{number}": "x" * (2 * 2**20 - 1024) for number in range(size_bytes // (2 * 2**20))}

def size_of(value):
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    return len(value) * (32 if isinstance(value, list) else 1) / 2**20  # a float and the pointer to it
"""


def _inside(port: int, call: str, kind: str, size_bytes: int) -> list[Peak]:
    url = f"redis://127.0.0.1:{port}"
    limits = sandbox.Limits(cpu_s=600)

    def run(**input_dict: Any) -> Any:
        return sandbox.run(_AGENT, input_dict, user=USER, url=url, limits=limits).check()

    run(call="set", kind="one text", size_bytes=100)
    if call == "get":  # the agent's value is of another size
        run(call="set", kind=kind, size_bytes=size_bytes)
    elif call == "get_many":
        run(call="set_many", kind=kind, size_bytes=size_bytes)
    before = _resident_mib()
    _forget_peak()
    agent = run(call=call, kind=kind, size_bytes=size_bytes)
    host = _peak_mib() - before
    text_mib = size_bytes / MIB
    return [
        Peak(
            f"in an agent: {call}, {kind}: the agent",
            text_mib,
            agent["having"] - agent["before"],
            agent["after"] - agent["before"],
        ),
        Peak(f"in an agent: {call}, {kind}: the host", text_mib, 0.0, host),
    ]


def main() -> int:
    """Print the table. Return 0."""
    from benchmarks import tables

    if not sys.platform.startswith("linux"):
        print("The peak of a process is read from /proc, which only Linux has.")
        return 2
    found = []
    for one in measure():
        print(f"{one.name}: {one.times:.2f} of {one.text_mib:.0f} MiB", file=sys.stderr)
        found.append(as_row(one))
    print(tables.memory(found))
    return 0


def as_row(peak: Peak) -> dict[str, Any]:
    """Return a peak as the tables and the file of figures have it."""
    return {**asdict(peak), "times": peak.times}


if __name__ == "__main__":
    sys.exit(main())
