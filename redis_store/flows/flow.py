"""The steps of a flow: operations, pauses and calls of the caller's functions, written once for threads and asyncio.

A flow is to operations what an operation is to commands: an ``async def`` function without I/O. It awaits only the steps below,
and a runner (`flows.run_sync`, `flows.run_async`) carries them out. It holds no connection between two operations, so a waiter
occupies none.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

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


class Now(NamedTuple):
    """The step that reads a monotonic clock, in seconds."""

    def __await__(self) -> Generator[Now, Any, float]:
        now: float = yield self
        return now


class Keep(NamedTuple):
    """The step that starts renewing something that expires in the server. Its result is a `Keeping`, which stops it."""

    renew: Callable[[], Op[bool]]
    ttl_s: float
    since: float
    """Time at which the acquiring request was sent, by the monotonic clock."""
    tied: bool = True
    """Whether renewing ends with the thread or the task that started it."""

    def __await__(self) -> Generator[Keep, Any, Keeping]:
        keeping: Keeping = yield self
        return keeping


Step: TypeAlias = "Do[Any] | Look[Any] | Ask[Any] | Pause | Now | Keep"
Flow: TypeAlias = Coroutine[Step, Any, T]
"""A started flow, to be run once by a runner."""


class Keeping:
    """A holding that expires in the server unless it is renewed, and the time until which it is certainly held."""

    __slots__ = ("_until", "renew", "stopped", "ttl_s")

    def __init__(self, renew: Callable[[], Op[bool]], ttl_s: float, since: float) -> None:
        self.renew = renew
        self.ttl_s = ttl_s
        self.stopped = False
        self._until = since + ttl_s

    @property
    def pause_s(self) -> float:
        """The time from one renewal to the next, in seconds."""
        return self.ttl_s / 3

    def renewed(self, since: float, kept: bool) -> None:
        """Record the result of a renewal that was sent at `since`."""
        if kept:
            self._until = since + self.ttl_s
        else:
            self._until = float("-inf")

    def lost(self, now: float) -> bool:
        """Whether it is no longer certainly held."""
        return now >= self._until

    def stop(self) -> None:
        """Stop renewing. Idempotent."""
        self.stopped = True


async def take_back(undo: Callable[[], Op[bool]], ttl_s: float, *, silent: bool = False) -> None:
    """Release something that the server may have granted without our knowing. Otherwise it would stay until it expires.

    If the server is unavailable, retry in the background for up to `ttl_s`. With `silent` (the server did not reply in time), go
    to the background at once: the caller has waited already, and the server may still carry out the unanswered request.
    """
    if not silent:
        try:
            await Do(undo())
            return
        except DataStoreError as error:
            if not may_pass(error):
                return

    async def undone() -> bool:
        await undo()
        return False  # nothing to renew

    await Keep(undone, ttl_s, await Now(), tied=False)


def may_pass(error: DataStoreError) -> bool:
    """Whether the error may be temporary: the server is away, or busy, or a replica that is about to take over."""
    return isinstance(error, (ConnectionLost, StoreTimeout, ServerReadOnly)) or type(error) is StoreUnavailable


def next_pause(pause_s: float, longest_s: float = FLOW_LONGEST_PAUSE_S) -> float:
    """Return the next, longer pause of a back-off, at most `longest_s`."""
    return min(longest_s, pause_s * 1.5)


def spread(pause_s: float, rand: Rand) -> float:
    """Return a random pause around this one (0.5 to 1.5 times), so that waiters do not poll at the same moment."""
    return pause_s * (0.5 + rand())
