"""Small records on disk, whole or not there, whoever is killed when."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path


def read_json(path: Path) -> dict[str, object]:
    """The object in the file; an empty one where the file is missing or damaged."""
    try:
        record = json.loads(path.read_bytes())
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
    ):  # damaged by a machine that died: as if it were not there
        return {}
    return record if isinstance(record, dict) else {}


def write_json(path: Path, record: dict[str, object]) -> None:
    """Replace the file by an object."""
    write_whole(path, json.dumps(record))


def write_whole(path: Path, text: str) -> None:
    """Replace the file as a whole, also for a machine that dies."""
    fd, new = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(new).replace(path)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise
