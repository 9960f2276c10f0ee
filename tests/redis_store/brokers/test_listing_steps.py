"""Listings of an agent where values are big: no step of the server reads several of them. The bounds are small here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_store import DataStore
from redis_store.brokers import steps
from redis_store.brokers.lease import lease
from redis_store.changelog import ops as says
from redis_store.errors import LimitExceeded
from redis_store.ops import listing
from tests.support.scripted import play, scope_of
from tests.support.servers import REAL_KINDS, Server

VALUES = {f"key-{number}": b'"%b"' % (b"x" * 200_000) for number in range(24)}


@pytest.fixture
def agent(
    server: Server, open_store: Callable[..., DataStore], user: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DataStore]:
    """The store of an agent, in a namespace that is too big for one step."""
    for name in ("SNAPSHOT_BYTES", "PAGE_BYTES"):
        monkeypatch.setattr(listing, name, 100_000)
    monkeypatch.setattr(says, "SNAPSHOT_BYTES", 100_000)
    store = open_store(server.url, user)
    store.as_json_text().set_many(VALUES)
    with lease(store, user=user, namespace=store.namespace, max_read_bytes=10**8) as leased:
        yield leased.as_json_text()


def pages_of(store: DataStore, operation: str, prefix: str | None = None) -> list[Any]:
    pages = []
    cursor = listing.START
    while True:
        cursor, page = steps.carry_out(store, operation, cursor, prefix)
        pages.append(page)
        if cursor == listing.START:
            return pages


@pytest.mark.parametrize("server", REAL_KINDS, indirect=True)
def test_a_page_holds_one_big_value(agent: DataStore) -> None:
    """A bucket of the server's hash table holds up to seven."""
    pages = pages_of(agent, "scan_items_page")
    assert [len(page) for page in pages] == [1] * len(VALUES)
    assert {key: text for page in pages for key, text in page.items()} == VALUES
    assert {key for page in pages_of(agent, "scan_items_page", "key-2") for key in page} == {
        key for key in VALUES if key.startswith("key-2")
    }
    assert agent.get_all() == VALUES
    assert agent.list_keys("key-1") == sorted(key for key in VALUES if key.startswith("key-1"))
    assert sorted(key for page in pages_of(agent, "scan_page") for key in page) == sorted(VALUES)


@pytest.mark.parametrize("server", REAL_KINDS, indirect=True)
def test_pages_go_on_while_values_shrink_and_keys_come_and_go(agent: DataStore) -> None:
    cursor, found = steps.carry_out(agent, "scan_items_page", "0", None)
    assert len(found) == 1
    gone = next(key for key in VALUES if key not in found)
    agent.delete(gone)
    agent.set_many({f"new-{number}": b"1" for number in range(600)})
    while cursor != listing.START:
        cursor, page = steps.carry_out(agent, "scan_items_page", cursor, None)
        found |= page
    assert {key: text for key, text in found.items() if key in VALUES} == {
        key: text for key, text in VALUES.items() if key != gone
    }


@pytest.mark.parametrize("server", REAL_KINDS, indirect=True)
def test_a_watch_begins_with_each_big_value(agent: DataStore) -> None:
    seen = {}
    with agent.watch(initial=True) as changes:
        for change in changes:
            seen[change.key] = change.value
            if len(seen) == len(VALUES):
                break
    assert seen == VALUES


@pytest.mark.parametrize("server", ["fakeredis"], indirect=True)
def test_a_read_of_too_much_is_refused_before_most_of_it(agent: DataStore) -> None:
    with (
        lease(agent, user=agent.user, namespace=agent.namespace, max_read_bytes=500_000) as small,
        pytest.raises(LimitExceeded, match="iter_items"),
    ):
        small.get_all()


def test_a_watch_reads_a_page_in_parts_with_the_log() -> None:
    keys = scope_of().keys
    read = [b"OK", b"QUEUED", b"QUEUED"]
    big, small = [listing.PART_BYTES + 1, None, None], [9, [b"1", b"2"], None]
    played = play(
        says.page(keys, "0", 4, b"1-1"),
        [b"7", [b"a", b"b", b"c", b"a", b"d"]],
        [*read, [[b"entry"], big]],
        [*read, [[b"entry"], small]],
    )
    assert played.result == ([b"entry"], "7", {b"a": b"1", b"b": b"2"}, [b"c", b"d"])
    played = play(says.page(keys, "7", 1, b"1-1", left=[b"c", b"d"]), [*read, [[], [None]]])
    assert played.result == ([], "7", {}, [b"d"])
    assert played.names == [["MULTI", "XRANGE", "HMGET", "EXEC"]]
