"""The two forms of a user's Redis keys: on a cluster with a hash tag, which is found out before the first operation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

import sandbox
from redis_store import (
    AccessDenied,
    Client,
    DataStore,
    InvalidSettings,
    PermissionDenied,
    ServerRefused,
    UnsupportedByServer,
    connect,
    connect_async,
)
from redis_store.changelog.entry import CursorFormat
from redis_store.connections.generation import known_of
from redis_store.namespace.keys import FixedForm, FormUnknown, UserKeys
from tests.support.servers import Server

OpenStore = Callable[..., DataStore]


@pytest.fixture(scope="module")
def cluster(service_of: Callable[[str], Server]) -> Server:
    """A cluster of one node."""
    return service_of("memorydb")


def _keys(server: Server) -> set[str]:
    with server.client() as raw:
        return {key.decode() for key in raw.scan_iter(match="user:*")}


USES: dict[str, Callable[[DataStore], Any]] = {
    "get": lambda store: store.get("k"),
    "set": lambda store: store.set("k", 1),
    "set_many": lambda store: store.set_many({"k": 1}, metadata={"m": 1}),
    "get_all": lambda store: store.get_all(),
    "transaction": lambda store: store.transact(lambda tx: tx.set("k", tx.get("k"))),
    "lock": lambda store: store.lock("one").__enter__().__exit__(None, None, None),
    "get_or_set": lambda store: store.get_or_set("k", lambda: 1, tags=["t"]),
    "invalidate_tag": lambda store: store.invalidate_tag("t"),
    "increment": lambda store: store.increment("n", 1),
    "watch": lambda store: store.watch(consumer="c").close(),
    "wait_for": lambda store: (store.set("k", 1), store.wait_for("k", timeout=20)),
    "view": lambda store: store.use_namespace("other").read_only().list_keys(),
}


@pytest.mark.server
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("near_cache", [False, True])
def test_any_first_use_finds_the_form_out(cluster: Server, user: str, use: str, near_cache: bool) -> None:
    _forget(cluster)
    with connect(cluster.url, user=user, near_cache=near_cache) as store:
        USES[use](store)
        store.set("k", [1])
        assert store.get("k") == [1]
        assert f"user:{{{user}}}:ns:default" in _keys(cluster)
        assert f"user:{user}:ns:default" not in _keys(cluster)


@pytest.mark.server
def test_asyncio_and_many_users(cluster: Server, user: str) -> None:
    _forget(cluster)

    async def use() -> None:
        store = connect_async(cluster.url, user=user)
        async with store.lock("one"), store.transaction() as transaction:
            transaction.set("k", 1)
        assert await asyncio.gather(*(store.get("k") for _ in range(20))) == [1] * 20
        async with store.watch(consumer="c") as watch:
            await store.set("k", 2)
            change = await watch.next_change(20)
            assert change is not None
            assert change.value == 2
        await store.close()

    asyncio.run(use())
    with Client(cluster.url) as client:
        stores = [client.store(user=f"{user}-{number}") for number in range(5)]
        watches = [store.watch() for store in stores]
        for number, store in enumerate(stores):
            store.set("k", number)
        for number, watch in enumerate(watches):
            change = watch.next_change(20)
            assert change is not None
            assert change.value == number
            watch.close()
        assert [store.get("k") for store in stores] == [0, 1, 2, 3, 4]


@pytest.mark.server
def test_threads_that_begin_together(cluster: Server, user: str) -> None:
    _forget(cluster)
    with connect(cluster.url, user=user) as store:
        failures: list[BaseException] = []

        def write(number: int) -> None:
            try:
                store.set(f"key-{number}", number)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(store.get_all()) == 8


def _forget(server: Server) -> None:
    """Have the process look at a server anew."""
    known_of(server.url.partition("@")[2].removesuffix("/0")).tagged = None


def test_hash_tags_on_a_single_server(one_server: Server, user: str, open_store: OpenStore) -> None:
    """Data in the other form is named, whichever it is, and nothing is hidden by an empty namespace."""
    tagged = open_store(one_server.url, user, hash_tags=True)
    tagged.set("k", 1)
    assert f"user:{{{user}}}:ns:default" in _keys(one_server)
    for other in (False, True):
        name = f"{user}-{other}"
        open_store(one_server.url, name, hash_tags=other).set("k", 1)
        fresh = open_store(f"{one_server.url}?client_name={name}", name, hash_tags=not other)
        for _ in range(2):
            with pytest.raises(InvalidSettings, match="has data under") as caught:
                fresh.get("k")
            assert (f"user:{name}:..." in str(caught.value), f"user:{{{name}}}:..." in str(caught.value)) == (
                True,
                True,
            )
        open_store(one_server.url, name, hash_tags=other).clear()
        assert fresh.get("k") is None


def test_cursors_are_the_same_in_both_forms() -> None:
    assert CursorFormat(UserKeys.of("u"), b"n").reset == CursorFormat(UserKeys.of("u", hash_tag=True), b"n").reset


def test_no_key_is_built_in_a_form_that_is_not_known() -> None:
    form = FixedForm(None)
    keys = UserKeys.of("u", form=form)
    own = keys.own("agent")
    with pytest.raises(FormUnknown):
        keys.namespace("n")
    form.tagged = True
    assert keys.namespace("n").data == b"user:{u}:ns:n"
    assert (own.lock(b"l"), own.registry) == (b"user:{u}:own:agent:lock:l", b"user:{u}:namespaces")


@pytest.mark.parametrize("what", ["eval", "xlen"])
def test_a_server_that_cannot_be_used_says_so_at_once(start: Callable[..., Server], user: str, what: str) -> None:
    """Whether it lacks the command or refuses it, also to a read, which would work; each time, until it is allowed."""
    server = start("valkey9", "--rename-command", what.upper(), "", "--rename-command", "EVALSHA", "")
    for use in (lambda store: store.get("k"), lambda store: store.watch()):
        for _ in range(2):
            with connect(server.url, user=user) as store, pytest.raises(UnsupportedByServer, match=f"(?i)no .*{what}"):
                use(store)
    server = start("valkey9")
    with server.client() as raw:
        raw.execute_command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "&*", "+@all", f"-{what}")
        url = server.url.replace("unix://", "unix://weak:pw@")
        with connect(url, user=user) as store:
            with pytest.raises(PermissionDenied, match=f"(?i)no .*{what}"):
                store.get("k")
            raw.execute_command("ACL", "SETUSER", "weak", "+@all")
            assert store.get("k") is None


def test_a_refusal_comes_before_an_unreachable_server(user: str) -> None:
    with connect("redis://127.0.0.1:1", user=user) as store, pytest.raises(AccessDenied):
        store.read_only().set("k", 1)


@pytest.mark.server
def test_a_server_that_became_a_cluster(cluster: Server, user: str) -> None:
    """Its refusal says what to do; nothing is written."""
    _forget(cluster)
    known_of(cluster.url.partition("@")[2].removesuffix("/0")).tagged = False
    with connect(cluster.url, user=user) as store:
        with pytest.raises(ServerRefused, match="is a cluster") as caught:
            store.set("k", 1)
        assert "start the process again" in str(caught.value)
    _forget(cluster)


@pytest.mark.server
def test_agents_on_a_cluster(cluster: Server, user: str, tmp_path: Any) -> None:
    agent = tmp_path / "agent.py"
    agent.write_text("def run(task):\n    data_store.set('k', 1)\n    return data_store.get_all()\n")
    with sandbox.Sandbox(url=cluster.url) as runs:
        assert runs.run(agent, {}, user=user).check() == {"k": 1}
