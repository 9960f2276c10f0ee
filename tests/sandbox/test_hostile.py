"""An agent that writes to its channels itself: each broken rule ends the run with a named error and harms no other run."""

from __future__ import annotations

import os
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sandbox
from redis_store import DataStore, connect
from redis_store.values.count import has_more_values
from sandbox.protocol.messages import MOST_UNDER_WAY
from tests.sandbox.conftest import wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")

PRELUDE = """
import os, socket, struct, sys, time
DATA, CONTROL = (socket.socket(fileno=n) for n in (3, 4))
def frame(body): return struct.pack("<I", len(body)) + body
"""


def attack(run: Any, body: str, **options: Any) -> sandbox.RunResult:
    source = PRELUDE + "def run(input_dict, tools):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n"
    return run(source, **{"limits": sandbox.Limits(timeout_s=20), **options})


@pytest.mark.parametrize(
    "body",
    [
        r"DATA.send(struct.pack('<I', 2**32 - 1))",
        r"DATA.send(struct.pack('<I', 0))",
        r"DATA.sendall(frame(b'\x91' * 1_000_000))",
        r"DATA.sendall(frame(b'\xdd\x00\x0f\x42\x40' + b'\x80' * 1_000_000))",
        r"DATA.send(frame(b'\x94\x01\xa5close\xa7default\xc0'))",
        r"DATA.send(frame(b'\x94\x01\xa7__doc__\xa7default\xc0'))",
        r"DATA.send(frame(b'\x93\x01\xa3get\xa7default'))",
        r"DATA.send(frame(b'\x94\x01\xa3get\xc0\xa1k'))",
        r"DATA.send(frame(b'\x94\xa11\xa3get\xa7default\xa1k'))",
        r"DATA.send(frame(b'\x94\x01\xa3get\xa7default\xc7\x00\x05'))",
        r"DATA.send(frame(b'\x97\x01\xa3set\xa7default\xa1k\xc4\x011\xc4\x05[1,2]\xc0'))",
        r"DATA.send(b'GET / HTTP/1.1\r\n\r\n')",
        r"CONTROL.send(struct.pack('<I', 2**32 - 1))",
        r"CONTROL.send(frame(b'\x91\xa5hello'))",
        r"CONTROL.send(frame(b'\x92\xa6result\xa2{}'))",
        r"CONTROL.send(frame(b'\x92\xa6result\xc4\x02[]'))",
        r"CONTROL.send(frame(b'\x92\xa6result\xc4\x03NaN'))",
        r"CONTROL.send(frame(b'\x95\xa4call\x01\xa7__doc__\xc4\x02[]\xc4\x02{}'))",
        r"CONTROL.send(frame(b'\x95\xa4call\x01\xa4tool\xc4\x02{}\xc4\x02{}'))",
        r"CONTROL.send(frame(b'\x95\xa4call\x01\xa4tool\xc4\x02[]\xc4\x03[1]'))",
        r"CONTROL.shutdown(socket.SHUT_WR)",
        r"CONTROL.close(); os.closerange(3, 1000); return {}",
    ],
)
def test_protocol_violation_ends_the_run(run: Any, body: str, caplog: pytest.LogCaptureFixture) -> None:
    result = attack(run, f"{body}\ntime.sleep(1000)", tools={"tool": lambda: None})
    assert isinstance(result.error, sandbox.ProtocolViolation), result
    assert str(result.error).startswith("The agent's process ")
    assert len(str(result.error)) < 300
    assert caplog.records == []


def test_half_a_frame_ends_at_the_time_limit(run: Any) -> None:
    result = attack(
        run, "DATA.send(struct.pack('<I', 1000) + b'x')\ntime.sleep(1000)", limits=sandbox.Limits(timeout_s=0.5)
    )
    assert isinstance(result.error, sandbox.TimeLimitExceeded)


def test_half_a_frame_before_the_end(run: Any) -> None:
    result = attack(run, "DATA.send(struct.pack('<I', 1000) + b'x'); DATA.shutdown(socket.SHUT_RDWR)\nreturn {'ok': 1}")
    assert result.check() == {"ok": 1}


def test_unread_replies_do_not_block_the_host(run: Any, store: DataStore) -> None:
    store.set("big", "x" * 5_000_000)
    result = attack(
        run,
        r"""
        request = frame(b'\x94\x01\xa3get\xa7default\xa3big')
        for n in range(10):
            DATA.send(request)
        return {"ok": 1}
        """,
    )
    assert result.check() == {"ok": 1}


