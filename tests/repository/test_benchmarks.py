"""The parts of the benchmarks are correct: turns are fair, sides are compared, bytes on the wire are counted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from benchmarks import measure, plots, tables
from benchmarks.clients import Clients, connected
from benchmarks.documents import EMBEDDING, OBJECTS, SHAPES
from benchmarks.echo import Echo
from benchmarks.race import Entrant, race, same
from benchmarks.rounds import Figure
from benchmarks.rows import _listings, _one_key, quick_rows
from benchmarks.server import programs, running_server
from benchmarks.targets import TARGETS, TIMES_MS
from benchmarks.wire import Floors, counting_relay
from tests.support.servers import MissingServer


def test_plots_are_those_of_the_tables() -> None:
    drawn = plots.drawn(plots.PAGE.read_text(encoding="utf-8"))
    assert drawn
    for name, text in drawn.items():
        shown = (plots.PAGE.parent / "images" / name).read_text(encoding="utf-8")
        assert shown == text, f"docs/images/{name} is not of the page's tables: run `make plots`"


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_entrants_alternate_and_rotate_who_is_first(loop: asyncio.AbstractEventLoop) -> None:
    calls: list[str] = []

    async def third() -> None:
        calls.append("c")

    entrants = [
        Entrant("a", lambda: calls.append("a"), prepare=lambda number: calls.append(f"prepare {number}")),
        Entrant("b", lambda: calls.append("b")),
        Entrant("c", third, awaited=True),
    ]
    finishes = race(entrants, loop, rounds=3, calls=2, budget_s=60)
    assert [finish.name for finish in finishes] == ["a", "b", "c"]
    warm_up = ["prepare 1", "a", "b", "c"] * 2
    turns = ["prepare 2", *"aabbcc", *"bbcc", "prepare 2", *"aa", *"cc", "prepare 2", *"aabb"]
    assert calls == warm_up + turns
    assert finishes[-1].ratio == 1
    assert finishes[-1].quartiles == (1, 1)


def test_slow_entrant_runs_once(loop: asyncio.AbstractEventLoop) -> None:
    calls: list[int] = []
    (finish,) = race([Entrant("slow", lambda: calls.append(1))], loop, budget_s=0)
    assert len(calls) == 1
    assert finish.quartiles == (1, 1)


def test_concurrent_calls_share_the_time(loop: asyncio.AbstractEventLoop) -> None:
    def work() -> int:
        return sum(range(2000))

    alone, shared = race(
        [Entrant("alone", work), Entrant("shared", work, calls_at_once=1000)], loop, rounds=5, calls=20
    )
    assert alone.us > shared.us


def test_different_results_stop_the_benchmark() -> None:
    same("get", 1, 1, 1)
    with pytest.raises(SystemExit, match="get: the sides gave different answers, so nothing was timed"):
        same("get", 1, 1, 2)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running_server() as server:
        yield server.port


def test_relay_counts_round_trips_and_bytes(port: int, loop: asyncio.AbstractEventLoop) -> None:
    with counting_relay(port) as (relay_port, traffic), connected(relay_port, loop) as clients:
        store = clients.store.use_namespace("counted")
        store.set_many({f"key-{number}": "x" * 1000 for number in range(2500)})
        store.get("key-1")
        traffic.reset()
        assert store.get("key-1") == "x" * 1000
        assert traffic.round_trips == 1
        assert 1000 < traffic.bytes_in < 1020
        assert 0 < traffic.bytes_out < 100
        traffic.reset()
        store.set_many({f"key-{number}": "y" * 1000 for number in range(2500)})
        assert traffic.round_trips == 1
        assert traffic.bytes_out > 2_500_000
        traffic.reset()
        assert clients.run(clients.astore.use_namespace("counted").get("key-2")) == "y" * 1000
        clients.store.clear()


def test_documents_are_of_their_size_and_of_all_shapes() -> None:
    for size, least in (("100 B", 90), ("2 KB", 1750), ("100 KB", 88_000)):
        for shape, value in SHAPES[size].items():
            assert least < len(orjson.dumps(value)) < 1.26 * least, (size, shape)
    assert set(SHAPES["2 KB"]) == {"record", "findings", "transcript", "text", "embedding", "answer"}
    assert len(SHAPES["100 KB"]["answer"]) == OBJECTS == 300
    assert {len(embedding) for embedding in SHAPES["100 KB"]["embedding"]} == {EMBEDDING} == {1536}
    for size in SHAPES:
        assert b"null" in orjson.dumps(SHAPES[size]["findings"])
        assert not orjson.dumps(SHAPES[size]["transcript"]).isascii()


def test_the_floor_of_an_agents_call_carries_its_bytes_and_goes_on_to_the_server() -> None:
    went: list[int] = []
    with Echo() as echo:
        assert echo.us(3, 300_000, 10, lambda: went.append(1)) > 0
        assert echo.us(2, 10, 300_000) > 0
    assert len(went) == 3


def test_a_floor_sends_the_bytes_of_the_call_and_reads_its_reply(port: int) -> None:
    with Floors(port, "floor") as floors, floors.store.use_namespace("other") as other:
        floors.store.set("key", "x" * 1000)
        floors.of(lambda store: store.get("key"))()
        write = floors.of(lambda store: store.set("key", "written"))
        other.set("other", 1)
        floors.store.delete("key")
        write()
        assert floors.store.get("key") == "written"
        assert floors.store.info("key").updated_by == "bench"


def test_rows_are_checked_before_timing(port: int, loop: asyncio.AbstractEventLoop) -> None:
    with connected(port, loop) as clients:
        wrong = Clients(clients.store.use_namespace("other"), clients.astore, clients.bare, clients.abare, loop)
        rows = _one_key(wrong, None)
        wrong.bare.set("bare", "no hash")
        with pytest.raises(Exception, match="WRONGTYPE"):
            next(rows)
        clients.bare.delete("bare")


def test_every_row_of_the_table_is_measured(
    port: int, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row runs once, but for those that take seconds: only their names are asked for."""
    for name, number in (
        ("rows.MANY", 11),
        ("rows.PAGED", 22),
        ("rows.BATCH", 3),
        ("sandbox.MANY", 3),
        ("sandbox.BATCH", 3),
    ):
        monkeypatch.setattr(f"benchmarks.{name}", number)
    names = {"clear 100,000"}
    with connected(port, loop) as clients:
        for row in quick_rows(clients):
            if row.name not in names:
                race([row.ours, row.theirs], loop, rounds=1, calls=1)
            names.add(row.name)
        names |= {row.name.replace(" 11", " 10,000").replace(" 22", " 100,000") for row in _listings(clients)}
    figures = [Figure("", 1.0, 1.0, 1.0, (1.0, 1.0))]
    monkeypatch.setattr(measure.watching, "write_cost", lambda server, watchers: (1.0, figures[0]))
    monkeypatch.setattr(measure.watching, "latencies", lambda server, only: {only: (1.0, 1.0)})
    monkeypatch.setattr(
        measure.agents, "_measured", lambda server, name, work, echo, rounds: replace(figures[0], name=name)
    )
    monkeypatch.setattr(measure.agents, "runs", lambda server, tier: figures[0])
    monkeypatch.setattr(measure.agents, "run_times_ms", lambda server: (1.0, 1.0))
    monkeypatch.setattr(measure, "STARTS", 1)
    with running_server() as server:
        for part in measure.PARTS:
            names |= {cell["name"] for cell in part(server, "")}
    assert names == set(TARGETS) | set(TIMES_MS)


