"""Spans and metrics for OpenTelemetry, if the program has set it up; each in its own process, because that cannot be undone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import redis_store
from redis_store import DataStore
from redis_store.operations import operations_of
from tests.support.servers import Server

SET_UP = """
import asyncio, gc, json, sys
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis_store import DataStoreError, connect, connect_async

url, user = sys.argv[1:]
exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))

def show_spans():
    for span in exporter.get_finished_spans():
        text = span.to_json()
        assert "secret" not in text and user not in text, text
        assert span.instrumentation_scope.name == "redis_store"
        print(span.name, "|", span.kind.name, span.status.status_code.name, json.dumps(dict(span.attributes), sort_keys=True))
    exporter.clear()

def show_metrics():
    data = reader.get_metrics_data()
    assert "secret" not in data.to_json()
    for scope in data.resource_metrics[0].scope_metrics:
        for metric in scope.metrics:
            for point in metric.data.data_points:
                value = point.count if metric.name.startswith("db.") else point.value
                what = {name: point.attributes[name] for name in point.attributes if name in
                    ("result", "direction", "redis_store.operation", "error.type")}
                print(metric.name, metric.unit, json.dumps(what, sort_keys=True), value)
"""


def run(server: Server, user: str, program: str) -> list[str]:
    pytest.importorskip("opentelemetry.sdk", reason="pip install opentelemetry-sdk")
    environment = {**os.environ, "PYTHONPATH": str(Path(redis_store.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", SET_UP + program, server.url, user],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def tcp_server(start: Callable[..., Server]) -> Server:
    return start("valkey9", tcp=True)


def attributes(server: Server, **more: object) -> str:
    port = urlsplit(server.url).port
    common = {"db.system.name": "redis", "db.namespace": "0", "server.address": "127.0.0.1", "server.port": port}
    return json.dumps({**common, **{name.replace("__", "."): value for name, value in more.items()}}, sort_keys=True)


def test_spans_follow_the_conventions_for_databases(tcp_server: Server, user: str) -> None:
    lines = run(
        tcp_server,
        user,
        """
with connect(url, user=user, namespace="files") as store:
    store.set("secret key", "secret value")
    store.get("secret key")
    store.get_many(["a", "b"])
    store.set_many({"a": 1})
    store.increment("n")
    store.get_or_set("made", lambda: "secret")
    try:
        store.get(5)
    except DataStoreError:
        pass
    try:
        store.increment("secret key")
    except DataStoreError as error:
        pass
show_spans()
""",
    )
    expected = [
        ("EVALSHA set", "set", {"db__operation__name": "EVALSHA", "db__stored_procedure__name": "set"}),
        ("HGET 0", "get", {"db__operation__name": "HGET"}),
        ("HMGET 0", "get_many", {"db__operation__name": "HMGET"}),
        ("MULTI 0", "set_many", {"db__operation__name": "MULTI", "db__operation__batch__size": 3}),
    ]
    for (name, operation, more), line in zip(expected, lines, strict=False):
        facts = attributes(tcp_server, redis_store__operation=operation, redis_store__namespace="files", **more)
        assert line == f"{name} | CLIENT UNSET {facts}"
    assert [line.split(" | ")[0] for line in lines[4:]] == [
        "EVALSHA increment",
        "HGET 0",
        "EVALSHA flight_claim",
        "EVALSHA flight_commit",
        "get_or_set",
        "EVALSHA increment",
    ]
    assert all('"redis_store.namespace": "files"' in line for line in lines)


def test_errors_are_marked(tcp_server: Server, user: str) -> None:
    lines = run(
        tcp_server,
        user,
        """
import redis
redis.Redis.from_url(url).set(f"user:{user}:ns:files", "a string")
with connect(url, user=user, namespace="files") as store:
    try:
        store.get("k")
    except DataStoreError as error:
        print(type(error).__name__)
show_spans()
show_metrics()
""",
    )
    assert lines[0] == "WrongKeyType"
    assert lines[1].startswith("HGET 0 | CLIENT ERROR ")
    assert '"error.type": "WrongKeyType"' in lines[1]
    assert 'db.client.operation.duration s {"error.type": "WrongKeyType", "redis_store.operation": "get"} 1' in lines


def test_spans_nest_in_callers_in_sync_and_async(tcp_server: Server, user: str) -> None:
    lines = run(
        tcp_server,
        user,
        """
tracer = trace.get_tracer("host")
async def main():
    async with connect_async(url, user=user) as store:
        with tracer.start_as_current_span("request") as request:
            await asyncio.gather(store.set("k", 1), store.get("k"), store.get_all())
        return request.get_span_context().span_id
request = asyncio.run(main())
for span in exporter.get_finished_spans():
    if span.name != "request":
        assert span.parent.span_id == request
        print(span.attributes["redis_store.operation"])
