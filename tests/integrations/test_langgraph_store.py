"""LangGraph's store: the cases of its own suite in our words, and what they leave open."""

from __future__ import annotations

import asyncio
import json
from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)

from redis_store import AsyncDataStore, DataStore, InvalidInput, connect, connect_async
from redis_store.integrations.langgraph import LangGraphStore, memories
from tests.integrations.killed import run_and_kill
from tests.integrations.loops import in_loop
from tests.integrations.pages import read_page
from tests.integrations.requests import counted_requests
from tests.support.servers import wait_until

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def by_letters(texts: Sequence[str]) -> list[list[float]]:
    """Embed texts by how often each letter occurs."""
    return [[float(text.lower().count(letter)) for letter in LETTERS] for text in texts]


async def by_letters_async(texts: Sequence[str]) -> list[list[float]]:
    return by_letters(texts)


@pytest.fixture(params=["blocking", "async", "thread"])
def made(request: pytest.FixtureRequest, server_url: str, user: str) -> Iterator[Callable[..., Caller]]:
    """A function that makes a store, whose calls go to its blocking side, its asynchronous one, or a thread of the former."""
    callers = []

    def make(**options: Any) -> Caller:
        callers.append(Caller(request.param, server_url, user, options))
        return callers[-1]

    yield make
    for caller in callers:
        caller.close()


class Caller:
    """Calls of a store by their blocking names, on one of its sides."""

    def __init__(self, kind: str, url: str, user: str, options: dict[str, Any]) -> None:
        self.loop = asyncio.new_event_loop()
        self.kind = kind
        self.opened: DataStore | AsyncDataStore = (connect_async if kind == "async" else connect)(url, user=user)
        self.store = LangGraphStore(self.opened, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if self.kind == "blocking":
            return getattr(self.store, name)
        method = getattr(self.store, f"a{name}")
        return lambda *args, **kwargs: self.loop.run_until_complete(method(*args, **kwargs))

    def close(self) -> None:
        if isinstance(self.opened, DataStore):
            self.opened.close()
        else:
            self.loop.run_until_complete(self.opened.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def keys_of(items: Any) -> list[str]:
    return [item.key for item in items]


def test_an_item_is_put_read_and_deleted(made: Any) -> None:
    store = made()
    store.put(("users", "ada"), "prefs", UserDict(theme="dark"))
    first = store.get(("users", "ada"), "prefs")
    assert (first.namespace, first.key, first.value) == (("users", "ada"), "prefs", {"theme": "dark"})
    store.put(("users", "ada"), "prefs", {"theme": "light"})
    second = store.get(("users", "ada"), "prefs")
    assert second.value == {"theme": "light"}
    assert second.created_at == first.created_at < second.updated_at
    assert store.get(("users",), "prefs") is None
    store.delete(("users", "ada"), "prefs")
    store.delete(("users", "ada"), "prefs")
    assert store.get(("users", "ada"), "prefs") is None
    assert store.search(()) == []
    assert store.list_namespaces() == []


def test_namespaces_are_listed_by_patterns_and_depth(made: Any) -> None:
    store = made()
    names = ["a.b.c", "a.b.d.e", "a.b.d.i", "a.b.f", "a.c.f", "b.a.f", "ab.f"]
    store.batch([PutOp(tuple(name.split(".")), "k", {"v": 1}) for name in names])

    def listed(**conditions: Any) -> list[str]:
        return [".".join(path) for path in store.list_namespaces(**conditions)]

    assert listed() == sorted(names, key=lambda name: name.split("."))
    assert listed(prefix=("a", "b")) == names[:4]
    assert listed(suffix=("f",)) == ["a.b.f", "a.c.f", "ab.f", "b.a.f"]
    assert listed(prefix=("a",), suffix=("f",)) == ["a.b.f", "a.c.f"]
    assert listed(prefix=("a", "*", "f")) == ["a.b.f", "a.c.f"]
    assert listed(suffix=("*", "f")) == ["a.b.f", "a.c.f", "ab.f", "b.a.f"]
    assert listed(prefix=("a", "b"), max_depth=3) == ["a.b.c", "a.b.d", "a.b.f"]
    assert listed(prefix=("a", "b"), limit=2, offset=1) == ["a.b.d.e", "a.b.d.i"]
    assert listed(prefix=("none",)) == []


def test_pages_of_a_search_are_parts_of_the_whole(made: Any) -> None:
    store = made()
    places = [("a",), ("a", "b"), ("ab",), ("a", "c", "d")]
    store.batch([PutOp(path, f"k{n}", {"n": n, "even": n % 2 == 0}) for path in places for n in range(7)])
    whole = store.search(("a",), limit=100)
    assert len(whole) == 21
    assert {item.namespace for item in whole} == {("a",), ("a", "b"), ("a", "c", "d")}
    assert [item for at in range(0, 21, 4) for item in store.search(("a",), limit=4, offset=at)] == whole
    even = store.search(("a",), filter={"even": True}, limit=100)
    assert [item for item in whole if item.value["even"]] == even
    assert store.search(("a",), filter={"even": True}, limit=3, offset=2) == even[2:5]
    assert len(store.search((), limit=100)) == 28
    assert store.search(("a",), limit=0) == []


FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"color": "red"}, ["1", "2"]),
    ({"score": {"$gt": 3}}, ["1", "3"]),
    ({"score": {"$gte": 3}, "color": "red"}, ["1", "2"]),
    ({"score": {"$lt": "4.5", "$gte": 3}}, ["2", "3"]),
    ({"score": {"$lte": 3}}, ["2"]),
    ({"color": {"$ne": "red"}}, ["3", "4"]),
    ({"color": {"$eq": "green"}}, ["3"]),
    ({"at": {"$gt": "2026-02-01"}}, ["2"]),
    ({"nested": {"a": {"b": 1}}}, ["1"]),
    ({"tags": ["x", {"$gt": 1}]}, ["2"]),
    ({"absent": None}, ["1", "2", "3", "4"]),
]


