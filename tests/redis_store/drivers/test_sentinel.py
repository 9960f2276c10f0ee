"""`redis+sentinel://`: the primary is found, and found again after a failover."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

import sandbox
from redis_store import (
    AuthenticationFailed,
    ConnectionLost,
    DataStoreError,
    InvalidSettings,
    ServerReadOnly,
    StoreUnavailable,
    connect,
    connect_async,
)
from redis_store.brokers.lease import addresses_of
from redis_store.connections import lookout
from redis_store.connections.resolver import SentinelResolver
from redis_store.connections.sentinel import parse_sentinels
from tests.redis_store.drivers.test_tls import Authority
from tests.redis_store.watch.conftest import PATIENCE_S
from tests.support.acknowledged import Acknowledged, check_loss
from tests.support.sentinels import SERVICE, FakeSentinel, Watched, port_of, start_sentinel
from tests.support.servers import Server, free_port, start_server, wait_until


def retried(call: Callable[[], Any], until: Callable[[], bool]) -> list[DataStoreError]:
    """Repeat a call until it succeeds and a condition holds. Return its errors."""
    errors: list[DataStoreError] = []

    def succeeds() -> bool:
        try:
            call()
        except (StoreUnavailable, ServerReadOnly) as error:
            errors.append(error)
            return False
        return until()

    wait_until(succeeds, "a call succeeds after the failover")
    return errors


@pytest.mark.parametrize(("kind", "how"), [("valkey9", "SENTINEL FAILOVER"), ("redis7", "SIGKILL")])
def test_a_failover_under_writers_watchers_and_lock_holders(kind: str, how: str) -> None:
    with Watched(kind, password="secret") as watched, ExitStack() as stack:
        store, other, near = (
            stack.enter_context(connect(watched.url, user="alice", near_cache=near)) for near in (False, False, True)
        )
        lock = stack.enter_context(store.lock("l", ttl=60))
        watch = stack.enter_context(store.watch("watched"))
        store.set("watched", "before")
        assert watch.next_change(PATIENCE_S).value == "before"
        assert near.get("watched") == near.get("watched") == "before"
        former = watched.primary
        with former.client(password="secret") as raw:
            raw.wait(1, 5000)  # what follows is about the failover, and not about what replication loses
        writers = {
            count: stack.enter_context(Acknowledged(watched.url, f"writer-{count}", min_replicas=count, timeout=1))
            for count in (0, 1)
        }
        failing_over = write_meanwhile(watched, lambda: fail_over(watched, how))
        check_loss(writers, lambda: asyncio.run(failing_over), replicas_after=0 if how == "SIGKILL" else 1)

        retried(lambda: store.set("key", "after"), lambda: True)
        retried(lambda: store.set("watched", "after"), lambda: True)
        assert retried(lambda: other.get("key"), lambda: other.get("key") == "after") == []
        assert near.get("watched") == "after"
        changes = [watch.next_change(PATIENCE_S)]
        while changes[-1].value != "after":
            changes.append(watch.next_change(PATIENCE_S))
        assert lock.held
        with pytest.raises(DataStoreError), other.lock("l", timeout=0):
            pass


async def write_meanwhile(watched: Watched, happen: Callable[[], Server]) -> None:
    """Write with asyncio until the first write after a failover is acknowledged."""
    acknowledged = 0
    async with connect_async(watched.url, user="bob") as store:
        await store.set("count", 0)
        failing = asyncio.ensure_future(asyncio.to_thread(happen))
        async with asyncio.timeout(PATIENCE_S):
            while True:
                promoted = failing.done()
                try:
                    await store.increment("count")
                    acknowledged += 1
                    if promoted:
                        break
                except (StoreUnavailable, ServerReadOnly):
                    await asyncio.sleep(0.01)
        assert await failing
        assert await store.get("count") >= 1
    assert acknowledged > 0


def fail_over(watched: Watched, how: str) -> Server:
    """Return the new primary, once all the Sentinels name it and the former one accepts no writes any more."""
    former = watched.primary
    if how == "SIGKILL":
        former.kill()
    else:
        watched.fail_over()
    promoted: Server = wait_until(lambda: watched.primary not in (former, None) and watched.primary, "it is promoted")
    if how != "SIGKILL":
        watched.wait_until_whole()
    return promoted


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Server]]:
    with ExitStack() as stack:
        servers = [start_server("valkey9", tcp=True) for _ in range(2)]
        for each in servers:
            stack.callback(each.stop)
        yield servers


@pytest.fixture
def sentinel(pair: list[Server]) -> Iterator[FakeSentinel]:
    """A Sentinel that names whom the test wants."""
    with FakeSentinel(port_of(pair[0])) as fake:
        yield fake


def url_of(*ports: int, service: str = SERVICE, more: str = "") -> str:
    return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{service}{more}"


def test_connections_to_a_former_primary_are_dropped_by_all_stores(pair: list[Server], sentinel: FakeSentinel) -> None:
    """The former primary goes on answering, as one that the Sentinels cannot reach."""
    for server, value in zip(pair, ("old", "new"), strict=True):
        with connect(server.url, user="alice") as plain:
            plain.set("key", value)
    url = url_of(sentinel.port)
    with connect(url, user="alice") as reader, connect(url, user="alice", near_cache=True) as near:
        assert reader.get("key") == near.get("key") == near.get("key") == "old"
        sentinel.names = port_of(pair[1])
        with connect(url, user="alice") as another:
            assert another.get("key") == "new"
        assert reader.get("key") == near.get("key") == "new"


def test_a_former_primary_is_left_though_nothing_says_that_it_is_one(
    pair: list[Server], sentinel: FakeSentinel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on acknowledging writes, which would be lost."""
    monkeypatch.setattr(lookout, "LOOKOUT_S", 0.02)
    for server, value in zip(pair, ("old", "new"), strict=True):
        with connect(server.url, user="alice") as plain:
            plain.set("key", value)
    url = url_of(sentinel.port)

    async def follow() -> None:
        async with connect_async(url, user="alice") as store:
            assert await store.get("key") == "old"
            sentinel.names = port_of(pair[1])
            async with asyncio.timeout(PATIENCE_S):
                while await store.get("key") != "new":
                    await asyncio.sleep(0.01)

    with connect(url, user="alice") as store:
        assert store.get("key") == "old"
        asyncio.run(follow())
        wait_until(lambda: store.get("key") == "new", "the store goes to the new primary")
        asked = sentinel.asked
        wait_until(lambda: sentinel.asked > asked, "the lookout goes on")
        child = os.fork()
        if child == 0:
            os._exit(0 if lookout._lookouts == {} and store.get("key") == "new" and lookout._lookouts else 1)
        assert os.waitpid(child, 0)[1] == 0, "a forked child begins anew"
    wait_until(lambda: not lookout._lookouts, "it ends with the last store")


