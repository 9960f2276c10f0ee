"""What became of a value or a text, as a text that is the same wherever the same became of it.

Like the generator, its source is part of an agent, so it imports only the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def outcome_of_value(store: Callable[[Any], None], read: Callable[[], Any], value: Any) -> str:
    """Return what is read back of a value, exactly, or the refusal and its path."""
    try:
        store(value)
    except Exception as error:
        return f"{type(error).__name__} at {getattr(error, 'path', None)!r}: {error}"
    return f"value {read()!r}"


def outcome_of_text(read: Callable[[], Any]) -> str:
    """Return the value of a stored text, exactly, or the error."""
    try:
        return f"value {read()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def same_text(fast: bytes, reference: bytes) -> bool:
    """Whether two texts are the same but for how they write floats, of which each reads both in the same way."""
    return fast == reference or _written_again(fast) == _written_again(reference)


def _written_again(text: bytes) -> str:
    # A key that is there twice stays so, and the order of keys as well.
    return json.dumps(json.loads(text, object_pairs_hook=lambda pairs: [["{}"], *map(list, pairs)]))
