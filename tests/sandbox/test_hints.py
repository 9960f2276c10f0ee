"""Hints to authors of agents: given if they help, and not otherwise."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

import sandbox
from redis_store import DataStore
from sandbox.record.hints import find_hints
from sandbox.record.source_hints import changed_copies
from sandbox.result import Operation
from sandbox.trace import trace_tree


def hints(run: Any, source: str, **options: Any) -> list[tuple[str, str]]:
    result: sandbox.RunResult = run(source, **options)
    result.check()
    return [(hint.kind, str(hint)) for hint in result.hints]


def test_loop_of_single_gets(run: Any, store: DataStore) -> None:
    store.use_namespace("files").set_many({f"k{n}": n for n in range(50)})
    source = """
        def run():
            files = data_store.use_namespace("files")
            return {"n": [files.get(f"k{n}") for n in range(50)]}
    """
    ((kind, text),) = hints(run, source, agent="reader")
    assert kind == "single_gets"
    assert text.startswith("reader made 50 single gets in a row in namespace 'files' ('k0' first;")
    assert "get_many(keys)" in text


def test_one_hint_per_line_counted_per_run(run: Any, store: DataStore) -> None:
    store.set_many({f"k{n}": n for n in range(30)})
    found = hints(
        run,
        "async def run(i):\n"
        "    for _ in range(3):\n"
        "        for n in range(30): data_store.get(f'k{n}')\n"
        "        data_store.set('x', 1)\n"
        "    await asyncio.gather(*(agents.call('few') for _ in range(3)))\n    return {}",
        agents={"few": "def run():\n    for n in range(15): data_store.get(f'k{n}')\n    return {}"},
    )
    assert [kind for kind, _ in found] == ["single_gets"]


@pytest.mark.parametrize(
    "body",
    [
        "data_store.get_many([f'k{n}' for n in range(50)])",
        "[data_store.get('k1') for _ in range(50)]",
        "[data_store.get(f'k{n}') for n in range(15)]",
        "[data_store.set(f'k{n}', data_store.get(f'k{n}')) for n in range(50)]",
    ],
)
def test_no_hint_if_get_many_would_not_help(run: Any, store: DataStore, body: str) -> None:
    store.set_many({f"k{n}": n for n in range(50)})
    assert hints(run, f"def run():\n    {body}\n    return {{}}") == []


def test_reads_from_an_empty_namespace(run: Any, store: DataStore) -> None:
    for name in ("shared", "shares", "files:repo"):
        store.use_namespace(name).set("k", 1)
    source = "def run():\n    n = data_store.use_namespace('shraed')\n    n.get('k'); n.list_keys()\n    return {}"
    ((kind, text),) = hints(run, source)
    assert kind == "empty_namespace"
    assert "read from namespace 'shraed' 2 times, but it is empty: did it mean 'shared'" in text
    source = "def run(): data_store.use_namespace('zzz').get('k'); return {}"
    assert hints(run, source)[0][1].endswith("1 time, but it is empty: the user has 'files:repo', 'shared', 'shares'.")


def test_refused_and_computed_calls_are_not_reads(run: Any) -> None:
    source = """
        def run():
            for refused in (lambda: data_store.set("k", 1), lambda: data_store.get_or_set("k", lambda: 1 / 0)):
                try:
                    refused()
                except (PermissionError, ZeroDivisionError):
                    pass
            return {}
    """
    operations = sandbox.Permissions(operations=["get", "get_or_set"])
    refused, (_, text) = hints(run, source, permissions=operations)
    assert refused[0] == "refused_writes"
    assert "read from namespace 'default' 1 time," in text


@pytest.mark.parametrize("broker", ["thread", "process"])
def test_values_that_an_invalidation_kept(broker: Any, store: DataStore, user: str) -> None:
    """The host is told how many, the agent is not, and nobody where they are."""
    for name in ("mine", "hidden", "hidden-too"):
        for key in ("a", "b"):
            store.use_namespace(name).get_or_set(key, lambda: 1, tags=["page", "all"])
    source = """
def run():
    return {"gone": [data_store.restricted(write=["other"]).invalidate_tag("all"), data_store.invalidate_tag("page")]}
