"""The rows of the table, and the most that each may take: on one core, and spread over the cores."""

from __future__ import annotations

WRITES = "value, registry, info, log"
"""What a write of ours does, beside one that stores the value only. It stands in the names of the rows."""

TARGETS: dict[str, tuple[float | None, float | None]] = {
    "get 100 B": (0.48, 0.35),
    "get 2 KB": (0.55, 0.45),
    "get 100 KB": (0.90, 0.80),
    "get, miss": (0.48, 0.35),
    f"set 100 B: {WRITES}": (0.80, 0.60),
    f"set 2 KB: {WRITES}": (0.90, 0.70),
    f"set 100 KB: {WRITES}": (1.25, 1.10),
    f"delete: {WRITES}": (0.80, 0.60),
    f"set_many 1,000 x 2 KB: {WRITES}": (0.95, 1.10),
    "get_many 1,000 x 2 KB": (0.95, 0.95),
    "get_all 10,000 x 100 B": (0.85, 0.85),
    "async get 2 KB": (0.40, 0.40),
    f"async set 2 KB: {WRITES}": (0.60, 0.60),
    "async get 2 KB, 50 at once": (0.18, 0.18),
    f"async set 2 KB, 50 at once: {WRITES}": (0.30, 0.30),
    "near hit 100 B": (0.06, 0.06),
    "near hit 2 KB": (0.08, 0.08),
    "near hit 100 KB": (0.40, 0.40),
    "list_namespaces of 10,000": (3.0, 3.0),
    "list_keys 10,000": (1.1, 1.1),
    "list_keys 10,000, prefix of 1 %": (0.6, 0.6),
    "list_keys 100,000, in pages": (1.5, 1.5),
    "list_keys 100,000, prefix of 1 %": (0.6, 0.6),
    "clear 100,000": (0.1, 0.1),
    "a set that one watches": (1.25, 1.25),
    "a set that fifty watch": (1.25, 1.25),
    "in an agent: get 100 B": (0.40, 0.40),
    "in an agent: get 2 KB": (0.40, 0.40),
    "in an agent: get, miss": (0.40, 0.40),
    f"in an agent: set 2 KB: {WRITES}": (None, None),
    "in an agent: get_many 1,000 x 2 KB": (1.5, 1.5),
    f"in an agent: set_many 1,000 x 2 KB: {WRITES}": (1.8, 1.8),
    "in an agent: list_keys 10,000": (1.5, 1.5),
    "in an agent: tool call": (None, None),
    "a run, full isolation": (0.12, 0.12),
}
"""Ratios to the same work of another, which each row names."""

TIMES_MS: dict[str, tuple[float | None, float | None]] = {
    "watch, 50 threads: p50": (None, 1.0),
    "watch, 50 threads: p99": (None, 4.0),
    "a run, full isolation: p50": (5.0, 5.0),
    "a run, full isolation: p99": (10.0, 10.0),
    "import redis_store": (150.0, 150.0),
    "redis-store --help": (250.0, 250.0),
}
"""Times, in milliseconds."""


def target(name: str, *, pinned: bool) -> float | None:
    """Return the most that a row may take, or None if there is no aim."""
    one_core, spread = (TARGETS | TIMES_MS).get(name, (None, None))
    return one_core if pinned else spread
