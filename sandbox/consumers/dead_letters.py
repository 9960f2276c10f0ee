"""Dead letters: changes that failed on every try, stored with their error in the namespace ``dead-letter:<consumer>``.

The last resort is a dead letter of a few short texts, which every store takes: any writer of the namespace decides about a
change's key and value, and none of them may end the consumer.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from redis_store import AsyncDataStore, Change
from redis_store.errors import InvalidInput
from redis_store.types import Json
from sandbox.child.reports import class_name, text_of

_LONGEST_KEY_PART = 1000
"""Maximum length of a change's key in the key of its dead letter, in characters."""

_SHORT = 1000
"""Maximum length of a text in a dead letter of the last resort, in characters."""

_FACTS = ("namespace", "key", "op", "cursor", "agent", "run")
"""The facts about a change beside its value."""


def namespace_of(consumer: str) -> str:
    """Return the namespace of a consumer's dead letters."""
    return f"dead-letter:{consumer}"


class DeadLetters:
    """Stores the dead letters of one consumer."""

    def __init__(self, store: AsyncDataStore, consumer: str, agent: str | None) -> None:
        self._store = store.use_namespace(namespace_of(consumer))
        self._agent = agent

    async def write(self, change: Change, as_json: dict[str, Json] | None, error: Exception, tries: int) -> None:
        """Store a change with its error. What the store does not take is left out, and ``left_out`` says what and why.

        The value is left out if it is not JSON (`as_json` is None), too big or too deep.
        """
        why = text_of(error)
        for left_out, record in self._records(change, as_json, error, tries):
            told = {"left_out": dict.fromkeys(left_out, _short(why))} if left_out else {}
            try:
                await self._store.set(_key_of(change), {**record, **told})
            except (InvalidInput, RecursionError, MemoryError) as refusal:
                why, last = str(refusal), refusal
            else:
                return
        raise last

    def _records(
        self, change: Change, as_json: dict[str, Json] | None, error: Exception, tries: int
    ) -> Iterator[tuple[tuple[str, ...], dict[str, Json]]]:
        """Yield the dead letters to try, each smaller than the one before, with the names of what it leaves out."""
        kind, said, trace = class_name(error), text_of(error), getattr(error, "traceback", "")
        facts = {name: getattr(change, name) for name in _FACTS}
        record = {
            "error": {"type": kind, "message": said, "traceback": trace},
            "agent": self._agent,
            "tries": tries,
        }
        if as_json is not None:
            yield (), {"change": as_json, **record}
        yield ("value",), {"change": facts, **record}
        short_facts = {name: None if fact is None else _short(fact) for name, fact in facts.items()}
        short_error = {"type": kind, "message": _short(said), "traceback": _short(trace)}
        yield ("value", "ends of long texts"), {"change": short_facts, **record, "error": short_error}


def _key_of(change: Change) -> str:
    """Return the key of a change's dead letter, which no other change of this consumer has."""
    key = change.key or change.op
    if len(key) > _LONGEST_KEY_PART:
        digest = blake2b(key.encode(errors="backslashreplace"), digest_size=8).hexdigest()
        key = f"{key[:_LONGEST_KEY_PART]}~{digest}"
    return _sendable(f"{key}@{change.cursor}")


def _short(text: object) -> str:
    whole = str(text)
    return _sendable(whole if len(whole) <= _SHORT else whole[: _SHORT - 1] + "…")


def _sendable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