def test_a_dead_sentinel_costs_one_search(sentinel: FakeSentinel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "LOOKOUT_S", 1000)
    with closing(SentinelResolver(url_of(free_port(), sentinel.port), None)) as resolver:
        assert resolver.address().options["port"] == sentinel.names
        asked = sentinel.asked
        resolver.address()
        assert sentinel.asked == asked + 1


def test_callers_that_come_during_a_search_share_the_next(
    sentinel: FakeSentinel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "LOOKOUT_S", 1000)
    with closing(SentinelResolver(url_of(sentinel.port), None)) as resolver:
        with resolver._asking:
            threads = [threading.Thread(target=resolver.address) for _ in range(20)]
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= sentinel.asked <= 3


def messages(url: str, kind: type[DataStoreError]) -> list[str]:
    """Return what a thread and asyncio say when they find no primary."""
    with connect(url, user="alice") as store, pytest.raises(kind) as caught:
        store.set("key", 1)

    async def main() -> str:
        async with connect_async(url, user="alice") as store:
            with pytest.raises(kind) as caught:
                await store.set("key", 1)
            assert getattr(caught.value, "outcome_unknown", False) is False
            return str(caught.value)

    return [str(caught.value), asyncio.run(main())]


def test_a_sentinel_that_names_a_dead_primary(sentinel: FakeSentinel) -> None:
    sentinel.names = free_port()
    for message in messages(url_of(sentinel.port), ConnectionLost):
        assert "the primary that they name is not reached" in message
        assert "During a failover try again" in message
        assert str(sentinel.names) not in message, "an agent learns where the server is"
    sentinel.flags = "s_down,o_down,master"
    for message in messages(url_of(sentinel.port), ConnectionLost):
        assert "the primary does not answer the Sentinels" in message


def test_a_sentinel_that_names_a_former_primary(pair: list[Server], sentinel: FakeSentinel) -> None:
    with FakeSentinel(port_of(pair[1])) as stale, pair[1].client() as raw:
        raw.replicaof("127.0.0.1", 1)
        try:
            for message in messages(url_of(stale.port), ConnectionLost):
                assert "the server that they name is a replica now" in message
            with connect(url_of(stale.port, sentinel.port), user="alice") as store:
                store.set("key", 1)
        finally:
            raw.replicaof("NO", "ONE")


def test_an_unknown_service(sentinel: FakeSentinel) -> None:
    for message in messages(url_of(sentinel.port, service="other"), InvalidSettings):
        assert f"127.0.0.1:{sentinel.port} knows no service of this name" in message
        assert "check the hosts and the service in the url" in message


def test_no_sentinel_is_reached() -> None:
    ports = free_port(), free_port()
    for message in messages(url_of(*ports), ConnectionLost):
        assert all(f"127.0.0.1:{port}" in message for port in ports)
        assert "check that the Sentinels run" in message