@pytest.mark.parametrize(("conditions", "keys"), FILTERS)
def test_filters(store: DataStore, conditions: dict[str, Any], keys: list[str]) -> None:
    ours = LangGraphStore(store)
    values: list[dict[str, Any]] = [
        {"color": "red", "score": 4.5, "nested": {"a": {"b": 1, "c": 2}}, "at": "2026-01-31"},
        {"color": "red", "score": 3, "tags": ["x", 2], "at": "2026-03-01"},
        {"color": "green", "score": 4},
        {"score": "many"},
    ]
    ours.batch([PutOp(("t",), str(number), value) for number, value in enumerate(values, 1)])
    assert keys_of(ours.search(("t",), filter=conditions)) == keys


def test_an_unknown_operator_is_refused(store: DataStore) -> None:
    ours = LangGraphStore(store)
    ours.put(("t",), "k", {"a": 1})
    with pytest.raises(InvalidInput, match="use \\$eq"):
        ours.search(("t",), filter={"a": {"$in": [1]}})


def test_a_batch_reads_first_and_its_last_put_counts(made: Any) -> None:
    store = made()
    ops = [GetOp(("t",), "k"), PutOp(("t",), "k", {"n": 1}), PutOp(("t",), "k", {"n": 2}), SearchOp(("t",))]
    assert store.batch(ops) == [None, None, None, []]
    found, listed = store.batch([GetOp(("t",), "k"), ListNamespacesOp((MatchCondition("prefix", ("t",)),))])
    assert found.value == {"n": 2}
    assert listed == [("t",)]


@pytest.mark.parametrize("path", [("a.b",), ("a\x00",), ("a", ""), (1,)])
def test_labels_that_langgraph_refuses(store: DataStore, path: Any) -> None:
    ours = LangGraphStore(store)
    for op in (GetOp(path, "k"), PutOp(path, "k", {}), PutOp(path, "k", None), SearchOp(path)):
        with pytest.raises(InvalidNamespaceError):
            ours.batch([op])
    assert store.list_namespaces() == []


NAMES = ["*", "a\nb", "//x", "a/b", "x" * 2048, "x" * 2047 + "y", "a~" + "0" * 64, "\ud800", "[a-z]?", "\\"]


def test_names_are_data(store: DataStore) -> None:
    ours = LangGraphStore(store, embed=by_letters)
    for number, name in enumerate(NAMES):
        ours.put(("n", name), name, {"n": number, "text": f"abc {LETTERS[number]}"})
    ours.put(("n",), "", {"n": -1})
    for number, name in enumerate(NAMES):
        found = ours.get(("n", name), name)
        assert found is not None
        assert (found.namespace, found.key, found.value["n"]) == (("n", name), name, number)
        if name != "*":
            assert [item.key for item in ours.search(("n", name))] == [name]
    assert sorted(ours.list_namespaces()) == sorted([("n",), *(("n", name) for name in NAMES)])
    assert sorted(item.key for item in ours.search(("n",), limit=100, query="a")) == sorted([*NAMES, ""])
    ours.delete(("n", "*"), "*")
    assert len(ours.search(("n",), limit=100)) == len(NAMES)


