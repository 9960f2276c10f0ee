"""The format version of a user's data, and the mark in Redis that tells it: the one place that knows both.

The first writer of a user writes the mark, in the script that makes the first entry of the registry. A process looks at it before
its first operation for a user (`ops/first_look.py`), raises an older one, and refuses a newer one. Data without a mark has
format 1.

To change the format: raise `DATA_FORMAT` by one, and set `READ_SINCE` to the version of the package that will be the first to
read it. Readers must go on reading older formats, because values are rewritten only when somebody writes them.
"""

from __future__ import annotations

import re

from redis_store.errors import UnsupportedEncoding
from redis_store.limits import shown

DATA_FORMAT = 2
"""The format that this version writes, and the newest that it reads."""

READ_SINCE = "0.1.0"
"""The first version of this package that reads it."""

_WRITTEN_MARK = re.compile(rb'\{"format":([1-9][0-9]{0,8}),"read_since":"([0-9A-Za-z.+-]{1,40})"\}')


def mark() -> bytes:
    """Return the text of the mark."""
    return b'{"format":%d,"read_since":"%b"}' % (DATA_FORMAT, READ_SINCE.encode())


def check_mark(raw: bytes | None, user: str) -> int:
    """Return the format that a mark tells. Raises `UnsupportedEncoding` for a newer one, with the version that reads it."""
    if raw is None:
        return 1
    told = _WRITTEN_MARK.fullmatch(raw)
    if told is None:
        raise UnsupportedEncoding(
            f"The format version of the data of {user!r} cannot be read, and nothing was read or written: {shown(raw)}. It was"
            " written by hand or by a later version. Upgrade agent-data-store, or see docs/upgrading.md."
        )
    if (number := int(told[1])) > DATA_FORMAT:
        raise UnsupportedEncoding(
            f"The data of {user!r} has format {number}, and this version of agent-data-store reads formats up to {DATA_FORMAT}:"
            f" nothing was read or written. Upgrade to agent-data-store {told[2].decode()} or later, see docs/upgrading.md."
        )
    return number