def test_flood_of_tool_calls_is_throttled(run: Any) -> None:
    result = attack(
        run,
        r"""
        n = 0
        while True:
            n += 1
            CONTROL.sendall(frame(b'\x95\xa4call\xce' + struct.pack('>I', n) + b'\xa4tool\xc4\x02[]\xc4\x02{}'))
        """,
        tools={"tool": lambda: None},
        limits=sandbox.Limits(timeout_s=1),
    )
    assert isinstance(result.error, sandbox.TimeLimitExceeded)


def test_flood_of_calls_that_are_given_up_is_throttled(run: Any) -> None:
    """A plain function cannot be interrupted: its call keeps its place until it returns, however often it is given up."""
    begun, release = [], threading.Event()

    def hang() -> None:
        begun.append(threading.get_ident())
        release.wait(20)

    result = attack(
        run,
        r"""
        for n in range(100_000):
            number = b'\xce' + struct.pack('>I', n)
            CONTROL.sendall(frame(b'\x95\xa4call' + number + b'\xa4tool\xc4\x02[]\xc4\x02{}'))
            CONTROL.sendall(frame(b'\x92\xa6cancel' + number) * 2)
        """,
        tools={"tool": hang},
        limits=sandbox.Limits(timeout_s=1),
    )
    release.set()
    assert isinstance(result.error, sandbox.TimeLimitExceeded)
    assert len(begun) == MOST_UNDER_WAY


def test_call_with_a_number_in_use(run: Any) -> None:
    result = attack(
        run,
        r"""
        for n in range(2):
            CONTROL.sendall(frame(b'\x95\xa4call\x07\xa4tool\xc4\x02[]\xc4\x02{}'))
        time.sleep(1000)
        """,
        tools={"tool": __import__("asyncio").Event().wait},
    )
    assert isinstance(result.error, sandbox.ProtocolViolation)


def test_data_of_other_users_is_unreachable(run: Any, server_url: str, user: str) -> None:
    other = f"{user}-other"
    with connect(server_url, user=other) as theirs:
        theirs.set("secret", "theirs")
        result = run(
            """
            def run(input_dict):
                other, me, found = input_dict["other"], data_store.user, []
                for name in (other, f"../{other}", f"x:ns:default", f"{other}:ns:default", f"\\0user:{other}:ns:default", "*"):
                    store = data_store.use_namespace(name)
                    found += [store.get("secret"), *store.list_keys(), *store.get_many(["secret"])]
                    store.clear()
                object.__setattr__(data_store._operations, "user", other)
                found.append(data_store.get("secret"))
                return {"found": found, "namespaces": data_store.list_namespaces()}
            """,
            {"other": other},
        )
        assert result.check() == {"found": [None] * 7, "namespaces": []}
        assert theirs.get("secret") == "theirs"


def test_crafted_metadata_and_cursors(run: Any) -> None:
    result = attack(
        run,
        r"""
        from redis_store.errors import DataStoreError
        said = []
        deep = b'{"a":' * 500 + b'1' + b'}' * 500
        for text in (deep, b'{"a":' + b'[' * 300 + b']' * 300 + b'}'):
            try:
                data_store._operations.send("set", "k", b"1", text, None)
            except DataStoreError as error:
                said.append(type(error).__name__)
        for cursor in ("x", "-1", "9" * 30, "0\r\nDEL"):
            try:
                data_store._operations.send("scan_page", cursor, None)
            except DataStoreError as error:
                said.append(type(error).__name__)
        for text in (b"{", b"[" * 100_000, b'"\\ud800"', b"NaN", b"1e999", b"\xff", b"", b"1" * 5000):
            try:
                data_store._operations.send("set", "k", text, None, None)
            except DataStoreError as error:
                said.append(type(error).__name__)
        return {"said": said, "keys": data_store.list_keys()}
        """,
    )
    output = result.check()
    assert output["keys"] == []
    assert output["said"][:2] == ["InvalidValue"] * 2
    assert output["said"][-8:] == ["InvalidValue"] * 8


def _memory_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_big_hostile_frames_cost_the_host_little(run: Any) -> None:
    run("def run(): return {}").check()
    before = _memory_mib()
    for body in (
        r"DATA.sendall(frame(b'\x91' * 60_000_000))",
        r"DATA.sendall(frame(b'\x91\xdd' + struct.pack('>I', 60_000_000) + b'\x80' * 60_000_000))",
        r"DATA.sendall(frame(b'\xdd' + struct.pack('>I', 60_000_000) + b'\x80' * 60_000_000))",
    ):
        assert isinstance(attack(run, f"{body}\ntime.sleep(1000)").error, sandbox.ProtocolViolation)
    assert _memory_mib() - before < 200