def test_the_nearest_come_first(made: Any) -> None:
    store = made(embed=by_letters)
    for key, text in {"1": "red apple", "2": "red car", "3": "green apple", "4": "blue car"}.items():
        store.put(("t",), key, {"text": text, "color": text.split()[0]}, index=["text"])
    found = store.search(("t",), query="red car")
    assert keys_of(found)[0] == "2"
    assert found[0].score == pytest.approx(1)
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    assert keys_of(store.search(("t",), query="red car", filter={"color": "blue"})) == ["4"]
    pages = [store.search(("t",), query="apple", limit=2, offset=at) for at in (0, 2, 4)]
    assert keys_of([item for page in pages for item in page]) == keys_of(store.search(("t",), query="apple"))
    assert set(keys_of(pages[0])) == {"1", "3"}


def test_fields_and_items_that_are_not_indexed(made: Any) -> None:
    store = made(index={"embed": by_letters, "dims": len(LETTERS), "fields": ["title", "parts[*].text"]})
    store.put(("t",), "1", {"title": "xxx", "other": "yyy", "parts": [{"text": "zzz"}, {"text": "www"}]})
    store.put(("t",), "2", {"title": "vvv", "other": "yyy"})
    store.put(("t",), "3", {"title": "xxx"}, index=False)
    store.put(("t",), "4", {"title": "vvv", "other": "uuu"}, index=["other"])

    def best(query: str) -> tuple[str, float]:
        first = store.search(("t",), query=query)[0]
        return first.key, round(first.score, 3)

    assert [best(query) for query in ("xxx", "zzz", "www")] == [("1", 1), ("1", 1), ("1", 1)]
    assert best("uuu") == ("4", 1)
    assert store.search(("t",), query="yyy")[0].score == 0
    last = store.search(("t",), query="xxx")[-1]
    assert (last.key, last.score) == ("3", None)
    store.put(("t",), "1", {"title": "ttt"})
    assert store.search(("t",), query="xxx")[0].score == 0
    store.delete(("t",), "1")
    assert len(store.search(("t",), query="ttt")) == 3


def test_a_store_without_an_index_leaves_no_vector_of_an_older_value(store: DataStore) -> None:
    indexed, plain = LangGraphStore(store, embed=by_letters), LangGraphStore(store)
    indexed.put(("t",), "k", {"text": "abc"})
    plain.put(("t",), "k", {"text": "xyz"})
    (found,) = indexed.search(("t",), query="abc")
    assert found.score is None
    assert keys_of(plain.search(("t",), query="abc")) == ["k"]


@in_loop
async def test_an_embed_function_for_asyncio(server_url: str, user: str) -> None:
    async with LangGraphStore(server_url, user=user, embed=by_letters_async) as store:
        await asyncio.gather(*(store.aput(("t",), text, {"text": text}) for text in ("abc", "xyz")))
        found = await store.asearch(("t",), query="xyz", limit=1)
        assert keys_of(found) == ["xyz"]
        assert (await asyncio.to_thread(store.get, ("t",), "abc")).value == {"text": "abc"}


def test_vectors_of_another_model_are_refused(store: DataStore) -> None:
    LangGraphStore(store, embed=by_letters).put(("t",), "k", {"text": "abc"})
    shorter = LangGraphStore(store, embed=lambda texts: [[1.0, 0.0] for _ in texts])
    with pytest.raises(InvalidInput, match="26 dimensions, and the query with 2"):
        shorter.search(("t",), query="abc")
    with pytest.raises(InvalidInput, match="dims=26: nothing was stored"):
        LangGraphStore(store, index={"embed": lambda texts: [[1.0] for _ in texts], "dims": 26}).put(("u",), "k", {})
    with pytest.raises(InvalidInput, match="0 embeddings for 1 texts"):
        LangGraphStore(store, embed=lambda texts: []).put(("u",), "k", {})
    assert store.list_namespaces(prefix="langgraph/items/u") == []


def test_python_and_numpy_score_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = memories.Embedder({"embed": by_letters})
    units = [vectors.unit(numbers) for numbers in by_letters(["abc", "abd", "xyz", ""])]
    rows: Any = {str(number): [memories.vector_to_json(unit)] for number, unit in enumerate(units)}
    scores = memories.best_scores(units[0], rows)
    assert [round(score, 3) for score in scores.values()] == [1, 0.667, 0, 0]


def test_what_did_not_change_is_not_read_again(server_url: str, user: str) -> None:
    with connect(server_url, user=user, near_cache=True) as near, connect(server_url, user=user) as other:
        index: Any = {"embed": by_letters, "fields": ["text"]}
        store = LangGraphStore(near, index=index)
        store.batch([PutOp(("t",), str(number), {"text": LETTERS[number % 26]}) for number in range(150)])
        store.search(("t",), query="a", limit=1)
        reads = near.stats().near_hits
        assert store.search(("t",), query="b", limit=1)[0].score == 1
        assert near.stats().near_hits - reads == 149
        LangGraphStore(other, index=index).put(("t",), "7", {"text": "qqqq"})
        wait_until(lambda: "7" in keys_of(store.search(("t",), query="q", limit=6)), "the new vector is found")


