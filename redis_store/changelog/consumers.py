"""Operations of durable consumers: who works as one, and how far it has come. No I/O."""

from __future__ import annotations

from typing import Any

from redis_store.ops.run_script import run_script
from redis_store.protocol.call import read
from redis_store.scripts import ADVANCE, CLAIM, RELEASE

LOCK_MS = 6000
"""A consumer of which nothing has been heard for so long, by the server's clock, is taken for dead."""


async def claim(lock: bytes, cursors: bytes, holder: str, namespaces: tuple[bytes, ...]) -> list[bytes | None] | None:
    """Become the consumer; the cursors of some namespaces, or None where another process is the consumer."""
    found: list[bytes | None] | None = await run_script(CLAIM, (lock, cursors), (holder, LOCK_MS, *namespaces))
    return found


async def all_cursors(cursors: bytes) -> dict[bytes, bytes]:
    """How far the consumer has come in each namespace."""
    flat = await read("HGETALL", cursors, bulk=True)
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def names_of(cursors: bytes, namespaces: tuple[bytes, ...]) -> set[bytes]:
    """Of which of these namespaces the consumer has a cursor; where none are given, of which ones at all."""
    if not namespaces:
        return set(await read("HKEYS", cursors, bulk=True))
    texts = await read("HMGET", cursors, *namespaces)
    return {name for name, text in zip(namespaces, texts, strict=True) if text is not None}


async def advance(lock: bytes, cursors: bytes, holder: str, moved: dict[bytes, str]) -> bool:
    """Move cursors, forget empty ones; False where another process has become the consumer, and then nothing is written."""
    pairs: tuple[Any, ...] = tuple(part for pair in moved.items() for part in pair)
    return bool(await run_script(ADVANCE, (lock, cursors), (holder, LOCK_MS, *pairs)))


async def release(lock: bytes, holder: str) -> None:
    """Let another process become the consumer at once."""
    await run_script(RELEASE, (lock,), (holder,))
