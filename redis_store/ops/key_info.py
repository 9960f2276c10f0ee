"""The info that is stored beside a value: its text, made by `scripts/info_text.lua`, and the `KeyInfo` that callers get."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from redis_store.types import Json, KeyInfo
from redis_store.values import rules

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_9999_US = 253_370_764_800_000_000
"""Start of the year 9999, the last that a datetime can represent, in µs since 1970."""

_FIRST_US = 10**14
"""Numbers below this are times in ms, as format 1 of infos has them: 13 digits. In µs it stands for a day in 1973."""

_TIMES = re.compile(
    rb'\{"created":([0-9]{1,16})(?![0-9])(?:,"updated":([0-9]+))?(?:,"by":"[^"]*")?(?:,"updated":([0-9]+))?'
)
"""What `scripts/times.lua` reads. In format 1 `by` precedes `updated`."""


def key_info(key: str, text: bytes | None, size: int, expires_ms: int) -> KeyInfo:
    """Return what callers get for a key: its info as it is stored, the size of its value, and when it expires, if it does."""
    known = load_object(text or b"{}")
    created = _time(known.get("created"))
    by = _name(known.get("by"))
    metadata = known.get("metadata")
    return KeyInfo(
        key=key,
        created_at=created,
        created_by=by,
        updated_at=_time(known.get("updated")) or created,
        updated_by=_name(known["updated_by"]) if "updated_by" in known else by,
        metadata=metadata if isinstance(metadata, dict) else {},
        size=size,
        expires_at=_time(expires_ms),
        version=version_in(text),
        run=_name(known.get("run")),
    )


def version_in(text: bytes | None) -> int | None:
    """Return the version of a key with this info, the time of its last write in µs, as scripts see it. None if it has none."""
    found = _TIMES.match(text or b"")
    if found is None:
        return None
    created, updated, updated_in_format_1 = found.groups()
    last = updated or updated_in_format_1 or created
    return us_of(int(last if len(last) <= 16 else created)) or None


def version_of(found: bytes) -> int | None:
    """Return the version that a script has found (`scripts/version.lua`): 0 for a missing key, None for a value without info."""
    return int(found) if found else None


def created_ms(text: bytes | None) -> int | None:
    """Return when a key was created, in ms since 1970, or None if its info does not say it."""
    created = load_object(text or b"{}").get("created")
    return us_of(created) // 1000 if type(created) is int else None


def us_of(time: int) -> int:
    """Return a time of an info, in ms or µs, in µs."""
    return time * 1000 if time < _FIRST_US else time


def texts_of_tags(tags: Iterable[str]) -> list[str]:
    """Return tags, given by their Redis keys, as an info has them (`scripts/info_text.lua`)."""
    names = [json.dumps(tag)[1:-1] for tag in tags]
    for raw, escape in (("\\\\", "\\u005c"), ('\\"', "\\u0022"), ("}", "\\u007d")):
        names = [name.replace(raw, escape) for name in names]
    return names


def load_object(text: bytes) -> dict[str, Json]:
    """Return a JSON object, empty if the text is none."""
    try:
        known = rules.load(text)
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _time(time: Any) -> datetime | None:
    """Convert a time of the server; None if it is not one (from an external write, or a negative reply)."""
    if type(time) is not int or not 0 < us_of(time) < _YEAR_9999_US:
        return None
    return _EPOCH + timedelta(microseconds=us_of(time))


def _name(name: object) -> str | None:
    return name if isinstance(name, str) else None
