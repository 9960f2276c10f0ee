"""The steps of a flow: operations, pauses and calls of the caller's functions, written once for threads and asyncio.

A flow is to operations what an operation is to commands: an ``async def`` function without I/O. It awaits only the steps below,
and a runner (`flows.run_sync`, `flows.run_async`) carries them out. It holds no connection between two operations, so a waiter
occupies none.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from redis_store.errors import ConnectionLost, DataStoreError, ServerReadOnly, StoreTimeout, StoreUnavailable

if TYPE_CHECKING:  # the sandbox's child also runs flows, but has no operations
    from redis_store.namespace.scope import Scope
    from redis_store.protocol.call import Op
    from redis_store.protocol.read import Read

T = TypeVar("T")

Rand: TypeAlias = Callable[[], float]
"""A source of randomness, like `random.random`."""

FIRST_PAUSE_S = 0.002
FLOW_LONGEST_PAUSE_S = 0.1

UNDO_PAUSE_S = 0.05
"""Pause between the first two tries to undo something in the background, in seconds; it doubles with each try."""

UNDO_LONGEST_PAUSE_S = 1.0
"""Longest such pause while the server is unavailable, in seconds."""


class Do(NamedTuple, Generic[T]):
    """The step that carries out an operation."""

    op: Op[T]

    def __await__(self) -> Generator[Do[T], Any, T]:
        result: T = yield self
        return result


class Look(NamedTuple, Generic[T]):
    """The step that carries out an operation that reads, or lets the near cache answer it."""

    read: Read[T]
    scope: Scope
    wanted: Any
    default: Any

    def __await__(self) -> Generator[Look[T], Any, T]:
        result: T = yield self
        return result


class Ask(NamedTuple, Generic[T]):
    """The step that calls a function of the caller. The asyncio runner also awaits an awaitable result."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()

    def __await__(self) -> Generator[Ask[T], Any, T]:
        result: T = yield self
        return result


class Pause(NamedTuple):
    """The step that waits before the next poll: `seconds`, or up to `woken_s` if a message can end the wait early.

    A flow polls after each pause, so a lost message only costs latency.
    """

    seconds: float
    """Length of the pause without pub/sub, in seconds."""
    channel: bytes = b""
    """The channel of the message that ends the pause, named like the Redis key that it is about; empty for none."""
    word: bytes = b""
    """The message."""
    woken_s: float = 0.0
    """Longest pause while listening for the message, in seconds."""

    def __await__(self) -> Generator[Pause, Any, None]:
        yield self


class Receive(NamedTuple):
    """The step that waits for the next item of a watcher's mailbox. Its result is None once the deadline, by `Now`, passes."""

    deadline: float | None

    def __await__(self) -> Generator[Receive, Any, Any]:
        return (yield self)


class Now(NamedTuple):
    """The step that reads a monotonic clock, in seconds, which includes time asleep."""

    def __await__(self) -> Generator[Now, Any, float]:
        now: float = yield self
        return now


class Renew(NamedTuple):
    """The step that starts renewing something that expires in the server. Its result is a `Keeping`, which stops it."""

    renew: Callable[[], Op[bool]]
    ttl_s: float
    since: float
    """Time at which the acquiring request was sent, by the clock of `Now`."""
    tied: bool = True
    """Whether renewing ends with the thread or the task that started it."""
    wanted: Callable[[], bool] = lambda: True
    """Whether anything still refers to the holding. Otherwise it is not renewed any more, and expires."""

    def __await__(self) -> Generator[Renew, Any, Keeping]:
        keeping: Keeping = yield self
        return keeping


class Undo(NamedTuple):
    """The step that starts undoing something in the background (`Undoing`). It does not wait for it."""

    undo: Callable[[], Op[bool]]
    ttl_s: float
    since: float

    def __await__(self) -> Generator[Undo, Any, None]:
        yield self


Step: TypeAlias = "Do[Any] | Look[Any] | Ask[Any] | Pause | Receive | Now | Renew | Undo"
Flow: TypeAlias = Coroutine[Step, Any, T]
"""A started flow, to be run once by a runner."""


