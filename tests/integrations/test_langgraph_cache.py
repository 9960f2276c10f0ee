"""LangGraph's cache of the results of nodes, by itself and in a graph."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy

from redis_store import DataStore, InvalidInput, StoreUnavailable, connect
from redis_store.integrations.langgraph import LangGraphCache
from tests.integrations.requests import counted_requests

NAMES: list[tuple[str, ...]] = [
    (),
    ("a",),
    ("a", "b"),
    ("a/b",),
    ("a.b",),
    ('a","b',),
    ("*",),
    ("x" * 2000,),
    ("x" * 20_000,),
    ("x" * 20_000, "a"),
    ("\ud800",),
]


def test_values_are_set_read_and_cleared(store: DataStore, server_url: str) -> None:
    cache: LangGraphCache[Any] = LangGraphCache(store)
    value = {"set": {1, 2}, "bytes": b"\x00"}
    cache.set(
        {(name, key): ([value, NAMES.index(name), key], None) for name in NAMES for key in ("k", "", "y" * 70_000)}
    )
    wanted = [(name, key) for name in NAMES for key in ("k", "", "y" * 70_000, "absent")]
    found = cache.get(wanted)
    assert found == {(name, key): [value, NAMES.index(name), key] for name, key in wanted if key != "absent"}
    cache.clear([("a",), ("*",)])
    assert {name for name, _ in cache.get(wanted)} == set(NAMES) - {("a",), ("*",)}
    store.use_namespace("mine").set("k", 1)
    with counted_requests(server_url) as count:
        cache.get([(name, "k") for name in NAMES[:5]])
        assert count() == 1
    cache.clear()
    assert cache.get(wanted) == {}
    assert store.list_namespaces() == ["mine"]


def test_a_ttl_is_in_seconds(store: DataStore) -> None:
    cache: LangGraphCache[Any] = LangGraphCache(store)
    asyncio.run(cache.aset({((), "k"): (1, 60), ((), "l"): (2, None)}))
    at = store.use_namespace("langgraph/cache")
    infos = {key: at.info(f"[] {key}") for key in ("k", "l")}
    assert infos["k"] is not None
    assert infos["k"].expires_at is not None
    assert round((infos["k"].expires_at - infos["k"].updated_at).total_seconds()) == 60  # type: ignore[operator]
    assert infos["l"] is not None
    assert infos["l"].expires_at is None
    assert asyncio.run(cache.aget([((), "k"), ((), "l")])) == {((), "k"): 1, ((), "l"): 2}
    asyncio.run(cache.aclear())
    assert asyncio.run(cache.aget([((), "k")])) == {}


def test_what_the_serializer_cannot_read_counts_as_missing(store: DataStore) -> None:
    cache: LangGraphCache[Any] = LangGraphCache(store)
    at = store.use_namespace("langgraph/cache")
    at.set_many({"[] a": ["of another version", "AAAA"], "[] b": 1, "[] c": ["msgpack", "no base64!"]})
    assert cache.get([((), key) for key in "abc"]) == {}


def test_an_outage_is_an_error_or_a_miss() -> None:
    with connect("redis://127.0.0.1:1", user="ada") as store:
        with pytest.raises(StoreUnavailable):
            LangGraphCache(store).get([((), "k")])
        with pytest.raises(StoreUnavailable):
            LangGraphCache(store).set({((), "k"): (1, None)})
        computing: LangGraphCache[int] = LangGraphCache(store, on_error="compute")
        computing.set({((), "k"): (1, None)})
        assert computing.get([((), "k")]) == {}
        with pytest.raises(InvalidInput, match="on_error must be 'raise' or 'compute', not 'ignore'"):
            LangGraphCache(store, on_error="ignore")


class State(TypedDict):
    n: int


def test_a_graph_computes_a_node_once(store: DataStore) -> None:
    calls: list[int] = []

    def double(state: State) -> State:
        calls.append(state["n"])
        return {"n": state["n"] * 2}

    graph = StateGraph(State)
    graph.add_node("double", double, cache_policy=CachePolicy(ttl=60))
    graph.add_edge(START, "double")
    graph.add_edge("double", END)

    def app() -> Any:
        return graph.compile(cache=LangGraphCache(store))  # as another process would

    assert [app().invoke({"n": 3})["n"] for _ in range(3)] == [6, 6, 6]
    assert asyncio.run(app().ainvoke({"n": 3})) == {"n": 6}
    assert calls == [3]
    app().clear_cache()
    app().invoke({"n": 3})
    assert calls == [3, 3]