""",
    )
    assert sorted(lines) == ["get", "get_all", "set"]


def test_operations_have_the_names_of_the_methods_that_were_called(tcp_server: Server, user: str) -> None:
    lines = run(
        tcp_server,
        user,
        """
def shown(name, call):
    call()
    seen = {span.attributes["redis_store.operation"] for span in exporter.get_finished_spans()}
    assert not any(span.attributes.get("db.stored_procedure.name") == "?" for span in exporter.get_finished_spans()), name
    exporter.clear()
    if seen != {name}:
        print(name, seen)

with connect(url, user=user) as store:
    sliding, bounded = store.use_namespace("s", ttl=9, sliding=True), store.use_namespace("b", max_keys=2)
    for name, call in [
        ("set", lambda: store.set("a", 1, {"m": 1})),
        ("set", lambda: store.set("new", 1, if_version=0)),
        ("set", lambda: bounded.set("a", 1)),
        ("set_many", lambda: store.set_many({"b": 1}, {"m": 1})),
        ("get", lambda: store.get("a", touch=9)),
        ("get", lambda: sliding.get("a")),
        ("get_many", lambda: sliding.get_many(["a"])),
        ("get_many", lambda: store.get_many(["a"], info=True)),
        ("delete", lambda: store.delete("absent", if_version=0)),
        ("increment", lambda: store.increment("n")),
        ("append", lambda: store.append("l", 1)),
        ("append", lambda: store.append("l", 1, max_items=2)),
        ("update", lambda: store.update("n", lambda value: value + 1)),
        ("get_or_set", lambda: store.get_or_set("g", lambda: 1, tags=["t"])),
        ("get_or_set", lambda: store.get_or_set("old", lambda: 1, ttl=9, stale=9)),
        ("invalidate_tag", lambda: store.invalidate_tag("t")),
        ("transact", lambda: store.transact(lambda transaction: transaction.set("a", 2))),
        ("append", lambda: store.sequence("q", max_items=5).append(1)),
        ("acquire", lambda: store.rate_limit("r", 9, per=9).acquire()),
    ]:
        shown(name, call)

async def main():
    async with connect_async(url, user=user) as store:
        for name, call in [
            ("increment", lambda: store.increment("n")),
            ("update", lambda: store.update("n", lambda value: value + 1)),
            ("get_or_set", lambda: store.get_or_set("async", lambda: 1)),
        ]:
            made = await call()
            shown(name, lambda: None)
asyncio.run(main())
show_metrics()
""",
    )
    names = {line for line in lines if not line.startswith(("redis_store.", "db.client"))}
    assert not names
    assert any('{"redis_store.operation": "increment"}' in line for line in lines)


@pytest.mark.parametrize("store_of", ["connect", "connect_async"])
def test_get_or_set_is_the_parent_of_what_it_does(tcp_server: Server, user: str, store_of: str) -> None:
    lines = run(
        tcp_server,
        user,
        f"""
tracer = trace.get_tracer("host")
is_async = {store_of == "connect_async"}

async def call(value):
    return await value if is_async else value

async def main():
    store = {store_of}(url, user=user, namespace="n")

    async def asked():
        with tracer.start_as_current_span("asking"):
            await call(store.get("other"))
        return 1

    def asked_at_once():
        with tracer.start_as_current_span("asking"):
            store.get("other")
        return 1

    def fail():
        raise ZeroDivisionError

    await call(store.set("warm", 1))
    exporter.clear()
    with tracer.start_as_current_span("request"):
        for _ in range(2):
            await call(store.get_or_set("k", asked if is_async else asked_at_once))
        try:
            await call(store.get_or_set("bad", fail))
        except ZeroDivisionError:
            pass
        assert trace.get_current_span().name == "request"
        await call(store.get("after"))
    await call(store.close())

asyncio.run(main())
spans = exporter.get_finished_spans()
names = {{span.context.span_id: span.name for span in spans}}
for span in sorted(spans, key=lambda span: span.start_time):
    operation = span.attributes.get("redis_store.operation")
    print(names.get(span.parent and span.parent.span_id), ">", span.name, operation, span.status.status_code.name)
""",
    )
    assert lines == [
        "None > request None UNSET",
        "request > get_or_set get_or_set UNSET",
        "get_or_set > HGET 0 get_or_set UNSET",
        "get_or_set > EVALSHA flight_claim get_or_set UNSET",
        "get_or_set > asking None UNSET",
        "asking > HGET 0 get UNSET",
        "get_or_set > EVALSHA flight_commit get_or_set UNSET",
        "request > get_or_set get_or_set UNSET",
        "get_or_set > HGET 0 get_or_set UNSET",
        "request > get_or_set get_or_set ERROR",
        "get_or_set > HGET 0 get_or_set UNSET",
        "get_or_set > EVALSHA flight_claim get_or_set UNSET",
        "get_or_set > EVALSHA flight_fail get_or_set UNSET",
        "request > HGET 0 get UNSET",
    ]


def test_a_near_hit_of_get_or_set_makes_no_span(tcp_server: Server, user: str) -> None:
    lines = run(
        tcp_server,
        user,
        """
