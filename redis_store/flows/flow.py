"""What a flow asks for: operations with pauses and callers' functions between them, written once for both sides.

A flow is to operations what an operation is to commands: an ``async def`` function without I/O. It awaits the steps below
only, and a runner (`flows.run_sync`, `flows.run_async`) carries them out. It holds no connection between two operations, so whoever
waits in one holds none.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from redis_store.errors import ConnectionLost, DataStoreError, ServerReadOnly, StoreTimeout, StoreUnavailable

if TYPE_CHECKING:  # the sandbox's child runs flows too, and has no operations
    from redis_store.namespace.scope import Scope
    from redis_store.protocol.call import Op

T = TypeVar("T")

Rand: TypeAlias = Callable[[], float]
"""A source of randomness, as `random.random`."""

FIRST_PAUSE_S = 0.002
FLOW_LONGEST_PAUSE_S = 0.1


class Do(NamedTuple, Generic[T]):
    """Carry out an operation."""

    op: Op[T]

    def __await__(self) -> Generator[Do[T], Any, T]:
        result: T = yield self
        return result


class Look(NamedTuple):
    """Read one value's JSON text, None where there is none: from the near cache, where the store has one."""

    scope: Scope
    key: str
    make: Callable[[], Op[bytes | None]]
    """Makes the operation that asks the server."""

    def __await__(self) -> Generator[Look, Any, bytes | None]:
        text: bytes | None = yield self
        return text


class Ask(NamedTuple, Generic[T]):
    """Call a function of the caller's; on the asynchronous side what it returns is awaited where it can be."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()

    def __await__(self) -> Generator[Ask[T], Any, T]:
        result: T = yield self
        return result


class Pause(NamedTuple):
    """Wait before looking again: so long, or where a message can be waited for, at most `woken_s` or until it comes.

    A flow looks again by itself after each pause, so that a lost message costs time and nothing else.
    """

    seconds: float
    channel: bytes = b""
    """Where the message is published that ends the wait, which is the Redis key that it is about; or nothing."""
    word: bytes = b""
    """The message."""
    woken_s: float = 0.0

    def __await__(self) -> Generator[Pause, Any, None]:
        yield self


class Now(NamedTuple):
    """Read a clock that only goes forward, in seconds."""

    def __await__(self) -> Generator[Now, Any, float]:
        now: float = yield self
        return now


class Keep(NamedTuple):
    """Begin to renew something that expires in the server, until it is stopped; gives a `Keeping`."""

    renew: Callable[[], Op[bool]]
    ttl_s: float
    since: float
    """When the request went out that made it ours."""
    tied: bool = True
    """Whether it ends with the thread or the task that began it."""

    def __await__(self) -> Generator[Keep, Any, Keeping]:
        keeping: Keeping = yield self
        return keeping


Step: TypeAlias = "Do[Any] | Look | Ask[Any] | Pause | Now | Keep"
Flow: TypeAlias = Coroutine[Step, Any, T]
"""A flow under way, to be run once by a runner."""


class Keeping:
    """Something of ours that the server lets go of unless it is renewed, and how long it is surely ours."""

    __slots__ = ("_until", "renew", "stopped", "ttl_s")

    def __init__(self, renew: Callable[[], Op[bool]], ttl_s: float, since: float) -> None:
        self.renew = renew
        self.ttl_s = ttl_s
        self.stopped = False
        self._until = since + ttl_s

    @property
    def pause_s(self) -> float:
        """How long after a renewal to renew again."""
        return self.ttl_s / 3

    def renewed(self, since: float, kept: bool) -> None:
        """Note the answer to a renewal that began at `since`."""
        if kept:
            self._until = since + self.ttl_s
        else:
            self._until = float("-inf")

    def lost(self, now: float) -> bool:
        """Whether it is no longer surely ours."""
        return now >= self._until

    def stop(self) -> None:
        """Renew no more. Harmless when repeated."""
        self.stopped = True


async def take_back(undo: Callable[[], Op[bool]], ttl_s: float, *, silent: bool = False) -> None:
    """The flow that lets go of what may be ours in the server without our knowing, lest it stand there until it lapses.

    Where the server cannot be used just now it is tried again beside the caller, until `ttl_s` are over; at once so where it was
    `silent`: the caller has waited for it already, and what it has not answered yet it may still carry out.
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
    """Whether the server may be of use again: it is away, or busy, or a replica that is about to take over."""
    return isinstance(error, (ConnectionLost, StoreTimeout, ServerReadOnly)) or type(error) is StoreUnavailable


def next_pause(pause_s: float, longest_s: float = FLOW_LONGEST_PAUSE_S) -> float:
    """Return the pause that follows one that was in vain."""
    return min(longest_s, pause_s * 1.5)


def spread(pause_s: float, rand: Rand) -> float:
    """Return a pause near to this one, so that those who wait together do not look together."""
    return pause_s * (0.5 + rand())
