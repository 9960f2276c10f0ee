"""JSON text of an agent's values, and back: in C where that agrees with `redis_store/values/rules.py`, else by the rules.

As in `redis_store/values/codec.py`, orjson writes what another encoder has found to be of exact builtin types. Here that is
msgpack, which frames need anyway. The process has a limit on its memory, where orjson crashes, so it begins only if there is
enough.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec._core import MsgspecError
from msgspec._core import json_decode as _load
from orjson.orjson import OPT_PASSTHROUGH_DATACLASS, OPT_PASSTHROUGH_DATETIME, OPT_PASSTHROUGH_SUBCLASS
from orjson.orjson import dumps as _dump

from redis_store.values import rules

try:
    from msgpack._cmsgpack import Packer
except ImportError:
    from msgpack.fallback import Packer

_STRICT = OPT_PASSTHROUGH_SUBCLASS | OPT_PASSTHROUGH_DATACLASS | OPT_PASSTHROUGH_DATETIME
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search
"""Finds each NaN and infinity in MessagePack, as a float of 64 bits whose exponent is all ones, and rarely other bytes."""
_FIRST_BYTES = 4096
"""Size of msgpack's buffer at first, in bytes."""
_ROOM = 300
"""Memory that orjson takes at most while it writes a value, in bytes for each of MessagePack.

It reserves 64 bytes for each item of a list, in buffers that grow to twice the size. Measured, it needs up to 260.
"""
_COPIED_BYTES = 64 * 1024
"""Size up to which a text is copied: orjson leaves up to 30 KiB unused beside its own, and a batch takes 4 times its memory."""


def dump(value: object) -> bytes:
    """Return the JSON text of a value in UTF-8, or raise `InvalidValue`."""
    try:
        packed = Packer(buf_size=_FIRST_BYTES, strict_types=True).pack(value)
        Packer(buf_size=_ROOM * len(packed) + _FIRST_BYTES)  # raises MemoryError if there is no such room
        text: bytes = _dump(value, None, _STRICT)
        # Two searches for a single byte are faster than the pattern, and spare most values with a null that.
        if not (
            text.rfind(b"null") >= 0
            and (packed.find(0x7F) >= 0 or packed.find(0xFF) >= 0)
            and _NOT_FINITE(packed) is not None
        ):
            return b"%b" % text if len(text) < _COPIED_BYTES else text
    except (TypeError, ValueError, OverflowError, RecursionError, MemoryError):
        pass  # not in here, so that the error for the agent has no context of ours
    return rules.dump(value)


def load(text: bytes) -> Any:
    """Parse JSON strictly. Raises `ValueError` or `RecursionError`."""
    try:
        return _load(text)
    except (MsgspecError, ValueError, RecursionError):
        pass
    return rules.load(text)
