"""Dead letters: changes that failed on every try, stored with their error in the namespace ``dead-letter:<consumer>``."""

from __future__ import annotations

from redis_store import AsyncDataStore, Change
from redis_store.errors import LimitExceeded
from redis_store.types import Json

_LONGEST_KEY_PART = 1000


def namespace_of(consumer: str) -> str:
    """Return the namespace of a consumer's dead letters."""
    return f"dead-letter:{consumer}"


class DeadLetters:
    """Stores the dead letters of one consumer."""

    def __init__(self, store: AsyncDataStore, consumer: str, agent: str | None) -> None:
        self._store = store.use_namespace(namespace_of(consumer))
        self._agent = agent

    async def write(self, change: Change, as_json: dict[str, Json] | None, error: Exception, tries: int) -> None:
        """Store a change with its error. The value is left out if it is not JSON (`as_json` is None) or too big."""
        told = {"type": type(error).__name__, "message": str(error), "traceback": getattr(error, "traceback", "")}
        record: dict[str, Json] = {"change": as_json, "error": told, "agent": self._agent, "tries": tries}
        small = {name: getattr(change, name) for name in ("namespace", "key", "op", "cursor", "agent", "run")}
        key = f"{(change.key or change.op)[:_LONGEST_KEY_PART]}@{change.cursor}"
        try:
            await self._store.set(key, record if as_json is not None else {**record, "change": small})
        except LimitExceeded:
            await self._store.set(key, {**record, "change": small})
