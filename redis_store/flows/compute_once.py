"""Single flight: the flow of `get_or_set`, and the replies that it handles.

A caller that finds no value makes a claim to compute it, in the server, under a token. The claim is renewed during the
computation and expires if its holder dies. The waiters poll until there is a value, an error, or no claim.

The caller supplies the single steps: `ops/compute_once.py` runs them on a server, the sandbox's child through its broker. For the
child's sake this module imports no operations.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from redis_store.errors import (
    ComputeFailed,
    DataStoreError,
    InvalidInput,
    InvalidType,
    ServerRefused,
    StoreClosed,
    StoreTimeout,
    StoreUnavailable,
    WaitTimeout,
)
from redis_store.flows.flow import (
    FIRST_PAUSE_S,
    FLOW_LONGEST_PAUSE_S,
    Ask,
    Do,
    Now,
    Pause,
    Rand,
    Renew,
    next_pause,
    spread,
    take_back,
)
from redis_store.flows.optimistic import not_a_function
from redis_store.limits import check_timeout, ttl_to_ms
from redis_store.namespace.keys import MAX_NAMESPACE_BYTES, encode_name
from redis_store.stats import Counters
from redis_store.types import MISSING, Json, Missing, Ttl
from redis_store.values.printable import one_line

if TYPE_CHECKING:
    from redis_store.protocol.call import Op

logger = logging.getLogger("redis_store")

OUTAGES = (StoreUnavailable, ServerRefused, StoreClosed)
"""The errors of a store that is away, full, or cannot be used: not those of what it was asked."""

LOCK_TIMEOUT_S = 30
"""Default time after which a claim without a renewal expires, in seconds."""

COMPUTE_WOKEN_PAUSE_S = 0.5
"""Longest pause while listening for the end of a computation, in seconds; an external write to the key sends no message."""


class Claimed(NamedTuple):
    """There is no value, and the caller now has the claim to compute it."""


class Found(NamedTuple):
    """There is a value; `text` is its bytes."""

    text: bytes


class Failed(NamedTuple):
    """Another caller computed while this one waited, and its function raised this error."""

    error_type: str
    message: str


class Computing(NamedTuple):
    """Another caller has the claim, which expires in `left_ms` unless it is renewed. `now_ms` is the server's clock."""

    left_ms: int
    now_ms: int


ClaimAnswer: TypeAlias = Claimed | Found | Failed | Computing


class Trouble(NamedTuple):
    """What a `get_or_set` does about a function that hangs and a server that is away."""

    timeout_s: float | None = None
    """How long to wait for another caller's result, in seconds."""
    computes_alone: bool = False
    """Whether to compute without the store if the store fails."""

    @classmethod
    def of(cls, timeout: float | None, on_error: object) -> Trouble:
        """Check the arguments `timeout` and `on_error`."""
        check_on_error(on_error)
        return cls(check_timeout(timeout), on_error == "compute")


