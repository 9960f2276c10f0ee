"""Each kind of call once on a cluster, by a thread, a task and an agent. `make cluster` runs the whole contract suite there."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

import sandbox
from redis_store import Client, connect_async
from tests.support.clusters import Cluster

CALLS = """
def use(data_store):
    data_store.set("key", {"n": 1}, metadata={"m": 1})
    found = {"key": data_store.get("key"), "metadata": data_store.info("key").metadata, "missing": data_store.get("absent")}
    data_store.set_many({"a": 1, "b": 2, "big": "x" * 2000, "bigger": "y" * 2000})
    data_store.set("long", "z" * 300_000)
    found["many"] = data_store.get_many(["a", "b", "absent"])
    found["n"] = [data_store.increment("n"), data_store.update("n", lambda n: n + 1)]
    data_store.append("list", 1)
    found["set"] = [data_store.set_if_absent("a", 2), data_store.compare_and_set("a", 1, 3), data_store.rename("a", "c")]
    with data_store.transaction() as changes:
        changes.set("c", 4)
        changes.delete("b")
    with data_store.lock("l"), data_store.semaphore("s", 2):
        found["pop"] = data_store.pop("c")
    data_store.rate_limit("r", 5, per=1).acquire()
    found["computed"] = data_store.get_or_set("computed", lambda: 5, tags=["t"])
    found["invalidated"] = data_store.invalidate_tag("t")
    data_store.set("short", 1, ttl=100)
    found["keys"] = [data_store.list_keys(), sorted(data_store.iter_keys("b")), data_store.delete_many(["big", "absent"])]
    other = data_store.use_namespace("other", max_keys=2)
    other.set_many({"x": 1})
    found["others"] = [data_store.list_namespaces(), other.get_all(), other.clear(), data_store.list_namespaces()]
    with data_store.watch("watched") as watch:
        data_store.set("watched", 6)
        found["told"] = watch.next_change(10).value
    found["waited"] = data_store.wait_for("watched", timeout=5)
    return found

def run(input_dict):
    return use(data_store)
"""

EXPECTED: dict[str, Any] = {
    "key": {"n": 1},
    "metadata": {"m": 1},
    "missing": None,
    "many": {"a": 1, "b": 2},
    "n": [1, 2],
    "set": [False, True, True],
    "pop": 4,
    "computed": 5,
    "invalidated": 1,
    "keys": [["big", "bigger", "key", "list", "long", "n", "short"], ["big", "bigger"], 1],
    "others": [["default", "other"], {"x": 1}, 1, ["default"]],
    "told": 6,
    "waited": 6,
}


@pytest.mark.parametrize("url", ["url", "plain_url"])
def test_each_kind_of_call(cluster: Cluster, user: str, url: str) -> None:
    names: dict[str, Any] = {}
    exec(CALLS, names)
    users = {}  # one of each node
    for number in itertools.count():
        users.setdefault(cluster.owner_of(f"{user}-{number}").port, f"{user}-{number}")
        if len(users) == 3:
            break
    with Client(getattr(cluster, url), near_cache=True) as client, sandbox.Sandbox(client=client) as box:
        for each in users.values():
            assert names["use"](client.store(user=each)) == EXPECTED
        assert box.run(CALLS, {}, user=f"{user}-agent").check() == EXPECTED


def test_each_kind_of_call_by_tasks(cluster: Cluster, user: str) -> None:
    async def main() -> None:
        async with connect_async(cluster.url, user=user) as store:
            await store.set("key", 1)
            await store.set_many({"big": "x" * 2000, "bigger": "y" * 2000})
            await store.set_many({"m": 1}, metadata={"a": 1})
            async with store.transaction() as changes:
                changes.set("t", 2)
            async with store.lock("l"), store.watch("w") as watch:
                assert await store.increment("n") == 1
                await store.set("w", 3)
                assert (await watch.next_change(10)).value == 3
            assert await store.get_or_set("c", lambda: 4) == 4
            assert await store.list_keys() == ["big", "bigger", "c", "key", "m", "n", "t", "w"]
            assert await store.clear() == 8

    asyncio.run(main())