def test_a_missing_server_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def only_valkey(kind: str) -> str:
        if kind != "valkey9":
            raise MissingServer(f"no {kind}: install it")
        return "/usr/bin/it"

    monkeypatch.setattr("benchmarks.server.find_binary", only_valkey)
    assert programs() == {"valkey9": "/usr/bin/it"}
    assert capsys.readouterr().err == (
        "Not measured: redis7. no redis7: install it\nNot measured: redis8. no redis8: install it\n"
    )


def test_table_has_a_column_for_each_server_and_marks_rows_over_their_aim() -> None:
    def cell(figure: float, aim: float | None, **other: object) -> dict[str, object]:
        ratio = {
            "of": "redis-py's hget",
            "unit": "ratio",
            "low": 0.4,
            "high": 0.6,
            "ours_us": 12.3,
            "theirs_us": 1234.5,
        }
        more = {"floor_us": 9.1, "shapes": {"text": figure, "record": 0.2}}
        return {"name": "get 100 B", "figure": figure, "at_most": aim, **ratio, **more, **other}

    time = cell(9.84, 4, name="watch, 50 threads: p99", unit="ms", of="")
    one = tables.server_of(("Redis 7", [cell(0.5, 0.48)]), ("Redis 7", [cell(0.3, 0.35), time]))
    two = tables.server_of(("Valkey 9", [cell(0.4, 0.48)]), ("Valkey 9", [cell(0.36, 0.35)]))
    assert tables.targets([one, two]).splitlines() == [
        "| one core; spread              | at most    | Redis 7      | Valkey 9     |",
        "| ----------------------------- | ---------- | ------------ | ------------ |",
        "| get 100 B, of redis-py's hget | 0.48; 0.35 | 0.50 ✗; 0.30 | 0.40; 0.36 ✗ |",
        "| watch, 50 threads: p99        | -; 4 ms    | -; 9.84 ms ✗ | -; -         |",
        "",
        "| Valkey 9  | ours, theirs: µs | floor: µs | shapes of document, slowest first |",
        "| --------- | ---------------- | --------- | --------------------------------- |",
        "| get 100 B | 12.3, 1,234      | 9.1       | text 0.40, record 0.20            |",
    ]


def test_tables_are_put_in_their_place_in_the_page() -> None:
    page = (
        "# A\n\n<!-- rows: how -->\n\n| old |\n\n<!-- end -->\n\ntext\n\n<!-- memory: how -->\n| kept |\n<!-- end -->\n"
    )
    filled = tables.filled(page, {"rows": "| new |\n"})
    assert filled == page.replace("| old |", "| new |")
    assert tables.filled(filled, {"rows": "| new |\n"}) == filled


def test_every_table_of_make_bench_has_its_place_in_the_page() -> None:
    page = Path("docs/benchmarks.md").read_text()
    assert re.findall(r"^<!-- (\w+): ", page, re.MULTILINE) == [
        "about",
        "rows",
        "memory",
        "special",
        "costs",
        "cluster",
        "peers",
        "growth",
    ]
    assert page.count("<!-- end -->") == 8


def test_the_cluster_is_shown_beside_the_single_server() -> None:
    row = {"name": "get", "ratio": 1.2, "low": 1.0, "high": 1.3, "cluster_us": 12.0, "single_us": 10.0}
    note = {"name": "first write", "at_most": "1 s", "said": "0.05 s"}
    shown = tables.cluster({"at_most": 1.1, "rows": [row, {**row, "name": "set", "ratio": 1.05}], "notes": [note]})
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines()]
    assert ["get", "1.1", "1.20 ✗", "1.00 1.30", "12.0, 10.0"] in cells
    assert ["set", "1.1", "1.05", "1.00 1.30", "12.0, 10.0"] in cells
    assert ["first write", "1 s", "0.05 s"] in cells