class Computation(Protocol):
    """The checked arguments of a `get_or_set`, and its single steps."""

    @property
    def namespace(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def place(self) -> Hashable:
        """The value's identity among all values of this process."""

    @property
    def channel(self) -> bytes:
        """The channel on which the end of the computation is published as `word`; empty if the caller cannot subscribe."""

    @property
    def word(self) -> bytes: ...
    @property
    def ttl_ms(self) -> int | Literal[""]: ...
    @property
    def stale_ms(self) -> int | Literal[""]: ...
    @property
    def lock_ms(self) -> int: ...
    @property
    def trouble(self) -> Trouble: ...
    def encode(self, value: Any) -> bytes: ...
    def decode(self, text: bytes) -> Json: ...
    @property
    def counters(self) -> Counters: ...
    def look(self) -> Awaitable[Json | Missing]:
        """Return the step that reads the value, or `MISSING` if there is none."""

    def count_hit(self) -> Op[None] | None:
        """Count a value that `look` found. Return the operation that reports the hits so far, if it is time for it."""

    async def claim(self, token: str, since_ms: int | None) -> ClaimAnswer: ...
    async def renew(self, token: str) -> bool: ...
    async def commit(self, token: str, text: bytes) -> tuple[bool, bytes | None]:
        """Store a computed value. Return whether it was stored, and if not, the bytes of the current value."""

    async def fail(self, token: str, failed: Failed | None) -> bool: ...


def check_on_error(on_error: object) -> None:
    """Raise `InvalidInput` unless it says what to do if the store fails."""
    if on_error not in ("raise", "compute"):
        raise InvalidInput(f"on_error must be 'raise' or 'compute', not {on_error!r:.80}.")


def log_miss(operation: str, error: DataStoreError) -> None:
    """Log that a cache was read while the store was unavailable."""
    logger.warning("the store failed, so %s finds nothing in this cache: %s", operation, error)


def lifetimes(ttl_ms: int | str, stale: Ttl) -> tuple[int | Literal[""], int | Literal[""]]:
    """Return a value's time to live in ms, and the last part of it in which the value may be served stale, in ms.

    An empty string stands for no time to live and for never stale.
    """
    if stale is None:
        return ttl_ms if isinstance(ttl_ms, int) else "", ""
    stale_ms = ttl_to_ms(stale, "stale")
    if not isinstance(ttl_ms, int):
        raise InvalidInput("stale= needs a value that expires: give ttl= too.")
    return ttl_ms + stale_ms, stale_ms


def check_tags(tags: Iterable[str] | None) -> tuple[str, ...]:
    """Check that tags are a list of str, and return them without duplicates."""
    if tags is None:
        return ()
    if isinstance(tags, (str, bytes)) or not isinstance(tags, Iterable):
        raise InvalidType(f"Tags must be a list of str, not {type(tags).__name__}: put a single tag in a list.")
    found = tuple(tags)
    for tag in found:
        encode_tag(tag)
    return tuple(dict.fromkeys(found))


def encode_tag(tag: str) -> bytes:
    """Check a tag and return it in UTF-8."""
    return encode_name(tag, "tag", MAX_NAMESPACE_BYTES)


async def get_or_set(plan: Computation, make: Callable[[], Any], new_token: Callable[[], str], rand: Rand) -> Json:
    """Return the value of a key, computing it once if it is missing: the flow of `DataStore.get_or_set`."""
    if not callable(make):
        raise not_a_function("get_or_set", "a function that computes the value", make, "write `lambda: ...` around it")
    if not plan.trouble.computes_alone:
        return await _get_or_compute(plan, make, new_token, rand)
    begun = False

    def make_once() -> Any:
        nonlocal begun
        begun = True
        return make()

    try:
        return await _get_or_compute(plan, make_once, new_token, rand)
    except OUTAGES as error:
        if begun:  # the function's own error, which may be of this kind too
            raise
        logger.warning("the store failed, so %r is computed without it: %s", plan.key, error)
    plan.counters.computes += 1
    return plan.decode(plan.encode(await Ask[Any](make)))


async def _get_or_compute(plan: Computation, make: Callable[[], Any], new_token: Callable[[], str], rand: Rand) -> Json:
    if plan.stale_ms == "":
        value = await plan.look()
        if value is not MISSING:
            if (report := plan.count_hit()) is not None:
                await Do(report)
            return value
    token = new_token()
    owed = [token]
    try:
        return await _claim_or_wait(plan, make, token, owed, rand)
    except GeneratorExit:
        raise
    except BaseException as error:
        # A signal handler may raise between the answer to a claim and the computation, which gives it back by itself.
        if owed and not isinstance(error, DataStoreError):
            await take_back(lambda: plan.fail(token, None), plan.lock_ms / 1000)
        raise


async def _claim_or_wait(plan: Computation, make: Callable[[], Any], token: str, owed: list[str], rand: Rand) -> Json:
    """Claim the computation or wait for another's. `owed` is empty once the claim is given back by what carries it out."""
    counters = plan.counters
    since_ms: int | None = None
    began = 0.0
    pause_s = FIRST_PAUSE_S
    while True:
        asked = await Now()
        answer = await _claim(plan, token, since_ms)
        if isinstance(answer, Found):
            if plan.stale_ms != "" and since_ms is None:
                counters.read(answer.text)  # otherwise the look has counted it as a miss
            return plan.decode(answer.text)
        if isinstance(answer, Claimed):
            counters.computes += 1
            counters.misses += plan.stale_ms != "" and since_ms is None
            return plan.decode(await _compute(plan, make, token, owed, asked))
        if isinstance(answer, Failed):
            raise _failed(plan, answer)
        if any(one.place == plan.place and not one.over for one in _under_way.get()):
            raise InvalidInput(
                f"The function that computes {plan.key!r} requested {plan.key!r} itself, which would never end."
            )
        if since_ms is None:
            counters.waits += 1
            counters.misses += plan.stale_ms != ""
            since_ms, began = answer.now_ms, asked
        left_s = max(0.001, answer.left_ms / 1000)
        if plan.trouble.timeout_s is not None:
            rest_s = began + plan.trouble.timeout_s - await Now()
            if rest_s <= 0:
                raise _too_late(plan, plan.trouble.timeout_s)
            left_s = min(left_s, rest_s)
        await Pause(min(spread(pause_s, rand), left_s), plan.channel, plan.word, min(COMPUTE_WOKEN_PAUSE_S, left_s))
        pause_s = next_pause(pause_s, _longest_pause(plan))


async def _claim(plan: Computation, token: str, since_ms: int | None) -> ClaimAnswer:
    try:
        return await Do(plan.claim(token, since_ms))
    except GeneratorExit:
        raise
    except BaseException as error:
        # The caller was cancelled or the reply was lost: the server may have granted the claim without our knowing.
        if not isinstance(error, DataStoreError) or error.outcome_unknown:
            silent = isinstance(error, StoreTimeout)
            await take_back(lambda: plan.fail(token, None), plan.lock_ms / 1000, silent=silent)
        raise


class _UnderWay:
    """A computation. Tasks that it has started know of it, and may outlive it."""

    __slots__ = ("over", "place")

    def __init__(self, place: Hashable) -> None:
        self.place = place
        self.over = False


_under_way: ContextVar[tuple[_UnderWay, ...]] = ContextVar("_under_way", default=())
"""The computations that this thread or task is part of."""


async def _compute(plan: Computation, make: Callable[[], Any], token: str, owed: list[str], asked: float) -> bytes:
    """Compute the value under a claim requested at `asked`, store it, and return the bytes that callers get.

    The cache is only a cache: a result that the store cannot keep is returned all the same.
    """
    keeping = await Renew(_renewing(plan, token), plan.lock_ms / 1000, asked)
    computation = _UnderWay(plan.place)
    before = _under_way.set((*_under_way.get(), computation))
    made = False
    try:
        owed.clear()
        value = await Ask[Any](make)
        text = plan.encode(value)
        made = True
        stored, there = await Do(plan.commit(token, text))
    except GeneratorExit:
        raise
    except BaseException as error:
        if made and isinstance(error, OUTAGES):
            logger.warning("%r was computed and could not be stored: %s", plan.key, error)
            await take_back(lambda: plan.fail(token, None), plan.lock_ms / 1000, silent=isinstance(error, StoreTimeout))
            return text
        plan.counters.compute_errors += 1
        # An interrupt or a cancellation is no error of the function, so a waiter claims in turn.
        failed = Failed(type(error).__name__, _message(error)) if isinstance(error, Exception) else None
        await take_back(lambda: plan.fail(token, failed), plan.lock_ms / 1000)
        raise
    finally:
        computation.over = True
        _under_way.reset(before)
        keeping.stop()
    # If another value was set meanwhile, it is newer, and the waiters see it.
    return text if stored or there is None else there


def _renewing(plan: Computation, token: str) -> Callable[[], Op[bool]]:
    """Return what renews the claim; with a timeout, no longer than that, so that a function that hangs gives way."""
    lock_s, timeout_s = plan.lock_ms / 1000, plan.trouble.timeout_s
    if timeout_s is None:
        return lambda: plan.renew(token)
    renewals = iter(range(int(max(0.0, timeout_s - lock_s) / (lock_s / 3))))  # one for each third of the claim's life

    async def renew() -> bool:
        return next(renewals, None) is not None and await plan.renew(token)

    return renew


def _longest_pause(plan: Computation) -> float:
    """Return the longest pause between polls, short enough that waiters see a value that soon expires."""
    return (
        FLOW_LONGEST_PAUSE_S if plan.ttl_ms == "" else max(FIRST_PAUSE_S, min(FLOW_LONGEST_PAUSE_S, plan.ttl_ms / 4000))
    )


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a faulty `__str__` must not keep the waiters waiting
        text = "it has no text"
    return text.encode(errors="backslashreplace").decode()


def _too_late(plan: Computation, timeout_s: float) -> WaitTimeout:
    return WaitTimeout(
        f"Another caller has not computed {plan.key!r} within {timeout_s:g} seconds: call again, or wait longer.",
        namespace=plan.namespace,
        key=plan.key,
    )


def _described(failed: Failed) -> str:
    return one_line(f"{failed.error_type} ({failed.message})")  # the text of another process, perhaps an agent's


def _failed(plan: Computation, failed: Failed) -> ComputeFailed:
    return ComputeFailed(
        f"Another caller computed {plan.key!r} and failed with {_described(failed)}: nothing was cached."
        " Call again to compute it here.",
        key=plan.key,
        error_type=failed.error_type,
        error_message=failed.message,
    )
