"""The mark of the format version: the first writer of a user writes it, a later version raises it, an older one refuses it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

import sandbox
from redis_store import Client, DataStore, UnsupportedEncoding, connect, connect_async
from redis_store.namespace import format as formats
from redis_store.namespace.keys import PLAIN, UserKeys
from redis_store.ops import first_look
from redis_store.server import destroy
from tests.support.servers import Server, wait_until

OpenStore = Callable[..., DataStore]

NEWER = b'{"format":7,"read_since":"3.2.1"}'

WRITES: dict[str, Callable[[DataStore], Any]] = {
    "set": lambda store: store.set("k", 1),
    "with metadata": lambda store: store.set("k", 1, metadata={"m": 1}),
    "set_many": lambda store: store.set_many({"k": 1, "l": 2}),
    "big values": lambda store: store.set_many({"k": "x" * 2000, "l": "x" * 2000}),
    "one big value": lambda store: store.set("k", "x" * 300_000),
    "set_if_absent": lambda store: store.set_if_absent("k", 1),
    "increment": lambda store: store.increment("k"),
    "append": lambda store: store.append("k", 1),
    "transaction": lambda store: store.transact(lambda tx: tx.set("k", 1)),
    "get_or_set": lambda store: store.get_or_set("k", lambda: 1, tags=["t"]),
    "bounded": lambda store: store.use_namespace("bounded", max_keys=2).set("k", 1),
}

REMOVALS: dict[str, Callable[[DataStore], Any]] = {
    "clear": lambda store: store.clear(),
    "delete": lambda store: store.delete("k"),
    "pop": lambda store: store.pop("k"),
    "rename": lambda store: (store.rename("k", "l"), store.delete("l")),
}


@pytest.fixture
def raw(one_server: Server, raw_of: Callable[..., redis.Redis]) -> redis.Redis:
    return raw_of(one_server)


def key_of(user: str) -> str:
    return UserKeys.of(user, form=PLAIN).format_in(False).decode()


@pytest.mark.parametrize("write", WRITES)
def test_the_first_writer_writes_the_mark(
    write: str, one_server: Server, raw: redis.Redis, user: str, open_store: OpenStore
) -> None:
    store = open_store(one_server.url, user)
    assert store.get("k") is None
    assert store.list_namespaces() == []
    assert raw.get(key_of(user)) is None
    WRITES[write](store)
    assert raw.get(key_of(user)) == formats.mark()


@pytest.mark.parametrize("removal", REMOVALS)
def test_the_mark_goes_with_the_last_key(
    removal: str, one_server: Server, raw: redis.Redis, user: str, open_store: OpenStore
) -> None:
    store = open_store(one_server.url, user)
    other = store.use_namespace("other")
    store.set("k", 1)
    other.set("k", 1)
    REMOVALS[removal](store)
    assert raw.get(key_of(user)) == formats.mark()
    REMOVALS[removal](other)
    assert raw.get(key_of(user)) is None
    store.set("k", 1)
    assert raw.get(key_of(user)) == formats.mark()


def test_the_mark_goes_when_the_last_key_has_expired(
    one_server: Server, raw: redis.Redis, user: str, open_store: OpenStore
) -> None:
    store = open_store(one_server.url, user)
    store.set("k", 1, ttl=0.01)
    wait_until(lambda: store.list_namespaces() == [] and raw.get(key_of(user)) is None, "it has expired")


def test_a_newer_format_is_refused(one_server: Server, raw: redis.Redis, user: str, tmp_path: Path) -> None:
    """By each side, to reads and writes, also for a later user of a client that works; the version that can read it is named."""
    uses: list[Callable[[DataStore], Any]] = [
        lambda store: store.get("k"),
        lambda store: store.set("k", 2),
        lambda store: store.get_all(),
        lambda store: store.list_namespaces(),
        lambda store: store.watch().next_change(0),
        lambda store: store.lock("l").__enter__(),
    ]
    users = (f"{user}-{number}" for number in itertools.count())

    def newer() -> str:
        name = next(users)
        raw.set(key_of(name), NEWER)
        raw.hset(f"user:{name}:ns:default", "k", "1")
        return name

    with Client(one_server.url) as client, Client(one_server.url, near_cache=True) as near:
        client.store(user=user).set("k", 1)
        for use, each in itertools.product(uses, (client, near)):
            name = newer()
            for _ in range(2):
                with pytest.raises(UnsupportedEncoding, match=r"format 7.*up to 2.*3\.2\.1 or later"):
                    use(each.store(user=name))
            assert raw.hgetall(f"user:{name}:ns:default") == {b"k": b"1"}
        assert client.store(user=user).get("k") == 1

    async def main() -> None:
        async with connect_async(one_server.url, user=newer()) as store:
            with pytest.raises(UnsupportedEncoding, match=r"3\.2\.1 or later"):
                await store.get("k")

    asyncio.run(main())
    agent = tmp_path / "agent.py"
    agent.write_text("def run(task):\n    return {'got': data_store.get('k')}\n")
    with sandbox.Sandbox(url=one_server.url) as runs:
        error = runs.run(agent, {}, user=newer()).error
        assert error is not None
        assert "3.2.1 or later" in str(error)


@pytest.mark.server
def test_the_embedded_server_is_looked_at_too(tmp_path: Path, user: str) -> None:
    try:
        with connect(user=user, data_dir=tmp_path) as store, redis.Redis.from_url(store._operations.url) as raw:
            store.set("k", 1)
            raw.set(key_of(f"{user}-2"), NEWER)
            with connect(user=f"{user}-2", data_dir=tmp_path) as other, pytest.raises(UnsupportedEncoding):
                other.get("k")
    finally:
        destroy(tmp_path, force=True)


def test_a_mark_that_cannot_be_read_is_refused(
    one_server: Server, raw: redis.Redis, user: str, open_store: OpenStore
) -> None:
    raw.set(key_of(user), "two")
    with pytest.raises(UnsupportedEncoding, match=r"cannot be read.*by hand or by a later version"):
        open_store(one_server.url, user).get("k")
    raw.delete(key_of(user))
    assert open_store(one_server.url, user).get("k") is None


def test_a_later_version_raises_the_mark_of_data_and_never_lowers_it(
    one_server: Server, raw: redis.Redis, user: str, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(one_server.url, user).set("k", 1)
    empty, unmarked = f"{user}-empty", f"{user}-unmarked"
    open_store(one_server.url, unmarked).set("k", 1)
    raw.delete(key_of(unmarked))
    for module in (formats, first_look):
        monkeypatch.setattr(module, "DATA_FORMAT", 7)
    monkeypatch.setattr(formats, "READ_SINCE", "3.2.1")
    url = f"{one_server.url}?client_name=later"
    for name in (user, empty, unmarked):
        open_store(url, name).get("k")
    assert [raw.get(key_of(name)) for name in (user, empty, unmarked)] == [NEWER, None, NEWER]
    monkeypatch.undo()
    store = open_store(one_server.url, user)  # it has looked before, as a process that goes on running
    store.use_namespace("new").set("k", 1)
    assert raw.get(key_of(user)) == NEWER
