"""Invalid arguments are rejected before anything is sent; the error names the argument."""

from __future__ import annotations

from typing import Any

import pytest

from redis_store import InvalidInput, InvalidType
from tests.redis_store.watch.conftest import WatchSide


@pytest.fixture
def cursor(side: WatchSide) -> str:
    watch = side.watch()
    side.set("a", 1)
    found = watch.next().cursor
    watch.close()
    return found


@pytest.mark.parametrize("prefix", [1, b"a", ["a"], "\ud800"])
def test_a_prefix_that_is_not_text(side: WatchSide, prefix: Any) -> None:
    with pytest.raises(InvalidInput, match="prefix"):
        side.watch(prefix=prefix)
    with pytest.raises(InvalidInput, match="prefix"):
        side.watch_all(prefix=prefix)


@pytest.mark.parametrize("since", ["", "nonsense", 1, b"1", "1.0.0", "x" * 10_000, "1.c2e13aed59f2.reset\n"])
def test_invalid_cursor(side: WatchSide, since: Any) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        side.watch(since=since)


def test_a_cursor_of_another_namespace_or_user(
    side: WatchSide, cursor: str, open_watch_side: Any, real_server: Any
) -> None:
    with pytest.raises(InvalidInput, match="another namespace"):
        side.use_namespace("other").watch(since=cursor)
    with pytest.raises(InvalidInput, match="another user"):
        open_watch_side(real_server.url, user="somebody-else").watch(since=cursor)
    with pytest.raises(InvalidInput, match="another namespace"):
        side.watch_all(since={"other": cursor})


def test_all_namespaces_need_a_dict(side: WatchSide, cursor: str) -> None:
    with pytest.raises(InvalidType, match="dict"):
        side.watch_all(since=cursor)


def test_since_and_initial_exclude_each_other(side: WatchSide, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="one of them"):
        side.watch(since=cursor, initial=True)
    with pytest.raises(InvalidType, match="initial"):
        side.watch(initial=1)


@pytest.mark.parametrize("consumer", ["", 1, "x" * 1000, "\udfff"])
def test_consumer_name(side: WatchSide, consumer: Any) -> None:
    with pytest.raises(InvalidInput, match="consumer name"):
        side.watch(consumer=consumer)


@pytest.mark.parametrize("timeout", [-1, "1", float("nan"), float("inf"), True])
def test_a_timeout(side: WatchSide, timeout: Any) -> None:
    with pytest.raises(InvalidInput, match="timeout"):
        side.wait_for("k", timeout=timeout)


def test_a_predicate(side: WatchSide) -> None:
    with pytest.raises(InvalidType, match="wait_until takes a function"):
        side.wait_until("k", "not callable")
    with pytest.raises(InvalidInput, match="key"):
        side.wait_for("")


@pytest.mark.parametrize("most", [0, -1, True, "1"])
def test_how_many_to_take(side: WatchSide, most: Any) -> None:
    watch = side.watch()
    with pytest.raises(InvalidInput, match=r"[Cc]hange|take"):
        watch.take(most)


def test_raising_callback_leaves_watch_usable(side: WatchSide) -> None:
    watch = side.watch(consumer="c")
    side.set_many({"a": 1, "b": 2})
    assert watch.next().key == "a"
    with pytest.raises(ZeroDivisionError):
        _ = 1 / (watch.next().value - 2)
    watch.close()
    # The change that was being handled when the error was raised is not done.
    assert side.watch(consumer="c").next().key == "b"


@pytest.mark.parametrize("option", [{"log_entries": 0}, {"log_bytes": "1"}, {"log_days": 0.5}, {"configure_server": 1}])
def test_settings(open_watch_side: Any, option: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        open_watch_side("redis://localhost", user="u", **option)
