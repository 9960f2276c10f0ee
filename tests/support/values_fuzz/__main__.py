"""Seeds in a row, in this process and in the sandbox: ``python -m tests.support.values_fuzz --count 1000000 --seed 1``."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter

from tests.support.servers import REAL_KINDS, MissingServer, start_server
from tests.support.values_fuzz.rounds import IN_A_RUN, Disagreement, check_in_the_sandbox, check_in_this_process

SHOWN_EVERY = 20 * IN_A_RUN


def main() -> int:
    """Print a line for each hundred thousand values; return 1 at the first disagreement."""
    parser = argparse.ArgumentParser(prog="make fuzz-values", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="number of values, and of texts, on each side")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="the seed of the first value")
    parser.add_argument("--side", choices=("here", "sandbox", "both"), default="both", help="where to check them")
    parser.add_argument("--server", choices=REAL_KINDS, default=REAL_KINDS[-1], help="the server of the agents")
    given = parser.parse_args()
    print(f"seeds from {given.seed} on", flush=True)
    try:
        for side in ("here", "sandbox") if given.side == "both" else (given.side,):
            seeds = range(given.seed, given.seed + given.count)
            for start in range(0, given.count, SHOWN_EVERY):
                _show(side, seeds[start : start + SHOWN_EVERY], given.server)
    except MissingServer as error:
        print(error)
        return 2
    except Disagreement as error:
        print(f'{error}\nRepeat with: make fuzz-values ARGS="--side {side} --count 1 --seed N", N as above')
        return 1
    return 0


def _show(side: str, seeds: range, kind: str) -> None:
    start = time.monotonic()
    if side == "here":
        became = Counter(map(check_in_this_process, seeds))
    else:
        server = start_server(kind)
        try:
            became = check_in_the_sandbox(server, seeds)
        finally:
            server.stop()
    print(
        f"{side}: {len(seeds):,} values from seed {seeds[0]}: {became['stored']:,} stored, {became['refused']:,} refused,"
        f" all as the rules say, in {time.monotonic() - start:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
