"""Rounds with seeds in a row: ``python -m tests.support.rights_fuzz --seconds 3600 --seed 1``."""

from __future__ import annotations

import argparse
import random
import sys

from tests.support.rights_fuzz.rounds import rounds
from tests.support.servers import REAL_KINDS, MissingServer, start_server


def main() -> int:
    """Print a line for each round; return 1 at the first violation."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="stop after this time")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="the seed of the first round")
    parser.add_argument("--server", choices=REAL_KINDS, default=REAL_KINDS[-1], help="the server")
    given = parser.parse_args()
    try:
        server = start_server(given.server)
    except MissingServer as error:
        print(error)
        return 2
    try:
        for report in rounds(server, given.seed, given.seconds):
            print(report, flush=True)
            if report.violation:
                print(f'Repeat with: make fuzz ARGS="--seconds 1 --seed {report.seed} --server {given.server}"')
                return 1
    finally:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