class Repeated(Protocol):
    """An operation that is repeated in the background. The runners supply the time and the waits."""

    on_stop: Callable[[], object]
    """Called by `stop`, so that nothing waits for the next try."""

    @property
    def op(self) -> Callable[[], Op[bool]]: ...
    @property
    def first_s(self) -> float:
        """Time until the first try, in seconds."""

    @property
    def over(self) -> bool:
        """Whether no further try is needed."""

    def tried(self, began: float, now: float, answer: bool | None) -> float | None:
        """Record the answer to a try that began at `began`, None for an error. Return when to try again, None for never."""


class Keeping:
    """A holding that expires in the server unless it is renewed, and the time until which it is certainly held."""

    __slots__ = ("_until", "_wanted", "on_stop", "op", "stopped", "ttl_s")

    def __init__(self, step: Renew) -> None:
        self.op = step.renew
        self.ttl_s = step.ttl_s
        self.stopped = False
        self.on_stop: Callable[[], object] = _nothing
        self._until = step.since + step.ttl_s
        self._wanted = step.wanted

    @property
    def first_s(self) -> float:
        return self.ttl_s / 3

    @property
    def over(self) -> bool:
        return self.stopped or not self._wanted()

    def tried(self, began: float, now: float, answer: bool | None) -> float | None:
        if answer:
            self._until = began + self.ttl_s
            return began + self.ttl_s / 3
        if answer is None and not self.lost(now):
            return now + self.ttl_s / 12  # it is held until its ttl ends
        self._until = float("-inf")
        return None

    def lost(self, now: float) -> bool:
        """Whether it is no longer certainly held."""
        return now >= self._until

    def stop(self) -> None:
        """Stop renewing. Idempotent."""
        self.stopped = True
        self.on_stop()


class Undoing:
    """Releases something that the server may have granted without our knowing, or may still grant.

    A server that was silent may carry out the request that it never answered after the request to undo it. So the latter is
    repeated, at growing intervals, until it has released something, or there would be nothing left to release.
    """

    __slots__ = ("_pause_s", "_until", "on_stop", "op", "ttl_s")

    over = False
    first_s = 0.0

    def __init__(self, step: Undo) -> None:
        self.op = step.undo
        self.ttl_s = step.ttl_s
        self.on_stop: Callable[[], object] = _nothing
        self._until = step.since + step.ttl_s
        self._pause_s = UNDO_PAUSE_S

    def tried(self, began: float, now: float, answer: bool | None) -> float | None:
        if answer:
            return None
        again_at = now + self._pause_s
        self._pause_s *= 2
        if answer is None:
            self._pause_s = min(self._pause_s, UNDO_LONGEST_PAUSE_S)
        return again_at if again_at < self._until else None


def _nothing() -> None:
    pass


async def take_back(undo: Callable[[], Op[bool]], ttl_s: float, *, silent: bool = False) -> None:
    """Release something that the server may have granted without our knowing. Otherwise it would stay until it expires.

    If the server is unavailable, or the caller is cancelled or interrupted again, that continues in the background for up to
    `ttl_s`. With `silent` (the server did not reply in time) it begins there: the caller has waited already.
    """
    try:
        if not silent:
            await Do(undo())
            return
    except DataStoreError as error:
        if not may_pass(error):
            return
    except GeneratorExit:
        raise
    except BaseException:
        await Undo(undo, ttl_s, await Now())
        raise
    await Undo(undo, ttl_s, await Now())


def may_pass(error: DataStoreError) -> bool:
    """Whether the error may be temporary: the server is away, or busy, or a replica that is about to take over."""
    return isinstance(error, (ConnectionLost, StoreTimeout, ServerReadOnly)) or type(error) is StoreUnavailable


def next_pause(pause_s: float, longest_s: float = FLOW_LONGEST_PAUSE_S) -> float:
    """Return the next, longer pause of a back-off, at most `longest_s`."""
    return min(longest_s, pause_s * 1.5)


def spread(pause_s: float, rand: Rand) -> float:
    """Return a random pause around this one (0.5 to 1.5 times), so that waiters do not poll at the same moment."""
    return pause_s * (0.5 + rand())
