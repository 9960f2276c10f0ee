"""The types of the public API, as a type checker sees them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_types_of_the_api(tmp_path: Path) -> None:
    """The uses in `typed_use.py`, and the agent that docs/sandbox.md shows, whose globals a checker knows."""
    documented = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8"), re.S | re.M
    )
    (source,) = (block for block in documented if "TYPE_CHECKING" in block)
    agent = tmp_path / "agent.py"
    agent.write_text(source, encoding="utf-8")
    uses = ROOT / "tests" / "repository" / "typed_use.py"
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(uses), str(agent)]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