"""
    granted = sandbox.Permissions(namespaces=["mine", "other"], tags=["*"])
    with sandbox.Sandbox(url=store.url, permissions=granted, broker=broker) as box:
        result = box.run(source, {}, user=user, agent="tagger")
    assert result.check() == {"gone": [0, 2]}
    assert [(one.key, one.count, one.kept) for one in result.operations] == [("all", 0, 6), ("page", 2, 4)]
    assert [hint.kind for hint in result.hints] == ["kept_values", "kept_values"]
    assert str(result.hints[1]).startswith(
        "tagger invalidated the tag 'page', and 4 values of it stayed, in namespaces"
    )
    assert "hidden" not in repr(result)
    Console(file=(said := io.StringIO()), width=200).print(trace_tree(result))
    assert "4 kept" in said.getvalue()
    assert "hidden" not in said.getvalue()
    assert store.use_namespace("hidden").list_keys() == ["a", "b"]


def test_user_without_data(run: Any) -> None:
    assert hints(run, "def run(): data_store.get('k'); return {}")[0][1].endswith("the user has no data yet.")


@pytest.mark.parametrize(
    "body",
    [
        "data_store.get('k'); data_store.set('k', 1)",
        "data_store.get('none')",
        "data_store.list_namespaces()",
        "data_store.clear()",
        "data_store.watch().close()",
        "data_store.watch_all().next_change(timeout=0)",
    ],
)
def test_no_hint_for_expected_misses(run: Any, store: DataStore, body: str) -> None:
    if "none" in body:
        store.set("k", 1)
    assert hints(run, f"def run():\n    {body}\n    return {{}}") == []


def test_value_near_the_limit(run: Any) -> None:
    source = (
        "def run():\n    data_store.set('big', 'x' * 60_000)\n    data_store.set('small', 'x' * 50_000)\n    return {}"
    )
    ((kind, text),) = hints(run, source, limits=sandbox.Limits(frame_bytes=70_000))
    assert kind == "near_limit"
    assert "the value of 'big' in namespace 'default' takes 60,002 of at most 70,000 bytes (Limits.frame_bytes)" in text


CACHE = """
import time
def run(input_dict):
    cache = data_store.use_namespace("cache")
    for n in range(8):
        key = f"{input_dict['prefix']}{n}"
        if cache.get(key) is None:
            cache.set(key, n)
    return {}
"""


def test_cache_whose_key_never_repeats(run: Any) -> None:
    assert [run(CACHE, {"prefix": "1700000001-"}).hints for _ in range(1)] == [[]]
    ((hint),) = run(CACHE, {"prefix": "1700000002-"}).hints
    assert hint.kind == "useless_cache"
    assert "looked up 8 keys in the cache 'cache' and found none, though it holds 8 others" in hint.message
    assert "does '1700000002-0' contain a part that changes each time" in hint.message
    assert run(CACHE, {"prefix": "1700000002-"}).hints == []


def test_failed_hint_keeps_the_result(run: Any, own_server: Any, user: str) -> None:
    result = sandbox.run(
        "def run(i, tools):\n    data_store.get('k')\n    tools['kill']()\n    return {'fine': 1}",
        {},
        user=user,
        url=own_server.url,
        tools={"kill": lambda: (own_server.process.kill(), None)[1]},
    )
    assert result.check() == {"fine": 1}
    assert result.hints == []


class ManyNames:
    """A store with many long namespace names that counts its calls."""

    def __init__(self) -> None:
        self.asked = 0

    def __enter__(self) -> ManyNames:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def list_namespaces(self) -> list[str]:
        return [f"{n:05}{'ab' * 500}" for n in range(5000)]

    def use_namespace(self, name: str) -> ManyNames:
        return self

    def __len__(self) -> int:
        self.asked += 1
        return 100


def test_many_long_names_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def compare(name: str, names: Iterable[str], n: int) -> list[str]:
        given = [name, *names]
        compared.append((len(given), max(map(len, given))))
        return []

    monkeypatch.setattr(difflib, "get_close_matches", compare)
    moment = datetime.now(UTC)

    def operation(kind: str, namespace: str, key: str, hit: bool | None) -> Operation:
        return Operation(moment, "agent", kind, namespace, key, int(kind == "set"), hit, 1, 0.1)

    done = [operation("get", f"{n}{'ba' * 500}", "k", False) for n in range(300)]
    for place in range(50):
        for n in range(6):
            done += [
                operation("get", f"cache-{place}", f"{n}", False),
                operation("set", f"cache-{place}", f"{n}", None),
            ]
    store = ManyNames()
    found = find_hints(done, sandbox.Limits(), lambda: store)
    assert [hint.kind for hint in found] == ["empty_namespace"] * 10 + ["useless_cache"] * 10
    assert compared == [(501, 48)] * 10
    assert store.asked == 10


SWALLOWED = """
def run(input_dict):
    cache = data_store.use_namespace("cache")
    def quietly(write):
        try:
            write()
        except Exception:
            pass
    quietly(lambda: data_store.set("a", {1}))
    quietly(lambda: data_store.set("b", b"x"))
    quietly(lambda: cache.__setitem__("k\\n" * 3000, b"x"))
    quietly(lambda: cache.read_only().delete("c"))
    quietly(lambda: cache.update("d", lambda value: {1}, default=1))
    quietly(lambda: data_store.use_namespace("other").set("e", 1))
    with data_store.transaction() as work:
        quietly(lambda: work.set("f", {1}))
    return {}
