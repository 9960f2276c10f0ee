"""Reads of values with their infos: round trips, and bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_store import LimitExceeded, connect
from redis_store.brokers.lease import lease
from tests.support.brokered_side import brokered
from tests.support.servers import Server


def test_one_round_trip(one_server: Server, user: str) -> None:
    with connect(one_server.url, user=user) as store, one_server.client() as raw:
        store.set_many({f"k{number}": number for number in range(200)})
        store.get_all(info=True)

        def requests(call: Callable[[], Any]) -> int:
            """The scripts by digest and the transactions that a call sends."""
            raw.config_resetstat()
            call()
            stats = raw.info("commandstats")
            return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "exec"))

        assert requests(lambda: store.get_many([f"k{number}" for number in range(200)], info=True)) == 1
        assert requests(lambda: store.get_all(info=True)) == 1
        list(store.iter_items(info=True))  # the server's first sight of the scripts
        assert requests(lambda: list(store.iter_items(info=True))) == 2, "the size of the pages, and a page"


def test_infos_count_in_the_bounds_of_an_agents_reads(one_server: Server, user: str) -> None:
    """The metadata of many keys may be longer than their values."""
    with connect(one_server.url, user=user) as store:
        store.set_many({f"k{number}": 1 for number in range(900)}, {"m": "x" * 60_000})
        with (
            lease(store, user=user, namespace="default", max_read_bytes=48 * 1024 * 1024) as lent,
            brokered(lent) as made,
        ):
            with pytest.raises(LimitExceeded, match="read in parts"):
                made.store.get_many([f"k{number}" for number in range(900)], info=True)
            with pytest.raises(LimitExceeded, match="read in parts"):
                made.store.get_all(info=True)
            assert len(dict(made.store.iter_items(info=True))) == 900
