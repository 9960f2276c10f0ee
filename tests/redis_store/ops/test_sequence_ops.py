"""Sequences: rights, watchers, concurrency and round trips."""

from __future__ import annotations

import pytest

from redis_store import AccessDenied, connect
from redis_store.brokers.lease import lease
from redis_store.namespace.access import Access
from sandbox.permissions import Permissions
from tests.support.brokered_side import FakeTree, brokered
from tests.support.servers import Server
from tests.support.threads import all_at_once


def key(position: int) -> str:
    return f"{position:016}"


def test_concurrent_appends_and_pops(one_server: Server, user: str) -> None:
    with connect(one_server.url, user=user) as store:
        log = store.sequence("log")
        ends = all_at_once([lambda: [log.append(1, 2) for _ in range(20)]] * 4)
        assert sorted(end for part in ends for end in part) == list(range(2, 162, 2))
        assert log.range() == [1, 2] * 80
        popped = all_at_once([lambda: [log.pop() for _ in range(20)]] * 4)
        assert (len(log), sum(map(len, popped))) == (80, 80)


def test_rights_for_a_sequence(one_server: Server, user: str) -> None:
    with connect(one_server.url, user=user) as store:
        store.sequence("log").append(1)
        for handle in (store.read_only(), store.restricted(read=["log"])):
            with pytest.raises(AccessDenied):
                handle.sequence("log").append(2)
            with pytest.raises(AccessDenied):
                handle.sequence("log").pop()
            assert handle.sequence("log").last(1) == [1]
        with pytest.raises(AccessDenied):
            store.restricted(namespaces=["other"]).sequence("log").last(1)
        granted = Permissions(operations=["sequence_append"]).granted({})
        with (
            lease(store, user=user, namespace="default", access=Access.of(namespaces=["log"])) as lent,
            brokered(lent, FakeTree(store, granted)) as made,
        ):
            assert made.store.sequence("log").append(2) == 2
            for call in (
                lambda: made.store.sequence("log", max_items=1).append(3),
                lambda: made.store.sequence("log").pop(),
                lambda: made.store.sequence("log").last(1),
            ):
                with pytest.raises(AccessDenied):
                    call()
        assert list(store.sequence("log")) == [1, 2]


def test_watchers_of_a_sequence(one_server: Server, user: str) -> None:
    with connect(one_server.url, user=user) as store, store.use_namespace("log").watch() as changes:
        log = store.sequence("log", max_items=2)
        log.append(1, 2)
        log.append(3)
        log.pop()
        seen = [changes.next_change(5) for _ in range(5)]
        assert [(change.op, change.key, change.value) for change in seen] == [
            *(("set", key(0), 1), ("set", key(1), 2), ("set", key(2), 3)),
            *(("delete", key(0), None), ("delete", key(2), None)),
        ]


def test_one_round_trip_each(one_server: Server, user: str) -> None:
    with connect(one_server.url, user=user) as store, one_server.client() as raw:
        log = store.sequence("log")
        log.append(*range(1000))
        log.last(1)
        raw.config_resetstat()
        log.append(1, 2, 3, 4, 5)
        assert log.last(50) == [*range(955, 1000), 1, 2, 3, 4, 5]
        assert raw.info("commandstats")["cmdstat_evalsha"]["calls"] == 2
        assert not {"cmdstat_hgetall", "cmdstat_hkeys", "cmdstat_eval"} & raw.info("commandstats").keys()
