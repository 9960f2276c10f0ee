"""An agent's watches and waits, each in its own thread, so that none stalls the calls of the store.

Changes are sent on request, so that those for a slow agent stay in the bounded queue of its watch. Big answers are sent one
at a time: the next is sent, and for a wait also read, when the agent has received the one before.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeVar

from redis_store import Change, DataStore, Watch
from redis_store.brokers.usage import listed_name
from redis_store.brokers.watches import NamespaceBudget, wait_in_turn, watch_all_within, watch_within
from redis_store.errors import DataStoreError, LimitExceeded, StoreClosed
from redis_store.namespace.keys import MAX_AGENT_BYTES, encode_key, encode_prefix
from redis_store.values import rules
from redis_store.values.count import has_more_values
from sandbox.host.broker import error_parts
from sandbox.host.outbox import Outbox
from sandbox.protocol.arguments import size_of
from sandbox.protocol.charges import HELD_BYTES
from sandbox.protocol.frames import FrameError, Part
from sandbox.record.timeline import Begun, Who
from sandbox.running.tree import Tree

logger = logging.getLogger("sandbox")

MOST_WATCHES = 32
"""Limit of one process's open watches."""

MOST_NAMESPACES = 2000
"""Limit of the namespaces that one process's watches and waits follow together; each takes at least 6 KB in the host."""

MAX_SINCE_BYTES = 4 * 1024 * 1024
"""Limit of the cursors that a watch resumes from, as JSON text; an open watch keeps them."""

MOST_WAITS = 64
"""Limit of one process's concurrent waits."""

_INSTEAD = {
    "watches": "follow many namespaces with one watch_all(prefix=)",
    "waits": "follow many keys with one watch(prefix=)",
}

_CHANGES_PER_ANSWER = 64
_BIG_ANSWER_BYTES = 1024 * 1024


