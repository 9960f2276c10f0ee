"""Bombs (processes, threads, memory, disk, descriptors, pipes, output, timers) and endless loops."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import sandbox

from .corpus import NO_CONTROL_NEEDED, Attack, succeeded

_MIB = 1024 * 1024
_TOO_MUCH = "it would harm this machine"
_SMALL = {"memory_bytes": 96 * _MIB, "scratch_bytes": 4 * _MIB, "threads": 16, "descriptors": 64, "timeout_s": 20}
_NO_ROOM_FOR_MORE = (sandbox.ScratchLimitExceeded, sandbox.AgentRaised)

BOMBS = [
    Attack("processes", "while True: os.fork()", _TOO_MUCH, limits=_SMALL, ends_with=(sandbox.AgentRaised,)),
    Attack(
        "threads",
        "while True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
        _TOO_MUCH,
        limits=_SMALL,
        ends_with=(sandbox.AgentRaised, sandbox.ThreadLimitExceeded),
    ),
    Attack(
        "threads with small stacks",
        """
        threading.stack_size(32768)
        while True:
            try:
                threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
            except RuntimeError:
                won = threading.active_count() > 64
                break
        """,
        _TOO_MUCH,
        limits=_SMALL | {"memory_bytes": 1024 * _MIB},
    ),
    Attack("memory", "won = len(bytearray(200 * 2**20))", limits=_SMALL, ends_with=(sandbox.MemoryLimitExceeded,)),
    Attack(
        "memory in small pieces",
        "pieces = []\nfor _ in range(3000): pieces.append(bytes(100_000))\nwon = True",
        limits=_SMALL,
        ends_with=(sandbox.MemoryLimitExceeded,),
    ),
    Attack(
        "memory, and catch all",
        """
        pieces, size = [], 2**20
        end = time.monotonic() + 2
        while time.monotonic() < end:
            try:
                pieces.append(bytearray(size))
                won = len(pieces) > 150
                if won: break
            except MemoryError:
                size = max(1024, size // 2)
                break
        """,
        limits=_SMALL,
    ),
    Attack(
        "mapped memory",
        "m = [mmap.mmap(-1, 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(200)]; won = True",
        limits=_SMALL,
    ),
    Attack("shared mapped memory", "m = [mmap.mmap(-1, 2**20) for _ in range(200)]; won = True", limits=_SMALL),
    Attack(
        "a huge number",
        "won = (1 << (8 * 200 * 2**20)).bit_length() > 1",
        limits=_SMALL,
        ends_with=(sandbox.MemoryLimitExceeded,),
    ),
    Attack(
        "memory of a file without a name",
        "fd = syscall('memfd_create', b'x', 0); won = os.ftruncate(fd, 2**30) is None",
        limits=_SMALL,
    ),
    Attack("locked memory", "syscall('mlockall', 3); won = True", needs_root=True),
    Attack(
        "one big file",
        "f = open('big', 'wb')\nfor _ in range(20): f.write(bytes(2**20)); f.flush()\nwon = True",
        limits=_SMALL,
    ),
    Attack("a sparse file", "f = open('big', 'wb'); f.truncate(2**34); won = True", limits=_SMALL),
    Attack(
        "allocate without writing",
        "won = os.posix_fallocate(os.open('big', os.O_CREAT | os.O_WRONLY), 0, 2**27) is None",
        limits=_SMALL,
    ),
    Attack(
        "many files",
        """
        for n in range(1_000_000):
            with open(f"f{n}", "wb") as file: file.write(bytes(4096))
            won = n > 20_000
        """,
        _TOO_MUCH,
        limits=_SMALL,
        ends_with=_NO_ROOM_FOR_MORE,
    ),
    Attack(
        "many empty folders",
        "for n in range(1_000_000): os.mkdir(f'd{n}'); won = n > 50_000",
        _TOO_MUCH,
        limits=_SMALL,
        ends_with=_NO_ROOM_FOR_MORE,
    ),
    Attack(
        "a deep folder",
        "for n in range(100_000): os.mkdir('d'); os.chdir('d'); won = n > 50_000",
        _TOO_MUCH,
        limits=_SMALL,
        ends_with=_NO_ROOM_FOR_MORE,
    ),
    Attack(
        "descriptors",
        "f = [os.dup(0) for _ in range(200)]; won = True",
        limits=_SMALL,
        ends_with=(sandbox.AgentRaised,),
    ),
    Attack(
        "descriptors in tables of threads' own",
        """
        counts, wait = [], threading.Event()
        def fill():
            syscall("close_range", 1000, 1000, 2)
            counts.append(len([os.dup(0) for _ in range(40)]))
            wait.wait(20)
        threads = [threading.Thread(target=fill) for _ in range(8)]
        for one in threads: one.start()
        time.sleep(0.1)
        won = sum(counts) > 64
        wait.set()
        """,
        limits=_SMALL,
    ),
    Attack(
        "files that are deleted and held",
        """
        held = []
        for n in range(10):
            held.append(open("f", "wb"))
            os.unlink("f")
            held[-1].write(bytes(2**20))
            held[-1].flush()
        time.sleep(1)
        won = True
        """,
        "the host looks at what a process stores without walls as well",
        limits=_SMALL,
    ),
    Attack(
        "big pipes",
        "p = [os.pipe() for _ in range(10)]; [fcntl.fcntl(w, 1031, 2**20) for _, w in p]; won = True",
        limits=_SMALL,
    ),
    Attack("pairs of sockets", "s = [socket.socketpair() for _ in range(100)]; won = True", limits=_SMALL),
    Attack("event descriptors", "s = [os.eventfd(0) for _ in range(100)]; won = True", limits=_SMALL)
    if hasattr(__import__("os"), "eventfd")
    else None,
    Attack(
        "timers",
        """
        timer, count = ctypes.c_void_p(), 0
        while count < 50_000 and libc.timer_create(1, None, ctypes.byref(timer)) == 0:
            count += 1
        won = count >= 5000
        """,
        limits=_SMALL,
    ),
    Attack("output", "while True: os.write(1, b'x' * 65536)", _TOO_MUCH, ends_with=(sandbox.OutputLimitExceeded,)),
    Attack(
        "output without a newline",
        "while True: print('x', end='')",
        _TOO_MUCH,
        limits={"output_bytes": 10_000},
        ends_with=(sandbox.OutputLimitExceeded,),
    ),
    Attack(
        "output of no characters",
        "while True: os.write(2, b'\\xff\\x00\\x1b[2J' * 10000)",
        _TOO_MUCH,
        ends_with=(sandbox.OutputLimitExceeded,),
    ),
    Attack(
        "a stack of calls",
        "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        _TOO_MUCH,
        limits=_SMALL | {"memory_bytes": 24 * _MIB},
        ends_with=(sandbox.AgentCrashed, sandbox.AgentRaised, sandbox.MemoryLimitExceeded),
    ),
    Attack(
        "calls of the store",
        "while True: data_store.get('k')",
        _TOO_MUCH,
        limits={"operations": 100},
        ends_with=(sandbox.OperationLimitExceeded,),
    ),
    Attack(
        "calls of tools",
        "while True: channel(4).sendall(frame(b'\\x95\\xa4call\\xce' + struct.pack('>I', time.monotonic_ns() & 0xffffffff) + b'\\xa3add\\xc4\\x02[]\\xc4\\x02{}'))",
        _TOO_MUCH,
        limits={"timeout_s": 0.5},
        ends_with=(sandbox.TimeLimitExceeded, sandbox.ProtocolViolation),
    ),
]

_SHORT = {"timeout_s": 1}
_TIME = (sandbox.TimeLimitExceeded,)

LOOPS = [
    Attack("a loop", "while True: pass", limits=_SHORT, ends_with=_TIME),
    Attack(
        "a loop that catches everything",
        "while True:\n    try:\n        while True: time.sleep(0.01)\n    except BaseException: pass",
        limits=_SHORT,
        ends_with=_TIME,
    ),
    Attack(
        "ignore every signal",
        "for n in set(range(1, 65)) - {9, 19, 32, 33}: libc.signal(n, ctypes.c_void_p(1))\nwhile True: time.sleep(1)",
        limits=_SHORT,
        ends_with=_TIME,
    ),
    Attack(
        "block every signal",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: time.sleep(1)",
        limits=_SHORT,
        ends_with=_TIME,
    ),
    Attack(
        "stop oneself",
        "os.kill(os.getpid(), signal.SIGSTOP)\nwhile True: time.sleep(1)",
        limits=_SHORT,
        ends_with=_TIME,
    ),
    Attack(
        "sit in a regular expression", "import re; re.match('(a+)+$', 'a' * 50 + 'b')", limits=_SHORT, ends_with=_TIME
    ),
    Attack("sit in a sum", "sum(range(10**15))", limits=_SHORT, ends_with=_TIME),
    Attack("sit in a power", "pow(3, 10**9)", limits=_SHORT, ends_with=_TIME),
    Attack("sit in C with the lock of Python", "ctypes.PyDLL(None).sleep(1000)", limits=_SHORT, ends_with=_TIME),
    Attack(
        "wait for a lock for ever",
        "lock = threading.Lock(); lock.acquire(); lock.acquire()",
        limits=_SHORT,
        ends_with=_TIME,
    ),
    Attack("wait for a pipe for ever", "r, w = os.pipe(); os.read(r, 1)", limits=_SHORT, ends_with=_TIME),
    Attack(
        "an endless generator of the event loop",
        "import asyncio\nasync def f():\n    while True: await asyncio.sleep(0)\nasyncio.run(f())",
        limits=_SHORT,
        ends_with=_TIME,
    ),
    Attack(
        "never end the tasks",
        "import asyncio\nasync def f():\n    while True:\n        try: await asyncio.sleep(100)\n        except BaseException: pass\nasyncio.run(f())",
        limits=_SHORT,
        ends_with=_TIME,
    ),
    Attack(
        "at the end of the process",
        "import atexit; atexit.register(lambda: time.sleep(1000)); threading.Thread(target=time.sleep, args=(1000,)).start(); raise SystemExit",
        "it ends at once",
        limits=_SHORT,
    ),
    Attack(
        "half a frame to the broker",
        "channel(3).sendall(struct.pack('<I', 1000) + b'x')\ntime.sleep(1000)",
        NO_CONTROL_NEEDED,
        limits=_SHORT,
        ends_with=_TIME,
    ),
    Attack(
        "a frame a byte at a time",
        "c = channel(3); c.sendall(struct.pack('<I', 60_000_000))\nwhile True: c.send(b'\\x91'); time.sleep(0.001)",
        NO_CONTROL_NEEDED,
        limits=_SHORT,
        ends_with=_TIME,
    ),
    Attack(
        "never read what the broker answers",
        "data_store.set('big', 'x' * 3_000_000)\nc = channel(3)\nfor _ in range(50): c.sendall(frame(b'\\x94\\x01\\xa3get\\xa7default\\xa3big'))\ntime.sleep(1000)",
        NO_CONTROL_NEEDED,
        limits=_SHORT,
        ends_with=_TIME,
    ),
    Attack(
        "never read what tools answer",
        "c = channel(4)\nfor n in range(200): c.sendall(frame(b'\\x95\\xa4call\\xcd' + struct.pack('>H', n) + b'\\xa3add\\xc4\\x05[1,2]\\xc4\\x02{}'))\ntime.sleep(1000)",
        NO_CONTROL_NEEDED,
        limits=_SHORT,
        ends_with=_TIME,
    ),
    Attack(
        "close all channels",
        "os.closerange(0, 64)\nwhile True: time.sleep(1)",
        NO_CONTROL_NEEDED,
        limits=_SHORT,
        ends_with=(sandbox.TimeLimitExceeded, sandbox.ProtocolViolation, sandbox.AgentRaised, sandbox.AgentExited),
    ),
]


@pytest.mark.parametrize("one", [one for one in BOMBS if one], ids=lambda one: one.name)
class TestBombs:
    def test_attack_fails(self, one: Attack, tier: str, holds: Any) -> None:
        holds(one, tier)

    def test_attack_succeeds_without_isolation(self, one: Attack, wins: Any) -> None:
        wins(one)


COUNTED = [
    Attack(
        "values of empty lists, decoded in the host",
        """
        from redis_store.errors import LimitExceeded
        text = b"[" + b"[]," * 1_000_000 + b"[]]"
        send = data_store._operations.send
        for call in (("set", "k", text, None, None), ("set_many", None, None, "a", b"1", "k", text), ("append", "k", None, None, text),
                     ("compare_and_set", "k", text, b"1", None), ("replace", "k", text, b"1", None), ("increment", "k", text, None),
                     ("set_if_absent", "k", text, None), ("commit_transaction", 1, "default", "k", text, None),
                     ("commit_value", "k", "token-of-mine", text, None, None)):
            try:
                won = won or call[0] + " " + str(send(*call))
            except LimitExceeded as error:
                assert error.limit == "max_values", error
        for cursors in (text, b'{"a":"' + b"x" * 5_000_000 + b'"}'):
            waits = data_store._operations.waits
            number, reply = waits.expect()
            waits.tell("watch", number, "default", True, None, cursors, None, False)
            reply.wait(20)
            won = won or not isinstance(reply.error, LimitExceeded)
            assert reply.error.limit == "watched_namespaces", reply.error
        """,
        NO_CONTROL_NEEDED,
    ),
    Attack(
        "more parts than the host or the server should look at",
        """
        from redis_store.errors import LimitExceeded
        data_store.set("k", "x" * 8_500_000)
        call = data_store._operations.channel.call
        for parts, operation, *more in (((1, "p*"), "invalidate_tag", "tag"), (("k",), "get_many"), (("k",), "delete_many"),
                                        (("k", b"1"), "set_many", None, None), ((b"1",), "append", "k", None, None),
                                        (("tag",), "commit_value", "k", "token-of-mine", b"1", None, None),
                                        ((2, "default", "k", None, None), "commit_transaction"), ((), "rename", "k", "new")):
            try:
                won = won or (operation, call(operation, "default", *more, *parts * (101_000 if operation == "append" else 11_000)))
            except LimitExceeded:
                pass
        """,
        NO_CONTROL_NEEDED,
    ),
    Attack(
        "small calls on keys that hold much already",
        """
        from redis_store.errors import LimitExceeded
        send = data_store._operations.send
        tags, keys, names = [f"t{n}" for n in range(1000)], [f"k{n}" for n in range(12)], [f"{n:02}" * 25_000 for n in range(45)]
        for key in keys:
            send("claim_value", key, "token-of-mine", None, None, 30, 0, *tags)
            send("commit_value", key, "token-of-mine", b"1", None, None, *tags)
        sets = [part for key in keys for part in (1, "default", key, b"2", None)]
        for limit, work in (
            ("max_info_bytes", lambda: data_store.set_many(dict.fromkeys(keys, 2))),
            ("max_info_bytes", lambda: data_store.set_many(dict.fromkeys(keys, 2), metadata={"a": 1})),
            ("max_info_bytes", lambda: data_store.use_namespace("default", max_keys=100).set_many(dict.fromkeys(keys, 2))),
            ("max_info_bytes", lambda: send("commit_transaction", *sets)),
            ("max_info_bytes", lambda: send("claim_value", names[0], "token-of-mine", None, None, 30, 0, *tags)),
            ("max_renamed_bytes", lambda: data_store.rename("k1", names[0])),
            ("max_call_name_bytes", lambda: send("commit_transaction", *[part for name in names for part in (2, "default", name, None, None)])),
            ("max_call_name_bytes", lambda: data_store.delete_many(names)),
        ):
            try:
                won = won or (limit, work())
            except LimitExceeded as error:
                assert error.limit == limit, error
        assert data_store.delete_many(keys) == 12
        """,
        NO_CONTROL_NEEDED,
    ),
]


@pytest.mark.parametrize("one", COUNTED, ids=lambda one: one.name)
def test_what_an_agent_sends_is_counted_before_anything_is_done(one: Attack, tier: str, holds: Any) -> None:
    result = holds(one, tier)
    assert result.check() == {"won": False}


_ENDED: dict[str, dict[str, sandbox.RunResult]] = {}


def _ended(tier: str, attack: Any) -> dict[str, sandbox.RunResult]:
    """Return the result of each loop in a tier. The loops run concurrently, because each only waits for its time limit."""
    if tier not in _ENDED:
        with ThreadPoolExecutor(len(LOOPS)) as threads:
            results = list(threads.map(lambda one: attack(one, tier), LOOPS))
        _ENDED[tier] = {one.name: result for one, result in zip(LOOPS, results, strict=True)}
    return _ENDED[tier]


@pytest.mark.parametrize("one", LOOPS, ids=lambda one: one.name)
def test_endless_loops_end_in_time(one: Attack, tier: str, attack: Any, as_before: None, benign: Any) -> None:
    """There is no control: an endless loop in a plain subprocess would simply run forever."""
    result = _ended(tier, attack)[one.name]
    assert not succeeded(result), result
    if one.ends_with:
        assert isinstance(result.error, one.ends_with), result
    assert result.duration < 10
    benign(tier)


def test_cpu_time_is_bounded(tier: str, holds: Any) -> None:
    result = holds(Attack("busy", "while True: pass", limits={"cpu_s": 1, "timeout_s": 20}), tier)
    assert isinstance(result.error, sandbox.CpuLimitExceeded)
    assert (result.error.limit, result.error.value) == ("cpu_s", 1)


def test_cpu_time_of_threads_adds_up(tier: str, holds: Any) -> None:
    body = "import hashlib\ndef f():\n    while True: hashlib.sha256(bytes(10**6))\nfor _ in range(3): threading.Thread(target=f).start()\ntime.sleep(100)"
    result = holds(Attack("busy threads", body, limits={"cpu_s": 1, "timeout_s": 20}), tier)
    assert isinstance(result.error, sandbox.CpuLimitExceeded)


RECURSIONS = {
    "one that calls itself": "return await agents.call('me', {**world, 'pad': 'x' * 100_000})",
    "one that calls itself twice, and catches what comes of it": """
    import asyncio
    await asyncio.gather(agents.call('me', world), agents.call('me', world), return_exceptions=True)
    while True: time.sleep(1)
    """,
    "a thousand at once": """
    import asyncio
    await asyncio.gather(*(agents.call('me', world) for _ in range(1000)))
    """,
}


@pytest.mark.parametrize("name", RECURSIONS)
def test_endless_nested_calls(
    name: str, tier: str, world: Any, user: str, server_url: str, as_before: None, benign: Any
) -> None:
    """There is no control: a plain subprocess has no agents to call, and endless processes would harm this machine."""
    source = Attack(name, RECURSIONS[name]).source.replace("def run", "async def run")
    result = sandbox.run(
        source,
        world.facts,
        user=user,
        url=server_url,
        isolation=tier,
        agents={"me": source},
        limits=sandbox.Limits(timeout_s=20, nested_depth=4, nested_runs=30, nested_at_once=4),
    )
    assert isinstance(result.error, sandbox.NestingLimitExceeded), result
    assert len([call for call in result.calls if call.kind == "agent"]) <= 30
    benign(tier)
