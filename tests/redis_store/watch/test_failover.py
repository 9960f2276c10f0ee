"""A replica that is behind takes over under the same URL: writes are lost, and every watcher is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.redis_store.watch.conftest import OpenWatchSide, Watcher, said
from tests.support.proxy import proxied
from tests.support.servers import Server, wait_until


@pytest.mark.parametrize("consumer", [None, "c"])
def test_a_replica_that_is_behind_takes_over(
    start: Callable[..., Server], real_server: Server, open_watch_side: OpenWatchSide, consumer: str | None
) -> None:
    primary, replica = (start(real_server.kind, "--repl-diskless-sync-delay", "0", tcp=True) for _ in range(2))
    with proxied(primary) as proxy, proxied(primary) as replication, replica.client() as raw:
        side = open_watch_side(proxy.url, user="u", configure_server=True)
        watch: Watcher = side.watch(consumer=consumer)
        raw.replicaof("127.0.0.1", urlsplit(replication.url).port)
        side.set("kept", 1)
        assert said([watch.next()]) == [("set", "kept", 1)]
        wait_until(lambda: _has(raw, b"kept"), "the replica has it, and the log tells of it")
        replication.close()
        side.set("lost", 2)
        assert said([watch.next()]) == [("set", "lost", 2)]
        primary.kill()
        raw.replicaof("NO", "ONE")
        proxy.lead_to(replica)
        assert said([watch.next(), watch.next()]) == [("reset", None, None), ("set", "kept", 1)]
        side.set("new", 3)
        assert said([watch.next()]) == [("set", "new", 3)]
        assert side.get_all() == {"kept": 1, "new": 3}


def _has(raw: Any, key: bytes) -> bool:
    last = raw.execute_command("XREVRANGE", "user:u:log:default", "+", "-", "COUNT", 1)
    return bool(last) and key in last[0][1]
