"""Print the branch coverage of the last run by folder: ``python -m tests.support.coverage_by_package``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path


def main() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "coverage", "json", "-q", "-o", "-"], capture_output=True, text=True, check=True
    )
    covered: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for name, file in json.loads(made.stdout)["files"].items():
        summary = file["summary"]
        for folder in (str(Path(name).parent), "all"):
            covered[folder] += summary["covered_lines"] + summary.get("covered_branches", 0)
            total[folder] += summary["num_statements"] + summary.get("num_branches", 0)
    for folder in sorted(total):
        print(f"{100 * covered[folder] / max(1, total[folder]):6.1f} %  {folder}")


if __name__ == "__main__":
    main()
