"""Small records on disk, written atomically: a kill leaves the old record or the new one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path


def read_json(path: Path) -> dict[str, object]:
    """Return the object in the file, or an empty one if the file is missing or damaged."""
    try:
        record = json.loads(path.read_bytes())
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
    ):  # a file damaged by a crash of the machine counts as missing
        return {}
    return record if isinstance(record, dict) else {}


def write_json(path: Path, record: dict[str, object]) -> None:
    """Replace the file's content by an object, atomically."""
    write_whole(path, json.dumps(record))


def write_whole(path: Path, text: str) -> None:
    """Replace the file's content atomically, even if the machine crashes."""
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
