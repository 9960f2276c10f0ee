"""The requests that a server gets: each round trip of small requests is one read of its connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis


@contextmanager
def counted_requests(server_url: str) -> Iterator[Callable[[], int]]:
    """Yield a function, for use in the block, that returns how many requests of others the server has read since."""
    with redis.Redis.from_url(server_url) as raw:
        raw.ping()

        def reads() -> int:
            return int(raw.info("stats")["total_reads_processed"])

        before = reads()
        yield lambda: reads() - before - 1
