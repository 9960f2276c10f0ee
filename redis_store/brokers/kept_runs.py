"""The runs of a store's user that are kept: written when a run has ended, and read by the commands."""

from __future__ import annotations

from redis_store.operations import operations_of
from redis_store.ops import kept_runs
from redis_store.ops.run_record import (
    MOST_NESTED_IDS,
    KeptCall,
    KeptHint,
    KeptOperation,
    KeptRun,
    RunError,
    RunSummary,
    first_and_last,
)
from redis_store.store import DataStore

__all__ = [
    "MOST_NESTED_IDS",
    "KeptCall",
    "KeptHint",
    "KeptOperation",
    "KeptRun",
    "RunError",
    "RunSummary",
    "first_and_last",
    "get_run",
    "keep",
    "list_runs",
]


def keep(store: DataStore, run: KeptRun, most_runs: int, most_bytes: int, life_ms: int) -> None:
    """Keep the record of a run of the store's user within bounds on the number, the bytes and the life of all of them."""
    on = operations_of(store)
    on.run(kept_runs.keep(on.scope.user, run, most_runs, most_bytes, life_ms))


def list_runs(store: DataStore) -> list[RunSummary]:
    """Return the user's runs that are kept, the one that began last first."""
    on = operations_of(store)
    return on.run(kept_runs.list_runs(on.scope.user))


def get_run(store: DataStore, run: str) -> KeptRun | None:
    """Return the record of a run, or of the run that it is nested in; None if there is none."""
    on = operations_of(store)
    return on.run(kept_runs.get_run(on.scope.user, run))
