"""The agent's store in the test's own process, behind a real broker and its socket.

A test's functions run in it as an agent's functions would; into a real sandbox they could not be passed.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import sandbox
from redis_store import DataStore
from redis_store.brokers.watches import NamespaceBudget
from sandbox.child.channels import DataChannel
from sandbox.child.store.operations import ChannelOperations
from sandbox.host.broker import Broker
from sandbox.host.held import Held
from sandbox.permissions import Granted
from sandbox.record.timeline import Timeline, Who
from sandbox.running.pace import Pace
from sandbox.running.quota import Quota
from tests.support.sides import SyncSide

PATIENCE_S = 20.0


class FakeTree:
    """The part of a `Tree` that a broker uses, with its counts."""

    def __init__(self, store: Any = None, granted: Granted | None = None, limits: sandbox.Limits | None = None) -> None:
        self.given = SimpleNamespace(limits=limits or sandbox.Limits())
        self.granted = granted or Granted()
        self.timeline = Timeline(10_000)
        self.quota = Quota(self.granted)
        self.pace = Pace()
        self.operations = itertools.count()
        self.written = 0
        self.charged: set[str] = set()
        self.watched = NamespaceBudget(1000)

    def spend_operation(self) -> None:
        next(self.operations)

    def spend_written(self, size: int) -> None:
        self.written += size

    def uncharged(self, namespaces: Iterable[str]) -> list[str]:
        return [name for name in namespaces if name not in self.charged]

    def note_charged(self, namespaces: Sequence[str]) -> None:
        self.charged.update(namespaces)


class Brokered:
    """A broker in a thread, and the store that an agent would have at the other end."""

    def __init__(self, store: DataStore, tree: FakeTree | None = None) -> None:
        limits = sandbox.Limits()
        self.tree = tree or FakeTree(store)
        self._theirs, self._ours = socket.socketpair()
        self.broker = Broker(self._theirs, store.as_json_text(), Who("tester", "run"), self.tree)  # type: ignore[arg-type]
        self.ended_with: Any = None
        self._thread = threading.Thread(target=self._serve, name="brokered", daemon=True)
        self._thread.start()
        self.channel = DataChannel(self._ours, limits.frame_bytes)
        waits: Any = SimpleNamespace(tell_refused=lambda *refused: None)  # nothing waits here
        operations: Any = ChannelOperations(self.channel, waits, store.user, store.namespace)
        self.store = DataStore(operations)

    @property
    def held(self) -> Held:
        """The holdings that the broker would release at the end."""
        return self.broker.held

    def operations(self) -> list[str]:
        """The names of the operations that the broker received, in order."""
        return [one.operation for one in self.tree.timeline.operations()]

    def close(self) -> None:
        self.channel.close()
        self._thread.join(PATIENCE_S)
        self._theirs.close()
        assert not self._thread.is_alive(), "the broker did not end"

    def _serve(self) -> None:
        self.ended_with = self.broker.serve()


@contextmanager
def brokered(store: DataStore, tree: FakeTree | None = None) -> Iterator[Brokered]:
    """Serve a store to an agent in this process."""
    made = Brokered(store, tree)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def blocking(store: DataStore, side: str) -> Iterator[Any]:
    """Yield the store itself, or with ``brokered`` the store that an agent would get."""
    if side != "brokered":
        yield store
        return
    with brokered(store) as made:
        yield made.store


class BrokeredSide(SyncSide):
    """The agent's store, with the test's own functions."""

    name = "brokered"

    def use_namespace(self, name: str, ttl: Any = None) -> BrokeredSide:
        return BrokeredSide(self.store.use_namespace(name, ttl))
