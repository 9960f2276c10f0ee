"""Operations of durable consumers: their locks, which one process at a time holds, and their cursors. No I/O."""

from __future__ import annotations

from redis_store.ops.run_script import run_script
from redis_store.protocol.call import read
from redis_store.scripts import CLAIM, RELEASE

LOCK_MS = 6000
"""Time to live of a consumer's lock, by the server's clock, in ms. A process that does not renew it in time counts as dead."""

CURSORS_DAYS = 90
"""Time for which the cursors of a consumer that does not run are kept, in days; longer if change logs are."""

CURSORS_MS = CURSORS_DAYS * 86_400_000


async def claim(
    lock: bytes, cursors: bytes, holder: str, namespaces: tuple[bytes, ...], life_ms: int = CURSORS_MS
) -> list[bytes | None] | None:
    """Become the consumer. Return the cursors of some namespaces, or None if another process is the consumer.

    All cursors are kept for `life_ms` from now.
    """
    return await _claim(lock, cursors, holder, dict.fromkeys(namespaces, "?"), life_ms)


async def all_cursors(cursors: bytes) -> dict[bytes, bytes]:
    """Return the consumer's cursor in each namespace."""
    flat = await read("HGETALL", cursors, bulk=True)
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def names_of(cursors: bytes, namespaces: tuple[bytes, ...]) -> set[bytes]:
    """Return those of the given namespaces in which the consumer has a cursor, or all such namespaces if none are given."""
    if not namespaces:
        return set(await read("HKEYS", cursors, bulk=True))
    texts = await read("HMGET", cursors, *namespaces)
    return {name for name, text in zip(namespaces, texts, strict=True) if text is not None}


async def advance(lock: bytes, cursors: bytes, holder: str, moved: dict[bytes, str], life_ms: int = CURSORS_MS) -> bool:
    """Save cursors and delete empty ones. Return False, and write nothing, if another process has become the consumer."""
    return await _claim(lock, cursors, holder, moved, life_ms) is not None


async def _claim(
    lock: bytes, cursors: bytes, holder: str, moved: dict[bytes, str], life_ms: int
) -> list[bytes | None] | None:
    """Run `scripts/claim.lua`. Return the cursors of the namespaces with ``?``, or None if another process is the consumer."""
    pairs = (part for pair in moved.items() for part in pair)
    found: list[bytes | None] | None = await run_script(CLAIM, (lock, cursors), (holder, LOCK_MS, life_ms, *pairs))
    return found


async def release(lock: bytes, holder: str) -> None:
    """Release the consumer's lock, so that another process can become the consumer at once."""
    await run_script(RELEASE, (lock,), (holder,))
