"""Writers that remember what was acknowledged, so that a test can count what a failover has lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from redis_store import ServerReadOnly, StoreUnavailable, connect
from tests.support.servers import wait_until

_SOME = 20


class Acknowledged:
    """A thread that sets one key after the other. A context manager."""

    def __init__(self, url: str, user: str, **options: Any) -> None:
        self._store = connect(url, user=user, **options)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.keys: list[str] = []
        """The keys that were acknowledged."""

    def _write(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            try:
                self._store.set(f"key-{number}", number)
            except (StoreUnavailable, ServerReadOnly):
                continue
            self.keys.append(f"key-{number}")

    def go_on(self) -> int:
        """Wait until more writes are acknowledged. Return how many were before."""
        before = len(self.keys)
        wait_until(lambda: len(self.keys) > before + _SOME, "writes are acknowledged")
        return before

    def lost(self) -> list[int]:
        """End, and return the places among the acknowledged writes of those that are not there."""
        self._over.set()
        self._thread.join()
        there = set(self._store.list_keys())
        return [place for place, key in enumerate(self.keys) if key not in there]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._store.close()


def check_loss(writers: dict[int, Acknowledged], happen: Callable[[], object], replicas_after: int) -> None:
    """Count what is lost in a failover, by `min_replicas` of the writers, while they write.

    Asynchronous replication loses the last writes that the former primary has acknowledged, and no others. Nothing is lost of
    what a replica had to confirm. Writers that need more replicas than there are afterwards do not go on.
    """
    for writer in writers.values():
        writer.go_on()
    happen()
    after = {count: writer.go_on() for count, writer in writers.items() if count <= replicas_after}
    for count, writer in writers.items():
        lost = writer.lost()
        print(f"min_replicas={count}: of {len(writer.keys)} acknowledged writes, the failover lost {len(lost)}")
        assert not (lost and count), "a replica had them"
        assert not lost or lost == list(range(lost[0], lost[-1] + 1)), "others than the last ones"
        assert not lost or lost[-1] < after[count], "the new primary has lost some"