"""


@pytest.mark.parametrize("broker", ["thread", "process"])
def test_refused_writes_that_the_agent_swallowed(user: str, server_url: str, broker: Any) -> None:
    """Whether the agent's process or the host refuses a write, it is in the record, once."""
    permissions = sandbox.Permissions(read=["*"], write=["default", "cache"])
    with sandbox.Sandbox(url=server_url, broker=broker, permissions=permissions) as runs:
        result = runs.run(SWALLOWED, {}, user=user)
    result.check()
    refused = [(one.operation, one.namespace, one.key, one.error) for one in result.operations if one.error]
    assert sorted(refused, key=str) == sorted(
        [
            ("set", "default", "a", "InvalidValue"),
            ("set", "default", "b", "InvalidValue"),
            ("set", "cache", ("k\n" * 128)[:255] + "\u2026", "InvalidValue"),
            ("delete", "cache", "c", "AccessDenied"),
            ("update", "cache", "d", "InvalidValue"),
            ("set", "other", "e", "AccessDenied"),
            ("set", "default", "f", "InvalidValue"),
        ],
        key=str,
    )
    found = {hint.namespace: str(hint) for hint in result.hints if hint.kind == "refused_writes"}
    assert found.keys() == {"default", "cache", "other"}
    assert found["default"].startswith(
        "agent went on after 3 writes of 'a' and others in namespace 'default' raised InvalidValue, and nothing was stored"
    )
    said = io.StringIO()
    Console(file=said, width=200).print(trace_tree(result))
    assert said.getvalue().count("InvalidValue") >= 4


def test_refused_writes_count_towards_the_limit(run: Any) -> None:
    source = """
        def run():
            for _ in range(50):
                try:
                    data_store.set("a", {1})
                except ValueError:
                    pass
            return {}
    """
    assert isinstance(run(source, limits=sandbox.Limits(operations=20)).error, sandbox.OperationLimitExceeded)


def test_no_hint_about_a_refused_write_that_ended_the_run(run: Any) -> None:
    result = run("def run(): data_store.set('a', {1})")
    assert [one.error for one in result.operations] == ["InvalidValue"]
    assert result.hints == []


@pytest.mark.parametrize(
    ("line", "line_number"),
    [
        ("data_store['k']['n'] = 1", 3),
        ("data_store['k']['n'] += 1", 3),
        ("data_store['k']['a']['b'] = 1", 3),
        ("data_store.get('k', {})['n'] = 1", 3),
        ("data_store.get('list', []).append(1)", 3),
        ("notes['k']['n'] = 1", 3),
        ("data_store['k']['list'].append(1)", 3),
        ("del data_store['k']['n']", 3),
        ("data_store.get_many(['k'])['k']['n'] = 1", 3),
        ("key = 'k'; data_store[key]['n'] = 1", 3),
        ("del data_store['k']", None),
        ("data_store['n'] = 1", None),
        ("data_store['k']['n'] == 1", None),
        ("found = data_store['k']['n']", None),
        ("data_store.get('list', []).index(1)", None),
        ("# data_store['k']['n'] = 1", None),
    ],
)
def test_a_change_of_what_a_read_returned(line: str, line_number: int | None) -> None:
    source = f"def run():\n    notes = data_store.use_namespace('notes')\n    {line}\n    return {{}}\n"
    found = list(changed_copies("agent", source.encode()))
    if line_number is None:
        assert found == []
    else:
        assert [hint.kind for hint in found] == ["changed_copy"]
        assert str(found[0]).startswith(f"agent changes in line {line_number} a value that it has read from ")
        handle = "notes" if line.startswith("notes") else "data_store"
        assert f"change it with {handle}.update(key, function)" in str(found[0])


@pytest.mark.parametrize("text", [b"data_store" + b"[0]" * 500_000, b"data_store[" * 200_000, b" " * 1_000_000])
def test_searching_a_hostile_source_ends(text: bytes) -> None:
    """No pattern looks twice at more than a line: the square of a million would end this test by its time limit."""
    assert list(changed_copies("agent", text)) == []


def test_a_forgotten_await(run: Any) -> None:
    source = """
        async def fetch(): pass
        async def run():
            fetch()
            data_store.set("notes", {"n": 1})
            data_store["notes"]["n"] = 2
            return {}
    """
    found = hints(run, source)
    assert [kind for kind, _ in found] == ["changed_copy", "forgotten_await"]
    assert (
        found[1][1]
        == "agent: a call of 'fetch' was never awaited, so that it did nothing: write await before the call."
    )
