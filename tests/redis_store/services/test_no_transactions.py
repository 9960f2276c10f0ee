"""Servers, logins and proxies that refuse `MULTI` or `WATCH`: what needs them says so, and everything else works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import sandbox
from redis_store import DataStore, PermissionDenied, UnsupportedByServer, connect, connect_async
from tests.support.servers import Server

BIG = {"big": "x" * 2000, "bigger": "y" * 2000}
MANY = {f"key-{number}": number for number in range(3000)}

NEEDING: dict[str, tuple[Callable[[DataStore], Any], ...]] = {
    "multi": (
        lambda store: store.set_many({"a": 1, "b": 2}),
        lambda store: store.set_many(BIG),
        lambda store: store.set_many(MANY, metadata={"m": 1}),
    ),
    "watch": (lambda store: store.set_many(MANY, metadata={"m": 1}),),
}
NOT_NEEDING: dict[str, tuple[Callable[[DataStore], Any], ...]] = {
    "multi": (),
    "watch": (lambda store: store.set_many({"a": 1, "b": 2}), lambda store: store.set_many(BIG)),
}


def needs_none(store: DataStore) -> None:
    store.set("key", 1)
    store.set("key", "x" * 300_000)  # goes beside a script where it can
    store.increment("n")
    with store.lock("l"):
        store.delete("n")
    assert store.list_keys() == ["key"]
    store.clear()


def check(store: DataStore, what: str, kind: type[Exception], says: str) -> None:
    needs_none(store)
    for call in NEEDING[what]:
        with pytest.raises(kind, match=says):
            call(store)
        assert store.list_keys() == []
    for call in NOT_NEEDING[what]:
        call(store)


@pytest.mark.parametrize("what", ["multi", "watch"])
def test_a_login_without_it(one_server: Server, user: str, what: str) -> None:
    with one_server.client() as raw:
        raw.execute_command("ACL", "SETUSER", f"no{what}", "on", ">pw", "~*", "&*", "+@all", f"-{what}")
    says = f"access rules do not allow this.*'{what}'.*ask its operator. Nothing was written"
    url = one_server.url.replace("unix://", f"unix://no{what}:pw@")
    with connect(url, user=user) as store:
        check(store, what, PermissionDenied, says)

    async def main() -> None:
        async with connect_async(url, user=user) as store:
            await store.set("key", "x" * 300_000)
            with pytest.raises(PermissionDenied, match=says):
                await store.set_many(MANY, metadata={"m": 1})

    asyncio.run(main())
    with sandbox.Sandbox(url=url) as box:
        result = box.run(AGENT, {}, user=user)
    assert result.output == {"error": "PermissionDenied"}


AGENT = """
def run(input_dict):
    data_store.set("one", 1)
    try:
        data_store.set_many({f"key-{number}": number for number in range(3000)}, metadata={"m": 1})
    except Exception as error:
        return {"error": type(error).__name__}
"""


@pytest.mark.parametrize("what", ["multi", "watch"])
def test_a_server_without_it(start: Callable[..., Server], user: str, what: str) -> None:
    server = start("valkey9", "--rename-command", what.upper(), "")
    with connect(server.url, user=user) as store:
        check(store, what, UnsupportedByServer, f"has no {what.upper()}, which batches and reads of many keys need")


def test_a_server_without_exec_gets_no_call_in_a_transaction(start: Callable[..., Server], user: str) -> None:
    """Such a server queues what follows on the connection, and says so in place of each reply."""
    server = start("valkey9", "--rename-command", "EXEC", "")
    with connect(server.url, user=user) as store, connect(server.url, user=user) as other:
        store.set("key", 1)
        for number in range(3):
            with pytest.raises(UnsupportedByServer, match="has no EXEC"):
                store.set_many({"a": 1, "b": 2})
            assert store.get("key") == 1 + number
            store.set("key", 2 + number)
            assert other.get("key") == 2 + number

    async def main() -> None:
        async with connect_async(server.url, user=user) as store:
            for number in range(3):
                refused, *values = await asyncio.gather(
                    store.set_many({"a": 1, "b": 2}),
                    *(store.get("key") for _ in range(5)),
                    return_exceptions=True,
                )
                assert isinstance(refused, UnsupportedByServer)
                assert set(values) == {4 + number}
                await store.set("key", 5 + number)

    asyncio.run(main())
