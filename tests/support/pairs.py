"""Which pairs of a side and a server tests leave out, so that no test runs twelve times."""

from __future__ import annotations

import pytest

COVERED_ELSEWHERE: dict[str, dict[str, tuple[str, ...]]] = {
    "tests/contract/": {"fakeredis": ("async", "brokered", "sandbox"), "redis8": ("brokered", "sandbox")},
    "tests/redis_store/watch/": {"redis7": ("async",), "redis8": ("async",)},
}
"""Sides that the tests of a folder leave out on a server. All sides send a server the same commands, so each server is covered
by one side and each side by another server. fakeredis is slow."""

_SIDE_FIXTURES = ("side", "open_watch_side")
_SERVER_FIXTURES = ("server", "real_server")


def covered_elsewhere(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the tests to leave out. A test keeps a pair if without it, it would not run through that side or on that server."""
    found = [(item, pair) for item in items if (pair := _pair_of(item)) is not None]
    kept = {(_function(item), part) for item, pair in found if not _is_extra(item, *pair) for part in pair}
    return [
        item for item, pair in found if _is_extra(item, *pair) and all((_function(item), part) in kept for part in pair)
    ]


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _pair_of(item: pytest.Item) -> tuple[str, str] | None:
    """Return the side and the server of a test; None if it has not both."""
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    side = next((given[name] for name in _SIDE_FIXTURES if name in given), None)
    server = next((given[name] for name in _SERVER_FIXTURES if name in given), None)
    return None if side is None or server is None else (side, server)


def _is_extra(item: pytest.Item, side: str, server: str) -> bool:
    rows = next((rows for folder, rows in COVERED_ELSEWHERE.items() if item.nodeid.startswith(folder)), {})
    return side in rows.get(server, ())
