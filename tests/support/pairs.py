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
    """Return the tests to leave out. A test keeps a pair if it does not run on another server through that side."""
    found = [(item, pair) for item in items if (pair := _pair_of(item)) is not None]
    kept = {(_function(item), side) for item, (side, is_extra) in found if not is_extra}
    return [item for item, (side, is_extra) in found if is_extra and (_function(item), side) in kept]


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _pair_of(item: pytest.Item) -> tuple[str, bool] | None:
    """Return the side of a test, and whether it is covered elsewhere on the test's server; None without a side or a server."""
    given = getattr(item, "callspec", None)
    extras = next((rows for folder, rows in COVERED_ELSEWHERE.items() if item.nodeid.startswith(folder)), None)
    if given is None or extras is None:
        return None
    side = next((given.params[name] for name in _SIDE_FIXTURES if name in given.params), None)
    server = next((given.params[name] for name in _SERVER_FIXTURES if name in given.params), None)
    return None if side is None or server is None else (side, side in extras.get(server, ()))
