"""The record of a run: its content, its redactions and its cost."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import sandbox
from redis_store import DataStore
from sandbox.masking import PREVIEW_CHARACTERS, preview
from sandbox.record.timeline import Bounded
from sandbox.trace import trace_events, trace_tree, write_trace

PARENT = """
async def run(input_dict, tools):
    data_store.set("k", {"password": "hunter2", "n": 1})
    data_store.get("k")
    data_store.get("none")
    data_store.set_many({"a": 1, "b": 2})
    await asyncio.gather(agents.call("child", {"n": 1}), agents.call("child", {"n": 2}))
    tools["tool"](1)
    try:
        data_store.set("bad", 1, metadata={"m": "x" * 70_000})
    except ValueError:
        pass
    return {}
"""
CHILD = (
    "def run(input_dict):\n    data_store.use_namespace('of-child').set(str(input_dict['n']), 'x' * 500)\n    return {}"
)


@pytest.fixture
def result(run: Any) -> sandbox.RunResult:
    done: sandbox.RunResult = run(PARENT, agent="parent", agents={"child": CHILD}, tools={"tool": lambda n: n})
    done.check()
    return done


def test_operations(result: sandbox.RunResult) -> None:
    said = [
        (one.agent, one.operation, one.namespace, one.key, one.count, one.hit, one.bytes, one.error)
        for one in result.operations
    ]
    assert said[:4] == [
        ("parent", "set", "default", "k", 1, None, 28, None),
        ("parent", "get", "default", "k", 1, True, 28, None),
        ("parent", "get", "default", "none", 0, False, 0, None),
        ("parent", "set_many", "default", None, 2, None, 2, None),
    ]
    assert sorted(said[4:6]) == [("child", "set", "of-child", n, 1, None, 502, None) for n in ("1", "2")]
    assert said[6] == ("parent", "set", "default", "bad", 0, None, 0, "LimitExceeded")
    assert all(timedelta(0) <= datetime.now(UTC) - one.time < timedelta(minutes=5) for one in result.operations)
    assert [one.time for one in result.operations] == sorted(one.time for one in result.operations)
    assert all(one.duration_ms >= 0 for one in result.operations)


def test_calls(result: sandbox.RunResult) -> None:
    assert sorted((one.agent, one.kind, one.name, one.error) for one in result.calls) == [
        ("parent", "agent", "child", None),
        ("parent", "agent", "child", None),
        ("parent", "tool", "tool", None),
    ]
    nested = {one.nested_run for one in result.calls if one.kind == "agent"}
    assert {one.run for one in result.operations} == nested | {result.run}
    assert len(nested) == 2


def test_previews_mask_secrets(result: sandbox.RunResult) -> None:
    assert [one.preview for one in result.operations[:4]] == ['{"password":"***","n":1}'] * 2 + [None, "1"]
    assert len(result.operations[4].preview or "") == PREVIEW_CHARACTERS
    for shown in (repr(result), str(asdict(result)), json.dumps(trace_events(result)), drawn(result)):
        assert "hunter2" not in shown
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result
    assert copy.operations[0].preview == result.operations[0].preview


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":1}', '{"a":1}'),
        ('{"a":[1,"b",null,true,1.5]}', '{"a":[1,"b",null,true,1.5]}'),
        ('{"api_key":"x"}', '{"api_key":"***"}'),
        ('{"API-Key" : "x"}', '{"API-Key" : "***"}'),
        ('{"github_pat":"x","path":"y"}', '{"github_pat":"***","path":"y"}'),
        ('{"token":["x",{"y":"z"}],"b":"c"}', '{"token":["***",{"y":"***"}],"b":"c"}'),
        ('{"secrets":{"a":{"b":"c"}},"d":"e"}', '{"secrets":{"a":{"b":"***"}},"d":"e"}'),
        ('{"max_tokens":4096,"a":"b"}', '{"max_tokens":4096,"a":"b"}'),
        ('{"password":"a\\"b","c":"d"}', '{"password":"***","c":"d"}'),
        ('"sk-abcdefghijklmnop1234"', '"***"'),
        ('"see ghp_0123456789abcdefABCDEF0123456789abcd ok"', '"see *** ok"'),
        ('"AKIAIOSFODNN7EXAMPLE"', '"***"'),
        ('"Authorization: Bearer abcdefghijklmnop.qrs"', '"Authorization: Bearer ***"'),
        ('"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF123"', '"***"'),
        ('"redis://user:pw@host:6379/0"', '"redis://***@host:6379/0"'),
        ('"-----BEGIN PRIVATE KEY-----\\nMIIE"', '"***'),
        ('"d41d8cd98f00b204e9800998ecf8427e"', '"***"'),
        ('"q8Zk3Vf0pLw2Xn7Tb5Rj9Hc1Md6Gs4Ya"', '"***"'),
        ('"a plain sentence with /usr/lib/python3.11/site-packages/rich/__init__.py"', None),
        ('"src/main.py"', None),
        ('"9f1c2e7a-1b2c-4d5e-8f90-123456789abc"', None),
    ],
)
def test_masking(text: str, expected: str | None) -> None:
    assert preview(text.encode()) == (text if expected is None else expected)


def test_key_of_a_value_counts_for_masking() -> None:
    assert preview(b'"hunter2"', "db-password") == '"***"'
    assert preview(b'{"a":["x"],"n":5}', "api_key") == '{"a":["***"],"n":5}'


@pytest.mark.parametrize("size", [150, 199, 300, 600, 5000])
def test_truncated_secret_is_masked(size: int) -> None:
    text = json.dumps({"a": "x" * size, "password": "hunter2" * 500}, separators=(",", ":")).encode()
    shown = preview(text)
    assert len(shown) <= PREVIEW_CHARACTERS
    assert "hunter2" not in shown


@given(st.binary(max_size=3000))
def test_preview_of_any_bytes_is_bounded(text: bytes) -> None:
    assert len(preview(text)) <= PREVIEW_CHARACTERS


@given(st.integers(1, 20), st.integers(0, 60))
def test_bounded_list_keeps_both_ends(size: int, count: int) -> None:
    kept: Bounded[int] = Bounded(size)
    for n in range(count):
        kept.add(n)
    items = kept.items()
    assert len(items) == min(size, count)
    assert kept.left_out == count - len(items)
    assert items == sorted(items)
    if count:
        assert items[0] == 0
    if count and size > 1:
        assert items[-1] == count - 1


def test_timeline_is_bounded(run: Any) -> None:
    result = run(
        "def run():\n    for n in range(100): data_store.get(f'k{n}')\n    return {}",
        limits=sandbox.Limits(timeline=10),
    )
    assert [one.key for one in result.operations] == [f"k{n}" for n in (0, 1, 2, 3, 4, 95, 96, 97, 98, 99)]
    assert result.operations_left_out == 90
    assert "90 operations are left out" in drawn(result)


def test_long_keys_do_not_fill_host_memory(run: Any) -> None:
    result = run("def run():\n    data_store.get('k' * 60_000); data_store.get('k' * 256)\n    return {}")
    assert [len(one.key) for one in result.operations] == [256, 256]
    assert result.operations[0].key.endswith("k…")


def drawn(result: sandbox.RunResult) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(trace_tree(result))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_drawn_tree(result: sandbox.RunResult) -> None:
    lines = drawn(result).splitlines()
    assert lines[0].startswith(f"parent {result.run} ")
    assert lines[1].startswith("├── set 'default' 'k'  28 B")
    assert '{"password":"***","n":1}' in lines[1]
    assert lines[2].startswith("├── get 'default' 'k' hit")
    assert lines[3].startswith("├── get 'default' 'none' miss")
    assert lines[4].startswith("├── set_many 'default' 2 keys")
    assert sum(line.startswith("├── child ") for line in lines) == 2
    assert sum(line.startswith("│   └── set 'of-child'") for line in lines) == 2
    assert any(line.startswith("├── tool tool ") for line in lines)
    assert lines[-1].startswith("└── set 'default' 'bad'")
    assert lines[-1].endswith("LimitExceeded")


def test_drawn_tree_has_no_control_characters(run: Any, store: DataStore) -> None:
    result = run("def run(): data_store.use_namespace('n\\x1b[2J').set('k\\x1b]0;x\\x07', '\\x9b31m\\r\\n'); return {}")
    assert [letter for letter in drawn(result) if not letter.isprintable() and letter != "\n"] == []


def test_drawn_tree_omits_the_middle_of_long_runs(run: Any) -> None:
    result = run("def run():\n    for n in range(500): data_store.get(f'k{n}')\n    return {}")
    lines = drawn(result).splitlines()
    assert len(lines) == 202
    assert "… 300 more" in lines[101]


def test_perfetto_events(result: sandbox.RunResult, tmp_path: Path) -> None:
    write_trace(result, tmp_path / "out.json")
    events = json.loads((tmp_path / "out.json").read_text())["traceEvents"]
    by_name = {event["name"]: event for event in events}
    assert by_name["parent"]["ph"] == "X"
    assert by_name["data_store.set_many"]["args"] == {"namespace": "default", "count": 2, "bytes": 2, "preview": "1"}
    threads = {event["args"]["name"]: event["tid"] for event in events if event["name"] == "thread_name"}
    assert len(threads) == 3
    assert threads[f"parent {result.run}"] == 1
    whole = by_name["parent"]
    for event in events:
        assert event["ph"] in "MXbe"
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert whole["ts"] <= event["ts"] <= whole["ts"] + whole["dur"] + 1000
    begins = [(event["cat"], event["id"]) for event in events if event["ph"] == "b"]
    ends = [(event["cat"], event["id"]) for event in events if event["ph"] == "e"]
    assert begins == ends
    assert len(set(begins)) == 3


def test_drawn_tree_shows_a_failed_run(run: Any) -> None:
    result = run(
        "async def run(i, tools):\n    try: tools['bad']()\n    except Exception: pass\n    await agents.call('child')",
        agents={"child": "def run(): raise ValueError"},
        tools={"bad": lambda: 1 / 0},
    )
    assert [(one.kind, one.error) for one in result.calls] == [("tool", "ZeroDivisionError"), ("agent", "AgentRaised")]
    assert "AgentRaised" in drawn(result).splitlines()[0]
    assert "ZeroDivisionError" in drawn(result)
