"""`make bench-quick`: measure the most frequent calls beside redis-py, with the documents that agents store, in some minutes.

Both sides do the same for the caller: JSON in, JSON out. redis-py sends a bare ``HSET``; ours also writes the registry, the
info and the change log in the same call. The results of both sides are compared before anything is timed. The figure of a row
is that of its slowest shape of document; the others stand beside it.

Measures on Redis 7, Redis 8 and Valkey 9, as far as they are there, or on other programs.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import tables
from benchmarks.measure import measured
from benchmarks.server import programs


def main(arguments: list[str] | None = None) -> int:
    """Print the table. Return 0."""
    parser = argparse.ArgumentParser(prog="make bench-quick", description=__doc__)
    parser.add_argument("servers", nargs="*", help="paths of server programs (default: Redis 7, Redis 8 and Valkey 9)")
    parser.add_argument("--rows", default="", help="a part of the names of the rows to measure (default: all)")
    given = parser.parse_args(arguments)
    found = [
        [measured(program, pinned=pinned, quick=True, matching=given.rows) for pinned in (True, False)]
        for program in given.servers or programs().values()
    ]
    print(tables.targets([tables.server_of(*both) for both in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