with connect(url, user=user, near_cache=True) as store:
    while store.stats().near_hits < 5:
        store.get_or_set("k", lambda: 1)
    spans = exporter.get_finished_spans()
    exporter.clear()
    store.get_or_set("k", lambda: 1)
    print(len(exporter.get_finished_spans()))
parents = {span.context.span_id for span in spans if span.name == "get_or_set"}
print(parents == {span.parent.span_id for span in spans if span.name != "get_or_set"})
""",
    )
    assert lines == ["0", "True"]


@pytest.mark.parametrize("wanted", ["http,gen_ai_latest_experimental", "http"])
def test_agent_and_conversation_are_shown_if_they_are_asked_for(
    tcp_server: Server, user: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", wanted)
    lines = run(
        tcp_server,
        user,
        """
from opentelemetry import baggage, context
def show(store):
    store.get("k")
    store.get_or_set("k", lambda: 1)
    print({(span.attributes.get("gen_ai.agent.name"), span.attributes.get("gen_ai.conversation.id"))
        for span in exporter.get_finished_spans()})
    exporter.clear()
with connect(url, user=user, agent='an "agent"', run="run-1") as store:
    show(store)
    context.attach(baggage.set_baggage("gen_ai.conversation.id", "chat-1"))
    show(store)
with connect(url, user=user) as store:
    show(store)
show_metrics()
""",
    )
    told = [('an "agent"', "run-1"), ('an "agent"', "chat-1"), (None, "chat-1")]
    assert lines[:3] == [str({each if "gen_ai" in wanted else (None, None)}) for each in told]
    assert 'db.client.operation.duration s {"redis_store.operation": "get"} 3' in lines


def test_near_cache_traces_requests_and_counts_hits(tcp_server: Server, user: str) -> None:
    lines = run(
        tcp_server,
        user,
        """
with connect(url, user=user, near_cache=True) as store:
    store.set("k", 12)
    for _ in range(5):
        store.get("k")
    show_spans()
show_metrics()
""",
    )
    assert [line.split(" | ")[0] for line in lines if " | " in line] == ["EVALSHA set", "PIPELINE 0"]
    assert '"redis_store.operation": "get"' in lines[1]
    assert 'redis_store.lookups {value} {"result": "hit"} 5' in lines
    assert "redis_store.near_hits {value} {} 4" in lines


def test_sums_outlive_their_stores(tcp_server: Server, user: str) -> None:
    lines = run(
        tcp_server,
        user,
        """
def work():
    with connect(url, user=user) as store:
        store.set("k", 1234)
        store.get("k"), store.get("absent")
        store.delete("made")
        store.get_or_set("made", lambda: 12)
for _ in range(3):
    work()
    gc.collect()
show_metrics()
""",
    )
    assert 'redis_store.lookups {value} {"result": "hit"} 3' in lines
    assert 'redis_store.lookups {value} {"result": "miss"} 6' in lines
    assert 'redis_store.computes {call} {"result": "value"} 3' in lines
    assert 'redis_store.io By {"direction": "read"} 12' in lines
    assert 'redis_store.io By {"direction": "write"} 18' in lines
    assert 'db.client.operation.duration s {"redis_store.operation": "get"} 6' in lines


def test_stores_of_a_client_are_measured_and_counted_together(tcp_server: Server, user: str) -> None:
    lines = run(
        tcp_server,
        user,
        """
from redis_store import AsyncClient, Client
with Client(url) as client:
    kept = client.store(user=user, namespace="kept")
    for number in range(10):
        client.store(user=f"{user}-{number}").get("absent")
        gc.collect()
    kept.get("absent")
    show_metrics()
async def main():
    async with AsyncClient(url) as client:
        for number in range(5):
            await client.store(user=f"{user}-{number}", namespace="n").get("absent")
asyncio.run(main())
print([span.attributes["redis_store.namespace"] for span in exporter.get_finished_spans()])
""",
    )
    assert 'redis_store.lookups {value} {"result": "miss"} 11' in lines
    assert 'db.client.operation.duration s {"redis_store.operation": "get"} 11' in lines
    assert lines[-1] == str(["default"] * 10 + ["kept"] + ["n"] * 5)


def test_telemetry_off_adds_nothing(one_server: Server, open_store: Any, user: str) -> None:
    store: DataStore = open_store(one_server.url, user)
    assert operations_of(store).driver.core.around is None
    assert operations_of(store).driver.measured is None
