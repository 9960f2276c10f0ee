"""Rounds with seeds in a row, on each server in turn: ``python -m tests.support.histories --seconds 3600 --seed 1``."""

from __future__ import annotations

import argparse
import random
import sys

from tests.support.histories.rounds import ROUND_S, rounds


def main() -> int:
    """Print a line for each round; return 1 at the first violation."""
    parser = argparse.ArgumentParser(prog="make histories", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="stop after this time")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="the seed of the first round")
    parser.add_argument("--round", type=float, default=ROUND_S, help="the seconds of a round")
    given = parser.parse_args()
    for kind, report in rounds(given.seconds, given.seed, given.round):
        print(f"{kind} {report}", flush=True)
        if report.violations:
            print(f'Repeat with: make histories ARGS="--seconds {given.round:g} --seed {report.seed}"')
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