@settings(max_examples=15)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5), st.booleans())
def test_random_frames(run: Any, bodies: list[bytes], on_control: bool) -> None:
    sock = "CONTROL" if on_control else "DATA"
    result = attack(
        run,
        f"""
        for body in {bodies!r}:
            {sock}.send(frame(body))
        time.sleep(1000)
        """,
        limits=sandbox.Limits(timeout_s=5),
    )
    assert isinstance(result.error, sandbox.ProtocolViolation)


@pytest.mark.parametrize(("count", "size", "most"), [(400, 0, 256), (30, 60_000, 5)])
def test_concurrent_calls_are_bounded(run: Any, store: DataStore, count: int, size: int, most: int) -> None:
    """Bounded in number, even if many arrive in one piece, and in the memory that they take on the host."""
    lock, gate, now, highest, done = threading.Lock(), threading.Event(), 0, 0, 0

    def tool(text: str) -> None:
        nonlocal now, highest, done
        with lock:
            now += 1
            highest = max(highest, now)
            if now == most:
                store.set("most", 1)
        gate.wait(20)
        with lock:
            now -= 1
            done += 1
            if done == count:
                store.set("done", 1)

    body = f"""
    args = b'["' + b'x' * {size} + b'"]'
    def call(n):
        sizes = struct.pack('>H', n), struct.pack('>I', len(args))
        return frame(b'\\x95\\xa4call\\xcd' + sizes[0] + b'\\xa4tool\\xc6' + sizes[1] + args + b'\\xc4\\x02{{}}')
    import threading
    threading.Thread(target=CONTROL.sendall, args=(b''.join(map(call, range({count}))),)).start()
    while 'most' not in data_store: time.sleep(0.01)
    for n in range(100): data_store.get('time for more of them to begin')
    data_store.set('open', 1)
    while 'done' not in data_store: time.sleep(0.01)
    return {{}}
    """
    limits = sandbox.Limits(timeout_s=20, result_bytes=64 * 1024)

    def open_gate() -> None:
        wait_until(lambda: store.get("open"), "the agent has sent everything")
        gate.set()

    opener = threading.Thread(target=open_gate)
    opener.start()
    assert attack(run, body, tools={"tool": tool}, limits=limits).check() == {}
    opener.join()
    assert highest == most


def test_names_in_the_timeline_are_truncated(run: Any) -> None:
    body = r"""
    for name, key in ((b'n' * 4_000_000, b'k'), (b'n', b'k' * 4_000_000)):
        text = lambda one: b'\xdb' + struct.pack('>I', len(one)) + one
        DATA.sendall(frame(b'\x94\x01\xa3get' + text(name) + text(key)))
        DATA.recv(65536)
    return {}
    """
    first, second = attack(run, body).operations
    assert (len(first.namespace), len(second.key), first.error, second.error) == (
        1024,
        256,
        "LimitExceeded",
        "LimitExceeded",
    )


@pytest.mark.parametrize("kind", ["result", "call"])
def test_json_with_too_many_values_is_not_decoded(run: Any, kind: str) -> None:
    body = rf"""
    text = b'[' + b'[],' * 1_000_000 + b'1]'
    if {kind!r} == 'call':
        body = b'\x95\xa4call\x01\xa4tool\xc6' + struct.pack('>I', len(text)) + text + b'\xc4\x02{{}}'
    else:
        text = b'{{"a":' + text + b'}}'
        body = b'\x92\xa6result\xc6' + struct.pack('>I', len(text)) + text
    CONTROL.sendall(frame(body))
    time.sleep(1000)
    """
    before = _memory_mib()
    error = attack(run, body, tools={"tool": lambda *a: None}).error
    assert isinstance(error, sandbox.ResultLimitExceeded), error
    assert (error.limit, error.value) == ("result_values", 1_000_000)
    assert _memory_mib() - before < 100


def test_string_of_json_punctuation_counts_as_one_value(run: Any) -> None:
    text = '[{,\\"' * 400_000
    source = "def run(i, tools): return {'back': tools['same'](i['text'])}"
    assert run(source, {"text": text}, tools={"same": lambda one: one}).check() == {"back": text}


def test_counting_values_takes_linear_time() -> None:
    for text in (b'"' + b'\\"' * 4_000_000, b'"' * 8_000_000, b'"\\' * 4_000_000, b',"' * 4_000_000):
        assert has_more_values(b"," * 1_000_001 + text)
    assert not has_more_values(b'"' + b"," * 4_000_000)
