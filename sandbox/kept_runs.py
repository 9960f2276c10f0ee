"""How many records of runs are kept for each user, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, fields

from redis_store.limits import MAX_LOG_DAYS, shown
from redis_store.options import names_its_fields
from sandbox.errors import InvalidInput, InvalidType

_MIB = 1024 * 1024
_DAY_MS = 86_400_000

MOST_RUNS = 1000
"""Bound on the records of one user: each write looks at the index of all of them, which takes the server 2 ms."""

FEWEST_BYTES = 64 * 1024
"""Lowest bound on the bytes of a user's records; one record takes at most half of the bound."""


@names_its_fields
@dataclass(frozen=True, slots=True)
class KeptRuns:
    """Bounds on the records of runs that are kept for one user. Each record that is written keeps to them.

    If one is exceeded, the oldest record goes of the agent that has the most. So an agent that runs often, or is made to run
    often by another, pushes out its own records first.
    """

    runs: int = 500
    """Number of records."""
    bytes: int = 16 * _MIB
    """Size of all records together, in bytes."""
    days: float = 30
    """Time for which a record is kept, in days."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))

    @property
    def life_ms(self) -> int:
        """The time for which a record is kept, in ms."""
        return max(1, round(self.days * _DAY_MS))


def check_keep(given: object) -> KeptRuns | None:
    """Return the bounds that a caller passed as `keep`, or None if no record is kept."""
    if given is None or isinstance(given, KeptRuns):
        return given
    if isinstance(given, bool):
        return KeptRuns() if given else None
    raise InvalidType(f"keep must be a sandbox.KeptRuns, a bool or None, not {type(given).__name__}.")


_BOUNDS = {"runs": (1, MOST_RUNS), "bytes": (FEWEST_BYTES, 2**30), "days": (0, MAX_LOG_DAYS)}


def _check(name: str, value: object) -> None:
    whole = name != "days"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise InvalidType(f"KeptRuns.{name} must be {'an int' if whole else 'a number'}, not {type(value).__name__}.")
    least, most = _BOUNDS[name]
    if not least <= value <= most or value == 0:  # so for nan too
        at_least = f"at least {least:,}" if least else "more than 0"
        raise InvalidInput(f"KeptRuns.{name}={shown(value)} cannot be used: give {at_least} and at most {most:,}.")
