"""A cluster of three primaries: which node a call goes to, what is kept for each, and what callers see while data moves."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from redis_store import AsyncClient, Client, ConnectionLost, InvalidSettings, ServerRefused, connect, connect_async
from redis_store.connections import resolver
from redis_store.connections.generation import known_of
from redis_store.operations import operations_of
from tests.support.clusters import Cluster, Node, slot_of, users_by_node
from tests.support.servers import Server, wait_until

EVERY = ("url", "plain_url")


def connections_to(node: Node, name: str) -> int:
    with node.client() as raw:
        return sum(client["name"] == name for client in raw.client_list())


@pytest.mark.parametrize("url", EVERY)
def test_each_user_is_at_its_node(cluster: Cluster, user: str, url: str) -> None:
    with Client(getattr(cluster, url)) as client:
        for number in range(20):
            client.store(user=f"{user}-{number}").set_many({"a": number, "b": "x" * 2000})
        for number in range(20):
            store = client.store(user=f"{user}-{number}")
            assert store.get("a") == number
            assert sorted(store.get_all()) == store.list_keys() == ["a", "b"]
            (key,) = (key for key in cluster.owner_of(f"{user}-{number}").ask("KEYS", f"*{user}-{number}}}:ns:*"))
            assert key.endswith(b"ns:default")


@pytest.mark.parametrize("url", EVERY)
def test_an_event_loop_has_two_connections_to_each_node_at_most(cluster: Cluster, user: str, url: str) -> None:
    async def main() -> None:
        async with AsyncClient(f"{getattr(cluster, url)}?client_name={user}") as client:
            stores = [client.store(user=f"{user}-{number}") for number in range(300)]
            await asyncio.gather(*(store.set("a", 1) for store in stores))
            assert await asyncio.gather(*(store.get("a") for store in stores)) == [1] * 300
            counts = [connections_to(node, user) for node in cluster.nodes]
            assert max(counts) <= 2
            assert sum(count > 0 for count in counts) == 3

    asyncio.run(main())


def test_a_bound_holds_for_each_node(cluster: Cluster, user: str) -> None:
    with Client(f"{cluster.url}?client_name={user}", max_connections=1) as client, ExitStack() as stack:
        users = [each for (each,) in users_by_node(cluster).values()]
        threads = [
            threading.Thread(target=lambda each=each: [client.store(user=each).set("a", 1) for _ in range(20)])
            for each in users * 3
        ]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        wait_until(lambda: not any(thread.is_alive() for thread in threads), "every thread has written")
        assert max(connections_to(node, user) for node in cluster.nodes) <= 2  # one more before the nodes were known


def test_every_primary_is_visited(cluster: Cluster, user: str) -> None:
    with connect(cluster.plain_url, user=user) as store:
        store.set("a", 1)
        places = {core.source.resolver.node.port for core in operations_of(store).driver.core.everywhere()}
    assert places == {node.port for node in cluster.primaries}


def write_by_hand(cluster: Cluster, user: str, key: str, value: str) -> None:
    cluster.owner_of(user).ask("HSET", f"user:{{{user}}}:ns:default", key, value)


def test_the_near_cache_drops_what_moved(cluster: Cluster, user: str) -> None:
    with connect(cluster.url, user=user, near_cache=True) as store:
        store.set("a", 1)
        for _ in range(3):
            assert (store.get("a"), store.get("missing")) == (1, None)
        assert store.stats().near_hits > 0
        cluster.move(slot_of(user))
        write_by_hand(cluster, user, "a", "2")
        write_by_hand(cluster, user, "missing", "3")
        assert store.get("a") == 2
        assert store.get("missing") == 3
        hits = store.stats().near_hits
        wait_until(lambda: store.get("a") == 2 and store.stats().near_hits > hits, "the new node answers from memory")


def test_no_store_of_a_process_that_knows_of_a_move_shows_what_was_before(cluster: Cluster, user: str) -> None:
    with Client(cluster.url, near_cache=True) as client:
        one, other = client.store(user=user), client.store(user=user)
        for _ in range(3):
            assert (one.get("a"), other.get("a")) == (None, None)
        cluster.move(slot_of(user))
        write_by_hand(cluster, user, "a", "1")
        one.use_namespace("other").set("b", 2)  # the process learns of the move
        assert (other.get("a"), one.get("a")) == (1, 1)


def test_nothing_is_written_half_while_a_slot_moves(cluster: Cluster, user: str) -> None:
    with (
        connect(cluster.url, user=user) as store,
        store.watch() as watch,
        connect(cluster.url, user=user, timeout=0.5) as hasty,
    ):
        store.set_many({"a": 1, "b": 2})
        assert hasty.get("a") == 1
        assert watch.next_change(5) is not None
        with cluster.moving(slot_of(user), cluster.others(slot_of(user))[0]):
            for write in (
                lambda: hasty.delete_many(["a", "b"]),
                lambda: hasty.set("a", 3),
                lambda: hasty.set_many({"c": "x" * 5000, "d": "y" * 5000}),
            ):
                with pytest.raises(ConnectionLost, match="moving this user's data"):
                    write()
            assert store.get_all() == {"a": 1, "b": 2}
        assert store.delete_many(["a", "b"]) == 2
        assert store.get_all() == {}


@pytest.mark.parametrize("events", ["", "Khgxe"])
def test_a_move_disturbs_no_other_watcher_of_the_node(cluster: Cluster, events: str) -> None:
    for node in cluster.nodes:
        with node.client() as raw:
            raw.config_set("notify-keyspace-events", events)
    one, other = next(iter(users_by_node(cluster, 2).values()))
    with Client(cluster.url) as client:
        moved, still = client.store(user=one, namespace="watched"), client.store(user=other, namespace="watched")
        with moved.watch() as its_changes, still.watch() as changes:
            moved.set_many({"a": 0, "b": 0})
            with cluster.moving(slot_of(one), cluster.others(slot_of(one))[0]) as move_some:
                move_some(2)
                for number in range(20):
                    still.set("a", number)
                    change = changes.next_change(10)
                    assert change is not None
                    assert change.value == number
                    threading.Event().wait(0.02)
            moved.set("a", 1)
            values = []
            while not values or values[-1] != ("a", 1):
                change = its_changes.next_change(10)
                assert change is not None
                values.append((change.key, change.value))
            assert values == [("a", 0), ("b", 0), ("a", 1)]


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_a_watch_that_begins_during_a_move_waits_for_its_end(cluster: Cluster, user: str, where: str) -> None:
    with connect(cluster.url, user=user) as store:
        store.set("a", 1)
        target = cluster.others(slot_of(user))[0]
        found: list[Any] = []

        def watch() -> None:
            with store.watch() as changes:
                found.append("begun")
                found.append(changes.next_change(10).value)

        async def watch_in_loop() -> None:
            async with connect_async(cluster.url, user=user) as own, own.watch() as changes:
                found.append("begun")
                found.append((await changes.next_change(10)).value)

        def in_loop() -> None:
            asyncio.run(watch_in_loop())

        thread = threading.Thread(target=watch if where == "thread" else in_loop)
        with cluster.moving(slot_of(user), target) as move_some:
            move_some(100)
            thread.start()
            thread.join(0.3)
        wait_until(lambda: found, "the watch has begun")
        store.set("a", 2)
        thread.join(10)
        assert found == ["begun", 2]


def test_a_single_server_is_no_cluster(start: Any) -> None:
    single: Server = start("valkey9", tcp=True)
    with (
        connect(single.url.replace("redis://", "redis+cluster://"), user="alice") as store,
        pytest.raises(InvalidSettings, match="is no node of a cluster: write redis:// for a single server"),
    ):
        store.get("a")


def test_a_server_that_was_single_before(cluster: Cluster, user: str) -> None:
    url = f"{cluster.plain_url}/0?client_name=single"
    known = known_of(f"127.0.0.1:{cluster.nodes[0].port}")
    before, known.tagged = known.tagged, False
    resolver._known_logins.add(url)
    try:
        with connect(
            url, user=next(each for each in (f"{user}-{n}" for n in range(99)) if far(cluster, each))
        ) as store:
            with pytest.raises(ServerRefused, match="start the process again"):
                store.get("a")
            with pytest.raises(ServerRefused, match="start the process again"):
                store.set("a", 1)
    finally:
        known.tagged = before


def far(cluster: Cluster, user: str) -> bool:
    """Whether the key without a hash tag is at another node than the first."""
    return cluster.owner(slot_of(f"user:{user}:ns:default")) is not cluster.nodes[0]


def test_a_cluster_that_nobody_reaches(user: str) -> None:
    with (
        connect("redis+cluster://127.0.0.1:1,127.0.0.1:2", user=user) as store,
        pytest.raises(ConnectionLost, match=r"Cannot connect to redis\+cluster://.*announce"),
    ):
        store.get("a")
