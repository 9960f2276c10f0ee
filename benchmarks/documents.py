"""The values that are stored: a small record, a record of a source file, and bigger ones."""

from __future__ import annotations

import inspect
import json.encoder
from typing import Any

SMALL: dict[str, Any] = {"path": "src/main.py", "lines": 120, "ok": True, "tags": ["a", "b"], "text": "x" * 36}
SOURCE: dict[str, Any] = {
    "path": "json/encoder.py",
    "content": inspect.getsource(json.encoder)[:1850],
    "classes": ["JSONEncoder"],
    "lines": 50,
    "ok": True,
}
BIG: dict[str, Any] = {**SOURCE, "content": (inspect.getsource(json.encoder) * 8)[:97_000]}

DOCUMENTS = {"100 B": SMALL, "2 KB": SOURCE}


def of_size(size_bytes: int) -> Any:
    """Return a value of about `size_bytes` as JSON, mostly text, as in most big documents."""
    if size_bytes <= 20:
        return "x" * max(0, size_bytes - 2)
    return {"path": "a", "text": (SOURCE["content"] * (size_bytes // 1850 + 1))[: size_bytes - 60]}
