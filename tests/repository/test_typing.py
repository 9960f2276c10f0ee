"""The types of the public API, as a type checker sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_types_of_the_api(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--cache-dir",
        str(tmp_path),
        str(ROOT / "tests" / "repository" / "typed_use.py"),
    ]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