class WatchHost:
    """The watches and waits of one process.

    `store` returns values as JSON text and is bound to the user and the rights of the run.
    """

    def __init__(self, tree: Tree, who: Who, store: DataStore, outbox: Outbox, hidden: tuple[str, ...] = ()) -> None:
        self._tree = tree
        self._who = who
        self._store = store
        self._outbox = outbox
        self._hidden = hidden
        self._watches: dict[int, _OpenWatch] = {}
        self._waits: dict[int, _Wait] = {}
        self._threads: set[threading.Thread] = set()
        self.budget = NamespaceBudget(MOST_NAMESPACES, tree.watched)
        """The namespaces that this process's watches and waits may follow."""
        self.turn = threading.RLock()
        """Held while a big answer is read and until it has been sent, so that there is only one at a time."""

    @property
    def under_way(self) -> int:
        """Number of messages that may still be sent for open watches and waits."""
        return len(self._watches) + len(self._waits)

    @property
    def is_full(self) -> bool:
        """Whether too many threads of closed watches have not ended yet, because the agent does not receive their answers."""
        return len(self._threads) > MOST_WATCHES + MOST_WAITS

    def heard(self, kind: str, parts: list[Any]) -> None:
        """Handle a message from the agent; raises `FrameError` for one that breaks the protocol."""
        number = parts[0]
        if kind == "unwatch":
            ended = self._watches.pop(number, None) or self._waits.get(number)
            if ended is not None:
                ended.close()
            return
        self._tree.spend_operation()
        if kind == "watch":
            asked = _Asked(*parts[1:])
            self._begin(_OpenWatch(self, self._store, number, asked), self._watches, MOST_WATCHES, "watches")
        elif kind == "next":
            watch = self._watches.get(parts[1])
            if watch is None:
                self.refuse(number, StoreClosed("The watch is closed."))
            else:
                watch.ask(number, parts[2])
        else:
            self._begin(_Wait(self, self._store, *parts), self._waits, MOST_WAITS, "waits")

    def close(self) -> None:
        """End all watches."""
        for watch in list(self._watches.values()):
            watch.close()

    def join(self, timeout_s: float) -> None:
        """Wait for the threads to end; their store must be closed already."""
        deadline = time.monotonic() + timeout_s
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def answer_in_turn(self, kind: str, number: int, size: int, *parts: Part) -> None:
        """Send an answer with values; if it is big, wait until it has been sent or the run is over."""
        message = [kind, number, *parts]
        if size < _BIG_ANSWER_BYTES:
            self._outbox.post(message)
            return
        with self.turn:
            sent = self._outbox.post(message, awaited=True)
            if sent is not None:
                sent.wait()

    def opened(self, number: int) -> None:
        """Tell the agent that a watch is open."""
        self._outbox.post(["changes", number])

    def refuse(self, number: int, error: DataStoreError) -> None:
        """Send an error."""
        self._outbox.post(["refused", number, *error_parts(error, self._hidden)[1:]])

    def list_watched(self) -> None:
        """List the namespaces that the watches have begun to follow, for the quota."""
        self._tree.quota.flush(self._store)

    def note(self, begun: Begun, operation: str, namespace: str, key: str | None, **facts: Any) -> None:
        """Add a line to the timeline."""
        self._tree.timeline.note_operation(self._who, begun, operation, namespace, key, **facts)

    def budget_of_consumer(self) -> NamespaceBudget:
        """Return a part of the budget in which the cursors of a consumer are counted too."""
        return NamespaceBudget(MOST_NAMESPACES, self.budget, self._tree.spend_cursors)

    def start(self, work: Callable[[], None], number: int) -> None:
        """Run `work` in its own thread; raises `LimitExceeded` if the system has no more threads."""

        def run() -> None:
            try:
                work()
            finally:
                self._threads.discard(thread)
                self._outbox.wake()  # messages held back because of `is_full` can be read

        thread = threading.Thread(target=run, name=f"sandbox-watch-{self._who.run}-{number}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            self._threads.discard(thread)
            raise LimitExceeded(
                "The host has no threads left for watches and waits: close some, or follow many namespaces with one"
                " watch_all(prefix=).",
                limit="threads",
            ) from None

    def _begin(self, one: _W, others: dict[int, _W], most: int, what: str) -> None:
        """Start a watch or a wait in its own thread, or refuse it."""
        if one.number in others:
            raise FrameError(f"two {what} under one number")

        def work() -> None:
            begun = Begun()
            try:
                try:
                    one.work()
                finally:
                    if others.get(one.number) is one:
                        del others[one.number]
            except DataStoreError as error:
                self.note(begun, *one.seen, error=type(error).__name__)
                self.refuse(one.number, error)
            except Exception as error:  # the agent waits for an answer
                logger.exception("a watch or a wait of an agent failed")
                self.note(begun, *one.seen, error=type(error).__name__)
                self.refuse(one.number, DataStoreError(f"The host cannot serve this call ({type(error).__name__})."))

        try:
            self._tree.granted.check(one.seen.operation)
            one.check()
            self._tree.spend_written(one.noted_bytes)
            quota = self._tree.quota
            quota.settle(quota.check(one.noted_bytes, self._store, one.listed() if quota.is_set else ()))
            if len(others) >= most:
                raise LimitExceeded(
                    f"This agent has {len(others)} open {what}, and at most {most} are allowed at once: close some, or"
                    f" {_INSTEAD[what]}.",
                    limit=what,
                    limit_count=most,
                    size_bytes=len(others) + 1,
                )
            others[one.number] = one
            self.start(work, one.number)
        except DataStoreError as error:
            others.pop(one.number, None)
            self.refuse(one.number, error)


class _Seen(NamedTuple):
    """What the timeline says about a watch or a wait."""

    operation: str
    namespace: str
    key: str | None


class _Working(Protocol):
    """A watch or a wait."""

    number: int
    seen: _Seen
    noted_bytes: int
    """The charge for what it stores beside the change logs."""

    def check(self) -> None: ...
    def listed(self) -> list[bytes]: ...
    def work(self) -> None: ...


_W = TypeVar("_W", bound=_Working)


class _Wait:
    """One wait for a key."""

    def __init__(
        self, host: WatchHost, store: DataStore, number: int, namespace: str, key: str, timeout_s: float | None
    ) -> None:
        self._host = host
        self._store = store
        self._key = key
        self._timeout_s = timeout_s
        self._end: Callable[[], None] | None = None
        self._given_up = False
        self.number = number
        self.seen = _Seen("wait_for", namespace, key)
        self.noted_bytes = 0

    def check(self) -> None:
        """Raise the store's error for a key that is none, so that it is not kept."""
        encode_key(self._key)

    def listed(self) -> list[bytes]:
        """Return nothing: the namespace is counted when it is followed."""
        return []

    def work(self) -> None:
        """Wait, and send the value."""
        begun = Begun()

        def answer(text: Any) -> bool:
            self._host.note(begun, *self.seen, keys=1, hit=True, size=len(text), value=text)
            self._host.answer_in_turn("value", self.number, len(text), text)
            return True

        there = self._store.use_namespace(self.seen.namespace)
        wait_in_turn(there, self._key, answer, self._timeout_s, self._host.turn, self._opened, self._host.budget)

    def close(self) -> None:
        """End the wait: the agent has given it up."""
        self._given_up = True
        if self._end is not None:
            self._end()

    def _opened(self, end: Callable[[], None]) -> None:
        self._end = end
        if self._given_up:
            end()


class _Asked(NamedTuple):
    """The arguments of a watch."""

    namespace: str
    everywhere: bool
    prefix: str | None
    since_text: bytes | None
    consumer: str | None
    initial: bool

    def check(self) -> None:
        """Raise `LimitExceeded` for more cursors than a watch resumes from, before they are decoded."""
        text = self.since_text or b""
        # Each namespace gets a change log, even if it is empty. The cursors are an object: they have one brace and their commas.
        if len(text) > MAX_SINCE_BYTES or has_more_values(text, MOST_NAMESPACES):
            raise LimitExceeded(
                f"watch_all in an agent resumes from the cursors of at most {MOST_NAMESPACES:,} namespaces and"
                f" {MAX_SINCE_BYTES:,} bytes of JSON: give a prefix and fewer cursors, or a consumer.",
                limit="watched_namespaces",
                limit_count=MOST_NAMESPACES,
            )

    def open(self, store: DataStore, budget: NamespaceBudget) -> Watch:
        """Open the watch; raises the store's errors for invalid arguments."""
        try:
            since: Any = None if self.since_text is None else rules.load(self.since_text)
        except (ValueError, RecursionError):
            since = b""  # the store refuses this as a cursor
        there = store.use_namespace(self.namespace)
        if not self.everywhere:
            return watch_within(there, budget, self.prefix, since, self.consumer, self.initial)
        return watch_all_within(there, budget, self.prefix, since, self.consumer, self.initial)


class _OpenWatch:
    """One watch, and the work of its thread."""

    def __init__(self, host: WatchHost, store: DataStore, number: int, asked: _Asked) -> None:
        self._host = host
        self._store = store
        self._asked = asked
        self.number = number
        self.seen = _Seen("watch_all" if asked.everywhere else "watch", asked.namespace, asked.prefix)
        self.noted_bytes = 0 if asked.consumer is None else HELD_BYTES + 3 * size_of(asked.consumer)
        # A consumer's cursor moves past the changes sent for the last request, so each answer holds one change.
        self._most = 1 if asked.consumer is not None else _CHANGES_PER_ANSWER
        self._requests: queue.SimpleQueue[tuple[int, float | None] | None] = queue.SimpleQueue()
        self._asked_last = 0
        self._under_way = False
        self._left: deque[Change] = deque()
        self._given: Change | None = None
        self._watch: Watch | None = None
        self._closed = False

    def ask(self, number: int, timeout_s: float | None) -> None:
        """Request the next changes. This also confirms the changes that were sent last.

        A request that is repeated is ignored: an agent that was interrupted does not know whether it has sent it.
        """
        if number == self._asked_last:
            return
        if self._under_way:
            raise FrameError("a request to a watch that is still answering another request")
        self._under_way = True
        self._asked_last = number
        self._requests.put((number, timeout_s))

    def close(self) -> None:
        """Close the watch, even while it waits for a change."""
        self._closed = True
        self._requests.put(None)
        if self._watch is not None:
            with suppress(DataStoreError):
                self._watch.close()

    def check(self) -> None:
        """Raise `LimitExceeded` for arguments that are not kept or decoded."""
        encode_prefix(self._asked.prefix)
        self._asked.check()

    def listed(self) -> list[bytes]:
        """Return the name under which the quota finds the consumer's cursors. Namespaces are counted when they are followed."""
        name = self._asked.consumer
        if name is None or size_of(name) > MAX_AGENT_BYTES:  # the store refuses it
            return []
        return [listed_name(self._store, "consumer", name)]

    def work(self) -> None:
        """Open the watch and answer requests until it is closed."""
        begun = Begun()
        budget = self._host.budget if self._asked.consumer is None else self._host.budget_of_consumer()
        with self._asked.open(self._store, budget) as self._watch:
            self._host.list_watched()
            self._host.note(begun, *self.seen)
            if not self._closed:
                self._host.opened(self.number)
            while not self._closed and (request := self._requests.get()) is not None:
                self._serve(self._watch, *request)

    def _serve(self, watch: Watch, number: int, timeout_s: float | None) -> None:
        begun = Begun()
        try:
            if self._given is not None:
                watch.done(self._given)
                self._given = None
            if not self._left:
                self._left.extend(watch.take(self._most, timeout_s))
                self._host.list_watched()
        except DataStoreError as error:
            self._under_way = False
            self._host.note(begun, *self.seen, error=type(error).__name__)
            self._host.refuse(number, error)
            return
        parts: list[Part] = []
        count = size = 0
        while self._left and size < _BIG_ANSWER_BYTES:
            self._given = change = self._left.popleft()
            count += 1
            size += 200 + (len(change.value) if isinstance(change.value, bytes) else 0)
            parts += [change.namespace, change.key, change.op, change.value, change.cursor, change.source]
            parts += [change.agent, change.run, change.root]
        self._under_way = False
        self._host.note(begun, *self.seen, keys=count, hit=count > 0, size=size)
        self._host.answer_in_turn("changes", number, size, *parts)
