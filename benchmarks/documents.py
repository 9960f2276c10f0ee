"""The values that are stored, in the shapes that agents store: records, findings, transcripts, texts, embeddings, API answers."""

from __future__ import annotations

import inspect
import json.encoder
import math
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

EMBEDDING = 1536
"""Number of floats of an embedding."""

OBJECTS = 300
"""Number of objects of an API's answer."""


def _record(fields: int) -> dict[str, Any]:
    """Return a flat record, as a row of a table: texts, numbers, booleans and nulls."""
    kinds: list[Any] = [
        "in review",
        1767225600 + fields,
        0.8731,
        True,
        None,
        "2026-11-30T14:41:45Z",
        "ann@example.org",
        -40,
    ]
    return {f"column_{number:02}": kinds[number % len(kinds)] for number in range(fields)}


def _findings(count: int) -> dict[str, Any]:
    """Return nested objects with nulls, as a code analysis returns them."""
    places = [
        {
            "line": 10 * number,
            "kind": "unused-variable",
            "message": "the variable 'result' is assigned and never used",
            "severity": None if number % 3 else "warning",
            "where": {"file": "src/app/main.py", "column": number, "tags": ["style", "cleanup"]},
        }
        for number in range(count)
    ]
    return {"file": "src/app/main.py", "score": 0.8731, "reviewed_by": None, "findings": places}


_SAID = [
    "Wie viele Fälle gab es, und warum? 🙂",
    "検索結果は三件です。最初のものを要約します。",
    "Проверьте, пожалуйста, ещё раз.",
]


def _transcript(turns: int) -> dict[str, Any]:
    """Return the messages of a chat, in several scripts."""
    messages = [
        {"role": ("user", "assistant")[turn % 2], "content": _SAID[turn % 3], "at": 1767225600.25 + turn, "name": None}
        for turn in range(turns)
    ]
    return {"id": "chat-1", "messages": messages}


def _answer(count: int) -> list[dict[str, Any]]:
    """Return what an API returns: many objects of the same keys, such as the functions of a file with their calls."""
    return [
        {
            "id": number,
            "url": f"https://api.example.org/functions/{number}",
            "name": f"handle_request_{number}",
            "lines": [number * 12, number * 12 + 11],
            "owner": {"login": "ann", "team": None},
            "coverage": number / 300,
            "async": number % 3 == 0,
            "calls": [{"name": f"helper_{number + call}", "line": number * 12 + call} for call in range(3)],
            "docstring": None if number % 4 else "Return the answer, or raise.",
        }
        for number in range(count)
    ]


def _embedding(count: int) -> list[float]:
    return [math.sin(number) / 7 for number in range(count)]


SHAPES: dict[str, dict[str, Any]] = {
    "100 B": {
        "record": SMALL,
        "findings": {
            "line": 10,
            "severity": None,
            "where": {"file": "src/app/main.py", "column": 4, "tags": ["style", None]},
        },
        "transcript": {"role": "assistant", "content": _SAID[1], "name": None},
        "text": {"path": "json/encoder.py", "content": inspect.getsource(json.encoder)[:60]},
    },
    "2 KB": {
        "record": _record(84),
        "findings": _findings(10),
        "transcript": _transcript(17),
        "text": SOURCE,
        "embedding": _embedding(94),
        "answer": _answer(7),
    },
    "100 KB": {
        "findings": _findings(500),
        "transcript": _transcript(840),
        "text": BIG,
        "embedding": [_embedding(EMBEDDING)] * 3,
        "answer": _answer(OBJECTS),
    },
}
"""The values of each size, by their shape, where it fits. A row of a table is as slow as its slowest shape."""


def of_size(size_bytes: int) -> Any:
    """Return a value of about `size_bytes` as JSON, mostly text, as in most big documents."""
    if size_bytes <= 20:
        return "x" * max(0, size_bytes - 2)
    return {"path": "a", "text": (SOURCE["content"] * (size_bytes // 1850 + 1))[: size_bytes - 60]}
