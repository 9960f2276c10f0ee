"""Calls beside the one that shall time out: on a loaded machine they may be too late too, and are then repeated."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from redis_store import StoreTimeout
from tests.support.servers import DEADLINE_S

T = TypeVar("T")


def in_time(call: Callable[[], T]) -> T:
    """Return what a call returns, of a store whose time-out is so short that it may time out for want of a processor."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        with suppress(StoreTimeout):
            return call()
    return call()


async def in_time_async(call: Callable[[], Awaitable[T]]) -> T:
    """`in_time` for asyncio."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        with suppress(StoreTimeout):
            return await call()
    return await call()
