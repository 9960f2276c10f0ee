"""The keys that a full server evicts under each policy, as in `docs/eviction.md`, and the store's warnings about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from redis_store import DataStore, ServerFull, connect_async
from redis_store.connections.sync import HeldConnection
from redis_store.drivers import eviction_warning
from redis_store.errors import ConnectionLost
from redis_store.namespace.keys import UserKeys
from tests.support.servers import REAL_KINDS, Server, wait_until

KEYS = UserKeys.of("alice")
NAMESPACES = [f"ns{number}" for number in range(5)]
ALLKEYS = ("allkeys-lru", "allkeys-lfu", "allkeys-random")
VOLATILE = ("volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl")


@pytest.fixture
def never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction_warning, "_asked", set())


@pytest.fixture(params=REAL_KINDS)
def server(request: pytest.FixtureRequest, start: Callable[..., Server]) -> Server:
    return start(request.param)


@pytest.fixture
def filled(
    server: Server, open_store: Callable[..., DataStore]
) -> Iterator[Callable[[str], tuple[DataStore, redis.Redis]]]:
    """Fill namespaces, some keys with a ttl, a held lock and a tag; then set a policy and leave little memory."""
    clients = []

    def fill(policy: str) -> tuple[DataStore, redis.Redis]:
        raw = server.client()
        clients.append(raw)
        raw.config_set("maxmemory", 0)
        raw.flushall()
        store = open_store(server.url)
        for name in NAMESPACES:
            store.use_namespace(name).set_many({f"k{number}": "x" * 100 for number in range(50)})
            if server.has_ttl:
                store.use_namespace(name).set_many({f"t{number}": "x" * 100 for number in range(50)}, ttl=1000)
        store.lock("held", ttl=1000).acquire()
        store.semaphore("places", 2, ttl=1000).acquire()
        raw.config_set("maxmemory-policy", policy)
        raw.config_set("maxmemory", raw.info("memory")["used_memory"] + 50_000)
        return store, raw

    yield fill
    for client in clients:
        client.close()


def write_until_full(store: DataStore) -> bool:
    """Write more than there is room for; return whether the server refused a write in the end."""
    big = store.use_namespace("big")
    try:
        for number in range(3000):
            big.set(f"key-{number}", "y" * 500)
    except ServerFull:
        return True
    return False


def there(raw: redis.Redis) -> set[str]:
    return {name for name in NAMESPACES if raw.exists(KEYS.data(name.encode()))}


def test_noeviction_refuses_and_keeps_everything(filled: Any) -> None:
    store, raw = filled("noeviction")
    assert write_until_full(store)
    assert there(raw) == set(NAMESPACES)
    assert raw.exists(KEYS.lock(b"held"))


def test_allkeys_evicts_whole_namespaces(filled: Any) -> None:
    for policy in ALLKEYS:
        store, raw = filled(policy)
        write_until_full(store)  # may be refused if even the remaining keys take too much
        assert there(raw) != set(NAMESPACES), policy
        gone = set(NAMESPACES) - there(raw)
        for name in gone:
            assert store.use_namespace(name).get_all() == {}, "as if it had never been"


def test_volatile_evicts_locks_and_keeps_namespaces(filled: Any) -> None:
    """Even namespaces whose keys all have a ttl are kept: the ttl is on the fields, and the policies look at Redis keys."""
    for policy in VOLATILE:
        store, raw = filled(policy)
        assert raw.pttl(KEYS.lock(b"held")) > 0
        assert raw.pttl(KEYS.data(b"ns0")) == -1
        assert write_until_full(store), policy
        assert there(raw) == set(NAMESPACES)
        assert not raw.exists(KEYS.lock(b"held")), policy


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records if "evicts" in record.getMessage()]


@pytest.mark.usefixtures("never_asked")
def test_store_warns_once_about_eviction(
    server: Server, open_store: Callable[..., DataStore], caplog: pytest.LogCaptureFixture, raw_of: Any
) -> None:
    caplog.set_level(logging.INFO, "redis_store")
    raw = raw_of(server)
    raw.config_set("maxmemory-policy", "allkeys-lru")
    raw.config_set("maxmemory", "200mb")
    for _ in range(2):
        store = open_store(server.url)
        store.set("key", 1)
        assert store.get("key") == 1
    [(level, message)] = said(caplog)
    assert level == logging.WARNING
    assert "whole namespaces" in message
    assert "allkeys-lru" in message
    assert "209715200" in message
    assert "noeviction" in message


@pytest.mark.usefixtures("never_asked")
def test_async_store_warns_once_about_eviction(server: Server, caplog: pytest.LogCaptureFixture, raw_of: Any) -> None:
    raw = raw_of(server)
    raw.config_set("maxmemory-policy", "allkeys-random")
    raw.config_set("maxmemory", "200mb")

    async def main() -> None:
        async with connect_async(server.url, user="alice") as store:
            await asyncio.gather(*(store.set(f"key-{number}", 1) for number in range(20)))
            async with asyncio.timeout(20):
                while not said(caplog):
                    assert await store.get("key-1") == 1
        async with connect_async(server.url, user="alice") as store:
            await store.get("key-1")

    asyncio.run(main())
    assert len(said(caplog)) == 1


@pytest.mark.parametrize(
    ("policy", "limit", "level"),
    [("noeviction", "200mb", None), ("allkeys-lru", "0", None), ("volatile-lru", "200mb", logging.INFO)],
)
@pytest.mark.usefixtures("never_asked")
def test_warning_claims_only_what_is_true(
    server: Server,
    open_store: Callable[..., DataStore],
    caplog: pytest.LogCaptureFixture,
    raw_of: Any,
    policy: str,
    limit: str,
    level: int | None,
) -> None:
    caplog.set_level(logging.INFO, "redis_store")
    raw = raw_of(server)
    raw.config_set("maxmemory-policy", policy)
    raw.config_set("maxmemory", limit)
    open_store(server.url).set("key", 1)
    assert [found for found, _ in said(caplog)] == ([] if level is None else [level])


@pytest.mark.usefixtures("never_asked")
def test_server_hiding_its_policy_is_still_used(
    server: Server, open_store: Callable[..., DataStore], caplog: pytest.LogCaptureFixture, raw_of: Any
) -> None:
    raw = raw_of(server)
    raw.config_set("maxmemory-policy", "allkeys-lru")
    raw.config_set("maxmemory", "200mb")
    raw.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-info", "-config")
    url = f"{server.url}?username=limited&password=secret"
    store = open_store(url)
    store.set("key", 1)
    assert store.get("key") == 1

    async def main() -> None:
        eviction_warning._asked.clear()
        async with connect_async(url, user="alice") as store:
            assert await asyncio.gather(*(store.get("key") for _ in range(5))) == [1] * 5
            assert await store.get("key") == 1

    asyncio.run(main())
    assert said(caplog) == []
    assert wait_until(lambda: eviction_warning._asked, "it was asked")


@pytest.mark.usefixtures("never_asked")
def test_connection_broken_at_policy_query_is_harmless(
    server_url: str, user: str, open_store: Callable[..., DataStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = HeldConnection.exchange
    asked = []

    def breaking(self: HeldConnection, commands: Any, repeatable: bool) -> Any:
        if commands[0] == eviction_warning.QUESTION:
            asked.append(self)
            self.busy = True
            raise ConnectionLost("it broke", outcome_unknown=False)
        assert self not in asked, "it is not used again"
        return exchange(self, commands, repeatable)

    monkeypatch.setattr(HeldConnection, "exchange", breaking)
    store = open_store(server_url, user)
    store.set("key", 1)
    assert store.get("key") == 1
    assert len(asked) == 1


@pytest.mark.parametrize(
    "answer", [None, 1, Exception("no"), b"", b"\xff", b"maxmemory:x\r\nmaxmemory_policy:allkeys-lru"]
)
def test_uninformative_policy_replies(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "redis_store")
    eviction_warning.note("redis://host", answer)
    assert caplog.records == []
