"""Operators' operations on a cluster: listings visit every primary, and each change goes to the node that it concerns."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from redis_store import AsyncClient, connect
from redis_store.admin import Admin, AsyncAdmin, KeptRun
from redis_store.brokers import kept_runs
from redis_store.brokers.lease import lease
from redis_store.drivers import listener as listeners
from redis_store.drivers.sync import SyncNodeDriver
from redis_store.errors import ConnectionLost
from redis_store.protocol.call import Op, read
from tests.redis_store.admin.conftest import Ended
from tests.support.clusters import Cluster, slot_of, users_by_node
from tests.support.servers import wait_until

TEXT = "needle"


@pytest.fixture
def cluster(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster without data. Watchers of other tests, whose users have the same names, save their state as they end."""
    wait_until(lambda: not listeners._listeners, "the hubs of other tests end")

    def empty() -> None:
        for node in cluster.primaries:
            node.ask("FLUSHALL")

    empty()
    yield cluster
    empty()


@pytest.fixture
def users(cluster: Cluster) -> list[str]:
    """One user of each primary, and another of the first."""
    first, *others = users_by_node(cluster, 2).values()
    return sorted([*first, *(some[0] for some in others)])


@pytest.fixture(params=["the url of one node", "the url of a cluster"])
def url(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    return cluster.url if request.param == "the url of a cluster" else cluster.plain_url


@pytest.fixture
def admin(url: str, users: list[str]) -> Iterator[Admin]:
    """An `Admin` that has not looked at the cluster, which has data of the users."""
    with connect(url, user=users[0]) as store:
        for user in users:
            other = store if user == users[0] else connect(url, user=user)
            other.set("k", {"text": TEXT, "of": user})
            other.set("expires", 1, ttl=600)
            other.close()
    with Admin(url, operator="tester") as admin:
        yield admin


def test_listings_show_the_users_of_all_nodes(admin: Admin, cluster: Cluster, users: list[str]) -> None:
    assert [each.user for each in admin.list_users()] == users
    assert [each.user for each in admin.list_namespaces()] == users
    assert sorted(hit.user for hit in admin.search(TEXT)) == users
    changes = admin.list_changes(datetime.now(UTC) - timedelta(hours=1))
    assert sorted(change.user for change in changes) == sorted([*users, *users])
    assert sum(each.redis_keys for each in admin.server_stats()) == sum(
        node.ask("DBSIZE") for node in cluster.primaries
    )
    assert len(admin.server_stats()) == 3
    locks = [admin.store(user).lock("l") for user in users]
    for lock in locks:
        lock.acquire()
    assert [each.user for each in admin.list_locks()] == users
    assert all(admin.release_lock(user, "l") for user in users)
    assert admin.list_locks() == []


def test_changes_reach_the_node_of_each_user_and_one_log(admin: Admin, users: list[str]) -> None:
    for user in users:
        admin.set_value(user, "a", "k", user)
        assert admin.clear(user, "a") == 1
        assert admin.undo_clear(user, "a").written == 1
        assert admin.rename_namespace(user, "a", "b") == 1
    assert admin.copy_namespace(users[0], "b", "of-another", users[-1]).written == 1
    assert admin.store(users[-1], "of-another").get("k") == users[0]
    for user in users:
        assert admin.store(user, "b").get("k") == user
        admin.delete_user(user)
    assert admin.list_users() == []
    noted = [(entry.what, entry.user) for entry in admin.iter_audit() if entry.outcome == "done"]
    assert [user for what, user in noted if what == "user delete"] == users


def test_a_user_with_keys_of_the_other_form_is_deleted(admin: Admin, users: list[str], cluster: Cluster) -> None:
    kinds = ("ns:a", "info:a", "namespaces")
    for kind in kinds:
        key = f"user:{users[0]}:{kind}"
        owner = cluster.owner(slot_of(key))
        owner.ask("SADD", key, "a") if kind == "namespaces" else owner.ask("HSET", key, "a", "1")
    admin.delete_user(users[0])
    assert users[0] not in [each.user for each in admin.list_users()]


def test_an_export_comes_back_with_the_same_bytes(
    admin: Admin, users: list[str], server_url: str, cluster: Cluster
) -> None:
    first, second, third = io.BytesIO(), io.BytesIO(), io.BytesIO()
    assert admin.export(first).keys == 2 * len(users)
    with Admin(f"{server_url}?db=9") as single:
        for each in single.list_users():
            single.delete_user(each.user)
        first.seek(0)
        assert single.import_(first).written == 2 * len(users)
        single.export(second)
        for each in single.list_users():
            single.delete_user(each.user)
    for user in users:
        admin.delete_user(user)
    second.seek(0)
    assert admin.import_(second).written == 2 * len(users)
    admin.export(third)
    assert first.getvalue() == second.getvalue() == third.getvalue()


def test_a_login_is_on_every_node(admin: Admin, users: list[str], cluster: Cluster) -> None:
    user = users[-1]

    def nodes_with_it() -> int:
        return sum(f"user {user} " in str(node.ask("ACL", "LIST")) for node in cluster.nodes)

    made = admin.create_login(user)
    assert (made.made, made.has_replicas) == (True, False)
    assert nodes_with_it() == len(cluster.nodes)
    cluster.nodes[-1].ask("ACL", "DELUSER", user)  # as a node that has come since
    new = admin.rotate_login(user)
    assert new is not None
    assert nodes_with_it() == len(cluster.nodes)
    with connect(new.url, user=user) as store, store.watch() as watch:
        store.set("by", "login")
        assert store.update("by", lambda value: f"{value}!") == "login!"
        change = watch.next_change(10)
        assert change is not None
        assert change.key == "by"
    assert admin.remove_login(user)
    assert nodes_with_it() == 0


def test_the_doctor_looks_at_every_node(admin: Admin, users: list[str], cluster: Cluster) -> None:
    for user in users:
        cluster.owner_of(user).ask("SREM", f"user:{{{user}}}:namespaces", "default")
    found = [one for one in admin.doctor(repair=True) if one.check == "registry"]
    assert sorted((str(one.user), one.mended) for one in found) == [(user, True) for user in users]
    assert len(set(admin.doctor())) == len(admin.doctor())


def test_runs_are_kept_on_the_node_of_each_user(admin: Admin, url: str, users: list[str]) -> None:
    with connect(url, user="other") as store:
        for user in users:
            for number in range(3):
                run = KeptRun(f"{user}{number}", "a", datetime.now(UTC), 0.1, "full", "default", "{}", nested=("deep",))
                kept_runs.keep(lease(store, user=user, namespace="default"), run, 2, 2**20, 60_000)
    assert [[one.run for one in admin.list_runs(user)] for user in users] == [
        [f"{user}2", f"{user}1"] for user in users
    ]
    found = [admin.get_run(user, "deep") for user in users]
    assert [one and one.run for one in found] == [f"{user}2" for user in users]
    assert [admin.drop_run(user, f"{user}2") for user in users] == [True] * len(users)


def test_all_of_it_with_asyncio(admin: Admin, url: str, users: list[str]) -> None:
    async def main() -> None:
        async with AsyncClient(url) as client:
            operator = AsyncAdmin(client, operator="tester")
            assert [each.user for each in await operator.list_users()] == users
            assert sorted([hit.user async for hit in operator.search(TEXT)]) == users
            assert len(await operator.server_stats()) == 3
            file = io.BytesIO()
            await operator.export(file)
            await operator.create_login(users[0])
            assert await operator.remove_login(users[0])
            for user in users:
                await operator.delete_user(user)
            file.seek(0)
            assert (await operator.import_(file)).written == 2 * len(users)
            assert "import" in [entry.what async for entry in operator.iter_audit()]

    asyncio.run(main())


def test_a_listing_finds_what_has_just_moved(admin: Admin, users: list[str], cluster: Cluster) -> None:
    assert [each.user for each in admin.list_users()] == users
    target = cluster.move(slot_of(users[0]))
    assert [each.user for each in admin.list_users()] == users
    with cluster.moving(slot_of(users[0]), cluster.others(slot_of(users[0]))[0]) as move_some:
        move_some(1)
        assert [each.user for each in admin.list_users()] == users
    assert target in cluster.primaries


def test_a_listing_does_not_go_on_at_another_node(admin: Admin, cluster: Cluster, users: list[str]) -> None:
    async def scanned_by() -> bytes:
        lines: bytes = await read("INFO", "server")
        return next(line for line in lines.splitlines() if line.startswith(b"tcp_port"))

    drivers = admin._primaries()
    assert sorted(int(driver.run(scanned_by()).split(b":")[1]) for driver in drivers) == sorted(
        node.port for node in cluster.primaries
    )
    victim = next(node for node in cluster.primaries if node is not cluster.nodes[0])  # the plain url names that one
    driver = next(each for each in drivers if int(each.run(scanned_by()).split(b":")[1]) == victim.port)
    assert isinstance(driver, SyncNodeDriver)
    cluster.kill(victim)
    op: Op[bytes] = scanned_by()
    with pytest.raises(ConnectionLost):
        driver.run(op)
    assert [each.user for each in admin.list_users()]  # the next one asks who has the slots now


@pytest.mark.usefixtures("admin")
def test_a_command_on_a_cluster(url: str, users: list[str], run: Callable[..., Ended]) -> None:
    assert [each["user"] for each in run("users", "--json", "--url", url).records] == users


def test_any_command_goes_to_the_node_of_its_key(url: str, cluster: Cluster, run: Callable[..., Ended]) -> None:
    for user in (some[0] for some in users_by_node(cluster).values()):
        key, slot = f"user:{{{user}}}:x", slot_of(user)
        assert run("redis", "--url", url, "SET", key, user).out == "OK\n"
        with cluster.moving(slot, cluster.others(slot)[0]) as move_some:
            move_some(10)
            assert run("redis", "--url", url, "GET", key).out == f"{user}\n"
        assert run("redis", "--url", url, "GET", key).out == f"{user}\n"
