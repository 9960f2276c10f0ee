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


def _transcript(turns: int) -> dict[str, Any]:
    """Return the messages of a chat, in several scripts."""
    said = [
        "Wie viele Fälle gab es, und warum? 🙂",
        "検索結果は三件です。最初のものを要約します。",
        "Проверьте, пожалуйста, ещё раз.",
    ]
    messages = [
        {"role": ("user", "assistant")[turn % 2], "content": said[turn % 3], "at": 1767225600.25 + turn, "name": None}
        for turn in range(turns)
    ]
    return {"id": "chat-1", "messages": messages}


def _answer(count: int) -> list[dict[str, Any]]:
    """Return what an API returns: many objects of the same keys."""
    return [
        {
            "id": number,
            "url": f"https://api.example.org/items/{number}",
            "stars": number * 37,
            "owner": {"login": "ann"},
        }
        for number in range(count)
    ]


def _embedding(count: int) -> list[float]:
    return [math.sin(number) / 7 for number in range(count)]


SHAPES: dict[str, dict[str, Any]] = {
    "100 B": {
        "record": SMALL,
        "finding": {"line": 10, "severity": None, "where": {"file": "src/app/main.py", "tags": ["a"]}},
    },
    "2 KB": {
        "text": SOURCE,
        "findings": _findings(9),
        "transcript": _transcript(14),
        "answer": _answer(20),
        "embedding": _embedding(96),
    },
    "100 KB": {
        "text": BIG,
        "findings": _findings(480),
        "transcript": _transcript(720),
        "answer": _answer(1000),
        "embedding": [_embedding(1536)] * 3,
    },
}
"""The values of each size, by their shape. A row of a table is as slow as its slowest shape."""


def of_size(size_bytes: int) -> Any:
    """Return a value of about `size_bytes` as JSON, mostly text, as in most big documents."""
    if size_bytes <= 20:
        return "x" * max(0, size_bytes - 2)
    return {"path": "a", "text": (SOURCE["content"] * (size_bytes // 1850 + 1))[: size_bytes - 60]}
