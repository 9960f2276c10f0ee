"""A timeout of a call holds although the server hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from redis_store import WaitTimeout
from tests.redis_store.watch.conftest import OpenWatchSide, said
from tests.support.servers import Server

SOON_S = 4.0
"""Less than the store's time-out of 5 s, with which these calls returned."""


@pytest.fixture
def hung(start: Callable[..., Server]) -> Any:
    server = start("redis7")
    yield server
    server.resume()


def _took(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_timeouts_hold_while_the_server_hangs(open_watch_side: OpenWatchSide, hung: Server) -> None:
    side = open_watch_side(hung.url, user="alice")
    side.set("k", 1)
    watch = side.watch(consumer="c")
    side.set("k", 2)
    assert said([watch.next()]) == [("set", "k", 2)]
    hung.pause()

    def wait_in_vain() -> None:
        with pytest.raises(WaitTimeout):
            side.wait_for("absent", timeout=0.1)

    assert _took(lambda: watch.run(watch.watch.next_change(0.1))) < SOON_S
    assert _took(wait_in_vain) < SOON_S  # without an open connection
    hung.resume()
    side.set("k", 3)
    assert said([watch.next()]) == [("set", "k", 3)]
    assert side.wait_for("k", timeout=0) == 3
