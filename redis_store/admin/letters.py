"""Dead letters: changes that agents could not process, in a namespace of each consumer, ``dead-letter:<consumer>``."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import orjson

from redis_store.admin.records import DeadLetter
from redis_store.admin.search import scopes
from redis_store.admin.walks import Walk
from redis_store.errors import StoredDataError
from redis_store.namespace.keys import encode_key
from redis_store.namespace.scope import Scope
from redis_store.ops.batch import infos
from redis_store.ops.listing import START, page_size, scan_items_page
from redis_store.ops.updates import replace, stored
from redis_store.ops.values import delete

DEAD_LETTERS = "dead-letter:"
"""Beginning of the names of the namespaces with dead letters; the name of the consumer follows."""

RetryOutcome: TypeAlias = Literal["retried", "gone", "no value", "not there"]
"""What `retry` did: the change was written again; the key is gone; the change was no write; there is no such dead letter."""


async def letters(user: str | None = None, consumer: str | None = None) -> Walk[DeadLetter]:
    """Yield the dead letters of all consumers, or of one."""
    async for page in scopes(user):
        for scope in page:
            name = scope.namespace
            if name.startswith(DEAD_LETTERS) and consumer in (None, name.removeprefix(DEAD_LETTERS)):
                async for found in _letters(scope):
                    yield found


async def _letters(scope: Scope) -> Walk[DeadLetter]:
    cursor, page_keys, met = START, await page_size(scope), set[str]()
    while True:
        cursor, found = await scan_items_page(scope, cursor, None, page_keys)
        new = [key for key in found if key not in met]
        met.update(new)
        told = await infos(scope, new)
        yield [_letter(scope, key, found[key], told[key].created_at if key in told else None) for key in new]
        if cursor == START:
            return


def _letter(scope: Scope, key: str, stored_bytes: bytes, at: Any) -> DeadLetter:
    record = _object(scope, key, stored_bytes)
    change, error = (part if isinstance(part := record.get(name), dict) else {} for name in ("change", "error"))
    tries = record.get("tries")
    return DeadLetter(
        user=scope.user.user,
        consumer=scope.namespace.removeprefix(DEAD_LETTERS),
        id=key,
        at=at,
        namespace=_text(change.get("namespace")),
        key=_text(change.get("key")),
        op=_text(change.get("op")),
        writer=_text(change.get("agent")),
        agent=_text(record.get("agent")),
        tries=tries if isinstance(tries, int) else None,
        error_type=_text(error.get("type")),
        error=_text(error.get("message")),
        traceback=_text(error.get("traceback")),
    )


async def retry(scope: Scope, letter: str) -> RetryOutcome:
    """Write the value that the change's key has now once more, so that the consumer gets it, and delete the dead letter.

    The value keeps its expiry. A key that was deleted since, and a change that was no write, have nothing to be written.
    """
    text = await stored(scope, encode_key(letter))
    if text is None:
        return "not there"
    found = _letter(scope, letter, text, None)
    if found.op != "set" or found.namespace is None or found.key is None:
        return "no value"
    place, field = scope.moved(found.namespace), encode_key(found.key)
    there = await stored(place, field)
    while there is not None:
        written = await replace(place, field, there, "", "keep", there)
        if written is True:
            await delete(scope, letter)
            return "retried"
        there = written
    return "gone"


def _object(scope: Scope, key: str, stored_bytes: bytes) -> dict[str, Any]:
    try:
        record = orjson.loads(scope.codec.packing.plain(stored_bytes, scope.namespace, key))
    except (ValueError, StoredDataError):
        return {}
    return record if isinstance(record, dict) else {}


def _text(found: object) -> str | None:
    return found if isinstance(found, str) else None