def test_a_server_in_place_of_a_sentinel(pair: list[Server]) -> None:
    for message in messages(url_of(port_of(pair[0])), InvalidSettings):
        assert f"127.0.0.1:{port_of(pair[0])} is no Sentinel" in message


@pytest.mark.parametrize("kind", ["valkey9", "redis7"])
def test_a_sentinel_in_place_of_a_server(kind: str) -> None:
    with start_sentinel(kind) as url:
        for message in messages(url, InvalidSettings):
            assert "The url names a Sentinel" in message
            assert "redis+sentinel://host:26379/service" in message


def test_the_password_of_the_sentinels(start: Callable[..., Server], pair: list[Server]) -> None:
    # A server with a password, as a Sentinel refuses in the same way.
    port = port_of(start("valkey9", "--requirepass", "p@ss", tcp=True))
    for more in ("", "?sentinel_password=wrong"):
        for message in messages(url_of(port, more=more), AuthenticationFailed):
            assert f"the Sentinel at 127.0.0.1:{port} refuses the login" in message
            assert "sentinel_password" in message
            assert "wrong" not in message
    for message in messages(url_of(port, more="?sentinel_password=p%40ss"), InvalidSettings):
        assert "is no Sentinel" in message


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+sentinel://h", "names no service"),
        ("redis+sentinel://h:1,/service", "without a host"),
        ("redis+sentinel://h/service/prod", "its path is no database"),
        ("redis+sentinel://h/service/0?nonsense=1", "'nonsense' does not exist"),
        ("redis+sentinel://h/service?sentinel_nonsense=1", "'sentinel_nonsense' does not exist"),
        ("redis+sentinel://h/service?ssl_cert_reqs=none", "for rediss:// and valkeys:// urls"),
        ("rediss+sentinel://h/service?ssl_ca_certs=/absent", "ssl_ca_certs cannot be loaded"),
        ("redis+sentinel://h:port/service", "cannot be read"),
    ],
)
def test_urls_that_cannot_be_used(url: str, says: str) -> None:
    for function in (connect, connect_async):
        with pytest.raises(InvalidSettings, match=says):
            function(url, user="alice")


def test_what_a_url_says() -> None:
    url = "valkeys+sentinel://bob:pw@h1,[::1]:7,h3:8/agents/3?sentinel_username=s&sentinel_password=x%26y&socket_timeout=9"
    sentinels = parse_sentinels(url, None)
    assert [(each.options["host"], each.options["port"]) for each in sentinels.addresses] == [
        ("h1", 26379),
        ("::1", 7),
        ("h3", 8),
    ]
    assert {each.options["password"] for each in sentinels.addresses} == {"x&y"}
    assert (sentinels.service, sentinels.database) == ("agents", 3)
    primary = sentinels.server_at("fe80::1", 6380)
    assert (primary.scheme, primary.timeout_s) == ("rediss", 9)
    assert {primary.options[name] for name in ("host", "username", "password")} == {"fe80::1", "bob", "pw"}
    assert primary.shown == sentinels.shown == "valkeys+sentinel://h1,[::1]:7,h3:8/agents/3"
    assert {"h1", "::1", "h3:8"} <= set(addresses_of(url))


def test_sentinels_and_servers_over_tls(start: Callable[..., Server], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    settings = authority.server("127.0.0.1")
    server = start("redis7", tls=settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings["cert-file"], settings["key-file"])
    with FakeSentinel(port_of(server), context) as sentinel:
        url = url_of(sentinel.port, more=f"?ssl_ca_certs={authority.path}").replace("redis+", "rediss+")
        with connect(url, user="alice") as store:
            store.set("key", 1)
        for message in messages(url.partition("?")[0], ConnectionLost):
            assert "is of an authority that is not trusted here" in message
        for message in messages(url_of(sentinel.port), ConnectionLost):
            assert "If its port speaks TLS, write rediss+sentinel://" in message


@pytest.mark.parametrize("broker", ["thread", "process"])
def test_an_agent_does_not_learn_where_the_primary_is(pair: list[Server], sentinel: FakeSentinel, broker: Any) -> None:
    def lose(_: Any) -> None:
        sentinel.names = free_port()
        with pair[0].client() as raw:
            raw.client_kill_filter(_type="normal", skipme=True)

    with sandbox.Sandbox(url=url_of(sentinel.port), tools={"lose": lose}, broker=broker) as box:
        result = box.run(AGENT, {}, user="alice")
    assert result.output["before"] == 1
    assert "No primary of 'agents' is found" in result.output["error"]
    assert not any(str(port) in result.output["error"] for port in (sentinel.port, sentinel.names))


AGENT = """
async def run(input_dict, tools):
    data_store.set("key", 1)
    before = data_store.get("key")
    tools["lose"]({})
    try:
        data_store.set("key", 2)
    except Exception as error:
        return {"before": before, "error": str(error)}
"""