def test_a_ttl_is_in_minutes_and_begins_anew_with_reads(made: Any, store: DataStore) -> None:
    langgraph = made(ttl={"default_ttl": 10}, embed=by_letters)
    langgraph.put(("t",), "k", {"text": "abc"})
    items, vectors = (store.use_namespace(f"langgraph/{kind}/t") for kind in ("items", "vectors"))

    def minutes_left() -> list[int]:
        infos = [at.info("k") for at in (items, vectors)]
        return [
            round((info.expires_at - info.updated_at) / timedelta(minutes=1))
            for info in infos
            if info and info.expires_at
        ]

    def shorten() -> None:
        items.expire("k", 60)
        vectors.expire("k", 60)

    assert minutes_left() == [10, 10]
    shorten()
    assert langgraph.get(("t",), "k", refresh_ttl=False) is not None
    assert minutes_left() == [1, 1]
    assert langgraph.get(("t",), "k") is not None
    assert minutes_left() == [10, 10]
    shorten()
    langgraph.search(("t",), query="abc", refresh_ttl=False)
    assert minutes_left() == [1, 1]
    langgraph.search(("t",))
    assert minutes_left() == [10, 10]
    langgraph.put(("t",), "k", {"text": "abc"}, ttl=None)
    langgraph.get(("t",), "k")
    assert minutes_left() == []


def test_a_read_gives_no_ttl_to_an_item_that_is_stored_without_one_meanwhile(
    store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    langgraph = LangGraphStore(store)
    langgraph.put(("t",), "k", {"n": 1}, ttl=1)
    refresh = LangGraphStore._refresh

    async def late(self: Any, *args: Any) -> None:
        if not getattr(late, "done", False):
            late.done = True  # type: ignore[attr-defined]
            langgraph.put(("t",), "k", {"n": 2})
        await refresh(self, *args)

    monkeypatch.setattr(LangGraphStore, "_refresh", late)
    langgraph.get(("t",), "k")
    info = store.use_namespace("langgraph/items/t").info("k")
    assert info is not None
    assert info.expires_at is None


def test_agents_read_and_write_the_same_values(store: DataStore) -> None:
    langgraph = LangGraphStore(store)
    langgraph.put(("t",), "k", {"n": 1})
    items = store.use_namespace("langgraph/items/t")
    assert items.get_all() == {"k": {"value": {"n": 1}}}
    items.set("by hand", {"value": {"n": 2}})
    items.set("of another kind", [1])
    assert keys_of(langgraph.search(("t",))) == ["by hand", "k"]
    assert langgraph.get(("t",), "of another kind") is None


def test_round_trips(store: DataStore, server_url: str) -> None:
    langgraph = LangGraphStore(store, embed=by_letters)
    langgraph.put(("t",), "k", {"text": "abc"})
    calls: dict[Callable[[], Any], int] = {
        lambda: langgraph.put(("t",), "k", {"text": "abd"}): 1,
        lambda: langgraph.get(("t",), "k"): 1,
        lambda: langgraph.delete(("t",), "k"): 1,
        lambda: langgraph.batch([PutOp((name,), name, {"text": name}) for name in LETTERS[:8]]): 1,
        lambda: langgraph.search(("a",)): 4,
    }
    for call, most in calls.items():
        with counted_requests(server_url) as count:
            call()
            assert count() <= most


WRITER = """
import sys
from redis_store.integrations.langgraph import LangGraphStore
from tests.integrations.test_langgraph_store import LETTERS, PutOp, by_letters

store = LangGraphStore(sys.argv[1], user=sys.argv[2], embed=by_letters)
number = 0
while True:
    letter = LETTERS[number % 26]
    store.batch([PutOp(("t", f"{n}"), "k", {"text": letter, "n": number, "fill": []}, index=["text"]) for n in range(20)])
    number += 1
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_no_half_of_a_batch(store: DataStore, server_url: str, user: str) -> None:
    run_and_kill(WRITER, server_url, user, lines=20)
    langgraph = LangGraphStore(store, embed=by_letters)
    found = langgraph.search(("t",), limit=100)
    assert len(found) == 20
    assert len({json.dumps(item.value) for item in found}) == 1
    scores = [item.score for item in langgraph.search(("t",), query=found[0].value["text"], limit=100)]
    assert scores == [1] * 20


def test_the_page_is_true(server_url: str) -> None:
    read_page("langgraph.md", server_url)
