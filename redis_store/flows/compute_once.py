"""Computing once: the flow of `get_or_set`, and the answers that it lives on.

Whoever finds no value claims to compute it, in the server, under a token. The claim is renewed while he computes, and lapses
when he dies; the others look again until there is a value, an error, or nobody who computes.

Who carries out the single steps is another's business: `ops.flights` against a server, the sandbox's child through its
broker, for which this imports nothing but `errors`, `namespace.keys` and `flows.flow`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from redis_store.errors import ComputeFailed, DataStoreError, InvalidInput, InvalidType, StoreTimeout
from redis_store.flows.flow import (
    FIRST_PAUSE_S,
    FLOW_LONGEST_PAUSE_S,
    Ask,
    Do,
    Keep,
    Now,
    Pause,
    Rand,
    next_pause,
    spread,
    take_back,
)
from redis_store.limits import ttl_to_ms
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES, encode_name
from redis_store.stats import Counters
from redis_store.types import Json, Ttl

LOCK_TIMEOUT_S = 30
"""After so many seconds without a sign of life the one who computes is taken for dead."""

COMPUTE_WOKEN_PAUSE_S = 0.5
"""How long to wait for word that a computation is over before looking for it; whoever writes the key by hand says none."""


class Claimed(NamedTuple):
    """Nobody has the value: the caller computes it."""


class Found(NamedTuple):
    """There is a value, and these are its bytes."""

    text: bytes


class Failed(NamedTuple):
    """Somebody computed while the caller waited, and his function raised this."""

    error_type: str
    message: str


class Computing(NamedTuple):
    """Somebody else computes; after so many ms without a renewal he no longer does. `now_ms` is the server's clock."""

    left_ms: int
    now_ms: int


ClaimAnswer: TypeAlias = Claimed | Found | Failed | Computing


class Computation(Protocol):
    """What a caller of `get_or_set` wants, checked, and the steps towards it."""

    @property
    def key(self) -> str: ...
    @property
    def place(self) -> Hashable:
        """What tells the value from all others of this process."""

    @property
    def channel(self) -> bytes:
        """Where the end of the computation is published, or nothing where that cannot be heard; `word` is the message."""

    @property
    def word(self) -> bytes: ...
    @property
    def ttl_ms(self) -> int | Literal[""]: ...
    @property
    def stale_ms(self) -> int | Literal[""]: ...
    @property
    def lock_ms(self) -> int: ...
    def encode(self, value: Any) -> bytes: ...
    def decode(self, text: bytes) -> Json: ...
    @property
    def counters(self) -> Counters: ...
    def look_near(self) -> Awaitable[bytes | None]:
        """Return the step that reads the value's bytes, None where there is none."""

    async def claim(self, token: str, since_ms: int | None) -> ClaimAnswer: ...
    async def renew(self, token: str) -> bool: ...
    async def commit(self, token: str, text: bytes) -> tuple[bool, bytes | None]:
        """Store a computed value; whether it was stored, and if not, the bytes that stand there."""

    async def fail(self, token: str, failed: Failed | None) -> bool: ...


def lifetimes(ttl_ms: int | str, stale: Ttl) -> tuple[int | Literal[""], int | Literal[""]]:
    """Return for how long a value is kept, in ms, and for how much of that it may be served stale; '' for no bound, and not."""
    if stale is None:
        return ttl_ms if isinstance(ttl_ms, int) else "", ""
    stale_ms = ttl_to_ms(stale, "stale")
    if not isinstance(ttl_ms, int):
        raise InvalidInput("stale= is for values that expire: give a ttl too.")
    return ttl_ms + stale_ms, stale_ms


def check_tags(tags: Iterable[str] | None) -> tuple[str, ...]:
    """Check that tags are a list of texts, and return each once."""
    if tags is None:
        return ()
    if isinstance(tags, (str, bytes)) or not isinstance(tags, Iterable):
        raise InvalidType(f"Tags must be a list of str, not {type(tags).__name__}: put a single tag in a list.")
    found = tuple(tags)
    for tag in found:
        encode_tag(tag)
    return tuple(dict.fromkeys(found))


def encode_tag(tag: str) -> bytes:
    """Check a tag and return its name in UTF-8."""
    return encode_name(tag, "tag", MAX_NAMESPACE_BYTES)


