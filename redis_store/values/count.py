"""The number of JSON values in a text, found before the text is decoded.

Decoded, a text of empty lists takes twenty times its size in memory. So a text from a stranger is counted first.
"""

from __future__ import annotations

import re

from redis_store.limits import MAX_VALUES, too_many_values

_SEPARATORS = (b",", b"[", b"{")
_SOME_STRINGS = re.compile(rb'(?:[^"]*+"[^"]*+"){1,1000}+|.++', re.DOTALL)
"""Up to 1,000 strings and what stands between them; or a rest that has no complete string."""
_STRING = re.compile(rb'"[^"]*+"?')


def has_more_values(text: bytes, most: int = MAX_VALUES) -> bool:
    """Whether a text has more than `most` values; where it is no JSON, the answer may be either.

    Never takes much more memory than the text, and lets other threads run on the way. Counting ends soon after `most`.
    """
    if len(text) <= most or _separators(text) <= most:
        return False
    if b'"' not in text:
        return True
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")  # leaves only those quotes that begin or end a string
    count = 0
    for some in _SOME_STRINGS.finditer(text):
        count += _separators(_STRING.sub(b"", some[0]))
        if count > most:
            return True
    return False


def check_values(text: bytes, most: int) -> None:
    """Raise `LimitExceeded` if a text has more than `most` values."""
    if has_more_values(text, most):
        raise too_many_values(most)


def _separators(text: bytes) -> int:
    """Return an upper bound of the number of values; separators inside strings count as well."""
    return sum(text.count(one) for one in _SEPARATORS)
