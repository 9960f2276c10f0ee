"""An agent's watches and waits, each in its own thread, so that none stalls the calls of the store.

Changes are sent on request, so that those for a slow agent stay in the bounded queue of its watch. Big answers are sent one
at a time: the next is sent, and for a wait also read, when the agent has received the one before.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from redis_store import Change, DataStore, Watch
from redis_store.brokers.watches import NamespaceBudget, wait_in_turn, watch_all_within
from redis_store.errors import DataStoreError, LimitExceeded, StoreClosed
from redis_store.values import rules
from sandbox.host.broker import error_parts
from sandbox.masking import PREVIEW_SOURCE_BYTES
from sandbox.protocol.frames import FrameError, Part
from sandbox.record.timeline import NAMESPACE_CHARACTERS, OperationDone, Who, shortened
from sandbox.running.tree import Tree

MOST_WATCHES = 32
"""Limit of one process's open watches."""

MOST_NAMESPACES = 2000
"""Limit of the namespaces that one process's `watch_all` calls follow together; each takes at least 6 KB in the host."""

MOST_WAITS = 64
"""Limit of one process's concurrent waits."""

_CHANGES_PER_ANSWER = 64
_BIG_ANSWER_BYTES = 1024 * 1024


class WatchHost:
    """The watches and waits of one process; answers are passed to `post`, from any thread, until `close`.

    `wake` is called whenever a thread has ended. `store` returns values as JSON text and is bound to the user and the rights
    of the run.
    """

    def __init__(
        self,
        tree: Tree,
        who: Who,
        store: DataStore,
        post: Callable[[list[Part], threading.Event | None], None],
        wake: Callable[[], None],
        hidden: tuple[str, ...] = (),
    ) -> None:
        self._tree = tree
        self._who = who
        self._store = store
        self._post = post
        self._wake = wake
        self._hidden = hidden
        self._lock = threading.Lock()
        self._watches: dict[int, _OpenWatch] = {}
        self._waits: set[int] = set()
        self._threads: set[threading.Thread] = set()
        self._closed = False
        self.budget = NamespaceBudget(MOST_NAMESPACES)
        """The namespaces that this process's `watch_all` calls may follow."""
        self._turn = threading.RLock()
        """Held while a big answer is read and until it has been sent, so that there is only one at a time."""
        self._sent = threading.Event()

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
            watch = self._watches.pop(number, None)
            if watch is not None:
                watch.close()
            return
        self._tree.spend_operation()
        if kind == "watch":
            self._open(number, *parts[1:])
        elif kind == "next":
            watch = self._watches.get(parts[1])
            if watch is None:
                self.refuse(number, StoreClosed("The watch is closed."))
            else:
                watch.ask(_Request(number, parts[2]))
        else:
            self._wait(number, *parts[1:])

    def close(self) -> None:
        """End all watches and waits; answers that were not sent yet are dropped."""
        with self._lock:
            self._closed = True
            self._sent.set()
        for watch in list(self._watches.values()):
            watch.close()

    def join(self, timeout_s: float) -> None:
        """Wait for the threads to end; their store must be closed already."""
        deadline = time.monotonic() + timeout_s
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def forget(self, number: int) -> None:
        """Remove a watch that has ended."""
        self._watches.pop(number, None)

    def answer(self, kind: str, number: int, *parts: Part) -> None:
        """Send an answer, unless the run is over."""
        with self._lock:
            if not self._closed:
                self._post([kind, number, *parts], None)

    def answer_in_turn(self, kind: str, number: int, size: int, *parts: Part) -> None:
        """Send an answer with values; if it is big, wait until it has been sent or the run is over."""
        if size < _BIG_ANSWER_BYTES:
            self.answer(kind, number, *parts)
            return
        with self._turn:
            with self._lock:
                if self._closed:
                    return
                sent = self._sent = threading.Event()
                self._post([kind, number, *parts], sent)
            sent.wait()

    def refuse(self, number: int, error: DataStoreError) -> None:
        """Send an error."""
        self.answer("refused", number, *error_parts(error, self._hidden)[1:])

    def start(self, work: Callable[[], None], number: int) -> None:
        """Run `work` in its own thread; raises `LimitExceeded` if the system has no more threads."""

        def run() -> None:
            try:
                work()
            finally:
                self._threads.discard(thread)
                with self._lock:
                    if not self._closed:
                        self._wake()  # messages held back because of `is_full` can be read

        thread = threading.Thread(target=run, name=f"sandbox-watch-{self._who.run}-{number}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.discard(thread)
            raise LimitExceeded(
                "The host has no threads left for watches and waits: close some watches.", limit="threads"
            ) from None

    def note(self, seen: _Seen) -> None:
        """Add a line to the timeline."""
        duration_ms = (time.perf_counter() - seen.start) * 1000
        self._tree.timeline.done.add(
            OperationDone(
                seen.received,
                self._who,
                seen.operation,
                shortened(seen.namespace, NAMESPACE_CHARACTERS),
                None if seen.key is None else shortened(seen.key),
                seen.keys,
                seen.hit,
                seen.size,
                duration_ms,
                seen.error,
                None if seen.value is None else seen.value[: PREVIEW_SOURCE_BYTES + 1],
            )
        )

    def _open(
        self,
        number: int,
        namespace: str,
        everywhere: bool,
        prefix: str | None,
        since_text: bytes | None,
        consumer: str | None,
        initial: bool,
    ) -> None:
        if number in self._watches:
            raise FrameError("a watch under a number in use")
        asked = _Asked(namespace, everywhere, prefix, since_text, consumer, initial)
        try:
            self._tree.granted.check(asked.operation)
            if len(self._watches) >= MOST_WATCHES:
                raise _too_many("watches", MOST_WATCHES)
            watch = self._watches[number] = _OpenWatch(self, self._store, number, asked)
            self.start(watch.work, number)
        except DataStoreError as error:
            self.forget(number)
            self.refuse(number, error)

    def _wait(self, number: int, namespace: str, key: str, timeout_s: float | None) -> None:
        if number in self._waits:
            raise FrameError("a wait under a number in use")

        def work() -> None:
            seen = _Seen(time.time(), time.perf_counter(), "wait_for", namespace, key)

            def answer(text: Any) -> bool:
                self.note(seen._replace(keys=1, hit=True, size=len(text), value=text))
                self.answer_in_turn("value", number, len(text), text)
                return True

            try:
                there = self._store.use_namespace(namespace)
                wait_in_turn(there, key, answer, timeout_s, self._turn)
            except DataStoreError as error:
                self.note(seen._replace(error=type(error).__name__))
                self.refuse(number, error)
            finally:
                self._waits.discard(number)

        try:
            self._tree.granted.check("wait_for")
            if len(self._waits) >= MOST_WAITS:
                raise _too_many("waits", MOST_WAITS)
            self._waits.add(number)
            self.start(work, number)
        except DataStoreError as error:
            self._waits.discard(number)
            self.refuse(number, error)


class _Request(NamedTuple):
    """A request for the next changes; it also confirms the changes that were sent last."""

    number: int
    timeout_s: float | None


class _Seen(NamedTuple):
    """The facts of a watch or wait for the timeline."""

    received: float
    start: float
    operation: str
    namespace: str
    key: str | None
    keys: int = 0
    hit: bool | None = None
    size: int = 0
    error: str | None = None
    value: bytes | None = None


class _Asked(NamedTuple):
    """The arguments of a watch."""

    namespace: str
    everywhere: bool
    prefix: str | None
    since_text: bytes | None
    consumer: str | None
    initial: bool

    @property
    def operation(self) -> str:
        return "watch_all" if self.everywhere else "watch"

    def open(self, store: DataStore, budget: NamespaceBudget) -> Watch:
        """Open the watch; raises the store's errors for invalid arguments."""
        try:
            since: Any = None if self.since_text is None else rules.load(self.since_text)
        except (ValueError, RecursionError):
            since = b""  # the store refuses this as a cursor
        if isinstance(since, dict) and len(since) > MOST_NAMESPACES:  # each gets a change log, even if it is empty
            raise LimitExceeded(
                f"watch_all in an agent resumes from the cursors of at most {MOST_NAMESPACES:,} namespaces, not of"
                f" {len(since):,}: give a prefix and fewer cursors, or a consumer.",
                limit="watched_namespaces",
                limit_count=MOST_NAMESPACES,
            )
        there = store.use_namespace(self.namespace)
        if not self.everywhere:
            return there.watch(self.prefix, since, self.consumer, self.initial)
        return watch_all_within(there, budget, self.prefix, since, self.consumer, self.initial)


class _OpenWatch:
    """One watch, and the work of its thread."""

    def __init__(self, host: WatchHost, store: DataStore, number: int, asked: _Asked) -> None:
        self._host = host
        self._store = store
        self._number = number
        self._asked = asked
        # A consumer's cursor moves past the changes sent for the last request, so each answer holds one change.
        self._most = 1 if asked.consumer is not None else _CHANGES_PER_ANSWER
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._under_way = False
        self._left: deque[Change] = deque()
        self._given: Change | None = None
        self._watch: Watch | None = None
        self._closed = False

    def ask(self, request: _Request) -> None:
        """Request the next changes."""
        if self._under_way:
            raise FrameError("a request to a watch that is still answering another request")
        self._under_way = True
        self._requests.put(request)

    def close(self) -> None:
        """Close the watch, even while it waits for a change."""
        self._closed = True
        self._requests.put(None)
        if self._watch is not None:
            with suppress(DataStoreError):
                self._watch.close()

    def work(self) -> None:
        """Open the watch and answer requests until it is closed."""
        seen = self._seen()
        try:
            with self._asked.open(self._store, self._host.budget) as self._watch:
                self._host.note(seen)
                if not self._closed:
                    self._host.answer("changes", self._number)
                while not self._closed and (request := self._requests.get()) is not None:
                    self._serve(self._watch, request)
        except DataStoreError as error:
            self._host.forget(self._number)
            self._host.note(seen._replace(error=type(error).__name__))
            self._host.refuse(self._number, error)

    def _seen(self) -> _Seen:
        return _Seen(time.time(), time.perf_counter(), self._asked.operation, self._asked.namespace, self._asked.prefix)

    def _serve(self, watch: Watch, request: _Request) -> None:
        seen = self._seen()
        try:
            if self._given is not None:
                watch.done(self._given)
                self._given = None
            if not self._left:
                self._left.extend(watch.take(self._most, request.timeout_s))
        except DataStoreError as error:
            self._under_way = False
            self._host.note(seen._replace(error=type(error).__name__))
            self._host.refuse(request.number, error)
            return
        parts: list[Part] = []
        count = size = 0
        while self._left and size < _BIG_ANSWER_BYTES:
            self._given = change = self._left.popleft()
            count += 1
            size += 200 + (len(change.value) if isinstance(change.value, bytes) else 0)
            parts += [change.namespace, change.key, change.op, change.value, change.cursor, change.source]
            parts += [change.agent, change.run]
        self._under_way = False
        self._host.note(seen._replace(keys=count, hit=count > 0, size=size))
        self._host.answer_in_turn("changes", request.number, size, *parts)


def _too_many(what: str, most: int) -> LimitExceeded:
    return LimitExceeded(
        f"At most {most} {what} of one agent may be open at once: close some.", limit=what, limit_count=most
    )