async def get_or_set(plan: Computation, make: Callable[[], Any], new_token: Callable[[], str], rand: Rand) -> Json:
    """The flow of `DataStore.get_or_set`."""
    if not callable(make):
        raise InvalidType(f"What computes a value must be a function, not {type(make).__name__}.")
    counters = plan.counters
    if plan.stale_ms == "":
        text = await plan.look_near()
        if text is not None:
            return plan.decode(text)
    token = new_token()
    since_ms: int | None = None
    pause_s = FIRST_PAUSE_S
    while True:
        asked = await Now()
        answer = await _claim(plan, token, since_ms)
        if isinstance(answer, Found):
            if plan.stale_ms != "" and since_ms is None:
                counters.read(answer.text)  # elsewhere the look has counted it as a miss
            return plan.decode(answer.text)
        if isinstance(answer, Claimed):
            counters.computes += 1
            counters.misses += plan.stale_ms != "" and since_ms is None
            return plan.decode(await _compute(plan, make, token, asked))
        if isinstance(answer, Failed):
            raise _failed(plan, answer)
        if plan.place in _under_way.get():
            raise InvalidInput(
                f"The function that computes {plan.key!r} asks for {plan.key!r} itself, which would never end."
            )
        if since_ms is None:
            counters.waits += 1
            counters.misses += plan.stale_ms != ""
            since_ms = answer.now_ms
        left_s = max(0.001, answer.left_ms / 1000)
        await Pause(min(spread(pause_s, rand), left_s), plan.channel, plan.word, min(COMPUTE_WOKEN_PAUSE_S, left_s))
        pause_s = next_pause(pause_s, _longest_pause(plan))


async def _claim(plan: Computation, token: str, since_ms: int | None) -> ClaimAnswer:
    try:
        return await Do(plan.claim(token, since_ms))
    except GeneratorExit:
        raise
    except BaseException as error:
        # A caller who is cancelled, or an answer that was lost: it may be ours without our knowing.
        if not isinstance(error, DataStoreError) or error.outcome_unknown:
            silent = isinstance(error, StoreTimeout)
            await take_back(lambda: plan.fail(token, None), plan.lock_ms / 1000, silent=silent)
        raise


_under_way: ContextVar[tuple[Hashable, ...]] = ContextVar("_under_way", default=())
"""What this thread or task computes just now."""


async def _compute(plan: Computation, make: Callable[[], Any], token: str, asked: float) -> bytes:
    """Compute the value under a claim that holds since `asked`, store it, and return the bytes that callers get."""
    keeping = await Keep(lambda: plan.renew(token), plan.lock_ms / 1000, asked)
    before = _under_way.set((*_under_way.get(), plan.place))
    try:
        value = await Ask[Any](make)
        text = plan.encode(value)
        stored, there = await Do(plan.commit(token, text))
    except GeneratorExit:
        raise
    except BaseException as error:
        plan.counters.compute_errors += 1
        # An interrupt or a cancellation says nothing about the function: then somebody else tries it.
        failed = Failed(type(error).__name__, _message(error)) if isinstance(error, Exception) else None
        await take_back(lambda: plan.fail(token, failed), plan.lock_ms / 1000)
        raise
    finally:
        _under_way.reset(before)
        keeping.stop()
    # Somebody has set another value meanwhile: it is newer, and the one that the others see.
    return there if there is not None and not stored and plan.stale_ms == "" else text


def _longest_pause(plan: Computation) -> float:
    """Those who wait look often enough to see a value that does not live long."""
    return (
        FLOW_LONGEST_PAUSE_S if plan.ttl_ms == "" else max(FIRST_PAUSE_S, min(FLOW_LONGEST_PAUSE_S, plan.ttl_ms / 4000))
    )


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # its own class's fault, which must not keep the others waiting
        text = "it has no text"
    return text.encode(errors="backslashreplace").decode()


def _failed(plan: Computation, failed: Failed) -> ComputeFailed:
    return ComputeFailed(
        f"Another caller computed {plan.key!r}, and failed with {failed.error_type} ({failed.message}): nothing was cached."
        " Call again to compute it here.",
        key=plan.key,
        error_type=failed.error_type,
        error_message=failed.message,
    )
