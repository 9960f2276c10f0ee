"""How an operation runs a script: by its digest, and by its text where the server does not know it."""

from __future__ import annotations

from typing import Any

from redis_store._call import Call, as_is
from redis_store._replies import ScriptMissing
from redis_store.scripts import Script


async def run_script(
    script: Script,
    keys: tuple[bytes, ...],
    arguments: tuple[bytes | str | int, ...],
    repeatable: bool = False,
    bulk: bool = False,
) -> Any:
    """Run a script in one round trip, or in two where the server's script cache has been emptied."""
    try:
        return await Call((script.by_digest(keys, arguments),), as_is, repeatable, bulk)
    except ScriptMissing:
        return await Call((script.by_text(keys, arguments),), as_is, repeatable, bulk)
