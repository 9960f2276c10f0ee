"""Listings, with scripted replies and no server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from redis_store import ConnectionLost, InvalidInput, ServerReadOnly, ServerRefused, StoreTimeout
from redis_store.limits import CallBounds
from redis_store.namespace.scope import Scope
from redis_store.ops import listing
from redis_store.protocol.call import Alone
from redis_store.protocol.command import ReplyError
from tests.support.scripted import play, scope_of

NO_SCRIPT = ReplyError("NOSCRIPT No matching script. Please use EVAL.")
BIG = listing.SNAPSHOT_KEYS + 1


def test_a_small_namespace_is_one_round_trip() -> None:
    scope = scope_of()
    played = play(listing.list_keys(scope), [3, 200, [b"b", b"a", b"\xff"]])
    assert played.result == ["\\xff", "a", "b"]
    assert played.names == [["EVALSHA"]]
    assert play(listing.list_keys(scope, "a"), [3, 200, [b"b", b"a", b"ab"]]).result == ["a", "ab"]
    assert play(listing.get_all(scope, "a"), [2, 200, [b"b", b"1", b"a", b"2"]]).result == {"a": 2}


def test_medium_namespace_is_read_at_one_moment() -> None:
    scope = scope_of()
    assert play(listing.list_keys(scope), [5000, 10**5, None], [b"b", b"a"]).names == [["EVALSHA"], ["HKEYS"]]
    assert play(listing.get_all(scope), [5000, 10**5, None], [b"b", b"1"]).names == [["EVALSHA"], ["HGETALL"]]


def test_a_big_namespace_is_read_in_pages_under_watch() -> None:
    op = listing.get_all(scope_of())
    assert isinstance(op, Alone)
    pages = ([b"7", [b"a", b"1"]], [b"0", [b"b", b"2"]])
    played = play(op, [BIG, 10**7, None], b"OK", *pages, [b"OK", []])
    assert played.result == {"a": 1, "b": 2}
    assert played.names == [["EVALSHA"], ["WATCH"], ["HSCAN"], ["HSCAN"], ["MULTI", "EXEC"]]


def test_pages_are_reread_after_concurrent_write() -> None:
    first, second = [b"0", [b"a", b"1"]], [b"0", [b"a", b"2"]]
    changed, unchanged = [b"OK", None], [b"OK", []]
    played = play(listing.get_all(scope_of()), [BIG, 10**7, None], b"OK", first, changed, b"OK", second, unchanged)
    assert played.result == {"a": 2}
    tries = [part for _ in range(listing.SNAPSHOT_TRIES) for part in (b"OK", first, changed)]
    assert play(listing.get_all(scope_of()), [BIG, 10**7, None], *tries).result == {"a": 1}, "in the end, page by page"


def test_big_values_are_read_in_small_pages() -> None:
    page = [b"0", [b"a", b"1"]]
    played = play(listing.get_all(scope_of()), [1000, 2 * listing.SNAPSHOT_BYTES, None], b"OK", page, [b"OK", []])
    count = played.calls[2].commands[0][-1]
    assert count == 31


def test_pages_of_few_big_values_are_bounded_by_their_bytes() -> None:
    small, big = [3 * listing.PART_BYTES, None, None], [listing.PART_BYTES, [b"1"] * 4, None]
    names = [b"%d" % number for number in range(16)]
    size = [listing.FEW_KEYS, listing.FEW_KEYS * listing.PAGE_BYTES // 16, None]
    played = play(listing.scan_items_page(scope_of()), size, listing.FEW_KEYS, names, small, small, big)
    assert played.names == [["EVALSHA"], ["HLEN"], ["HKEYS"], *[["EVALSHA"]] * 3]
    cursor, found = played.result
    assert len(found) == 4
    rest = play(listing.scan_items_page(scope_of(), cursor), size, 2 * listing.FEW_KEYS, names, [1, [b"1"] * 12, None])
    assert rest.result[0] == listing.START
    assert {*rest.result[1]} | {*found} == {name.decode() for name in names}
    assert not {*rest.result[1]} & {*found}


def agents_scope() -> Scope:
    return replace(scope_of(), bounds=CallBounds.of_agent())


def test_iteration_begins_again_where_few_keys_became_many() -> None:
    played = play(
        listing.scan_items_page(agents_scope(), str(2**62 + 5)),
        [BIG, BIG * 50_000, None],
        BIG,
        [b"7", [b"a", b"b", b"a"]],
        [3, [b"1", None], None],
    )
    assert played.result == ("7", {"a": 1})
    assert played.calls[2].commands[0][:3] == ("HSCAN", agents_scope().keys.data, listing.START)


def test_big_values_of_a_page_are_read_one_by_one() -> None:
    page = [b"0", [b"a", b"b", b"c"]]
    much = [10 * listing.PART_BYTES, None, None]
    played = play(
        listing.scan_items_page(agents_scope()),
        [BIG, BIG * 100_000, None],
        BIG,
        page,
        much,
        [b"1"],
        [5, [b"2", b"3"], None],
    )
    assert played.result == ("0", {"a": 1, "b": 2, "c": 3})
    assert played.names[-3:] == [["EVALSHA"], ["HMGET"], ["EVALSHA"]]


def test_pages_of_many_names_that_came_at_once_are_bounded_too() -> None:
    """Servers without NOVALUES return all names of a namespace of up to 10,000."""
    names = [b"%d" % number for number in range(3000)]
    size, syntax = [3000, 3000 * 600_000, None], ReplyError("ERR syntax error")
    played = play(listing.scan_items_page(agents_scope()), size, 3000, syntax, None, names, [b"1"])
    cursor, found = played.result
    assert len(found) == 1
    assert int(cursor) > 2**62
    assert played.names[-2:] == [["HKEYS"], ["HMGET"]]


@pytest.mark.parametrize(("prefix", "count"), [("a" * 100, 500), ("[" * 4000, 29), ("a" * 65_000, 3)])
def test_long_prefix_is_compared_with_fewer_names_at_once(prefix: str, count: int) -> None:
    command = play(listing.scan_page(scope_of(), "0", prefix), [b"0", []]).calls[0].commands[0]
    assert command[command.index("COUNT") + 1] == count


def test_few_names_are_read_whole_where_pages_copy_values() -> None:
    played = play(listing.scan_page(scope_of(), "7", "a*"), ReplyError("ERR syntax error"), None, [b"a*b", b"b"])
    assert played.result == ("0", ["a*b"])
    assert played.names == [["HSCAN"], ["EVALSHA"], ["HKEYS"]]


@pytest.mark.parametrize(
    ("bytes_a_key", "page_keys"), [(100, listing.LISTING_PAGE_KEYS), (5000, listing.PAGE_KEYS), (-1, listing.PAGE_KEYS)]
)
def test_a_listing_of_small_values_takes_bigger_pages(bytes_a_key: int, page_keys: int) -> None:
    page = [b"0", [b"a"]]
    played = play(listing.list_keys(scope_of()), [BIG, BIG * bytes_a_key, None], b"OK", page, [b"OK", []])
    assert played.result == ["a"]
    command = played.calls[2].commands[0]
    assert command[command.index("COUNT") + 1] == page_keys


def test_a_server_without_novalues_gets_a_script() -> None:
    scope = scope_of()
    played = play(listing.scan_page(scope, "0", "a*"), ReplyError("ERR syntax error"), [b"5", [b"a*b"]])
    assert played.result == ("5", ["a*b"])
    assert played.names == [["HSCAN"], ["EVALSHA"]]
    assert "a\\**" in played.calls[0].commands[0]
    with pytest.raises(ServerRefused):
        play(listing.scan_page(scope), ReplyError("ERR something else"))


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "٣", "0 MATCH", "9" * 30, None, 0])
def test_invalid_cursor_is_refused(cursor: Any) -> None:
    for op in (listing.scan_page(scope_of(), cursor), listing.scan_items_page(scope_of(), cursor)):
        with pytest.raises(InvalidInput):
            play(op)


NO_FIELD_EXPIRES = b"# Keyspace\r\ndb0:keys=9,expires=0,subexpiry=0\r\ndb1:keys=9,expires=0,subexpiry=0\r\n"
SOME_FIELD_EXPIRES = b"# Keyspace\r\ndb0:keys=9,expires=0,subexpiry=0\r\ndb1:keys=9,expires=0,subexpiry=1\r\n"
NOT_SAID = b"# Keyspace\r\ndb0:keys=9,expires=0\r\n"


@pytest.mark.parametrize(
    ("known", "about", "doubtful"),
    [
        ([[b"hpttl"]], NO_FIELD_EXPIRES, 1),
        ([[b"hpttl"]], NO_FIELD_EXPIRES.replace(b"subexpiry", b"keys_with_volatile_items"), 1),
        ([None], NOT_SAID, 1),
        ([[b"hpttl"]], SOME_FIELD_EXPIRES, 3),
        ([[b"hpttl"]], NOT_SAID, 3),
    ],
)
def test_a_thousand_namespaces_are_looked_at_one_by_one_where_some_may_be_empty(
    known: list[Any], about: bytes, doubtful: int
) -> None:
    names = [b"ns-%05d" % number for number in range(1001)]
    empty = [[500]] if doubtful == 1 else [[], [500], []]
    played = play(
        listing.list_namespaces(scope_of()),
        [b"0", names[::-1]],
        [known, about, 500, 499, 1],
        empty[0] if doubtful == 1 else empty,
        1,
    )
    assert played.result == [name.decode() for name in names if name != b"ns-00999"]
    assert played.names == [["SSCAN"], LOOKS, ["EVALSHA"] * doubtful, ["EVALSHA"]]
    assert b"ns-00999" in played.calls[3].commands[0]


LOOKS = ["COMMAND", "INFO", "EXISTS", "EXISTS", "EXISTS"]


def test_many_namespaces_of_a_user_who_may_not_ask_for_info() -> None:
    names = [b"ns-%05d" % number for number in range(1001)]
    refused = [[[b"hpttl"]], ReplyError("NOPERM no permissions to run the 'info' command"), 500, 500, 1]
    played = play(listing.list_namespaces(scope_of()), [b"0", names], refused, [[], [], []])
    assert len(played.result) == 1001
    assert played.names == [["SSCAN"], LOOKS, ["EVALSHA"] * 3]


def test_ten_thousand_namespaces_are_two_round_trips() -> None:
    names = [b"ns-%d" % number for number in range(10_000)]
    looks = [[[b"hpttl"]], NO_FIELD_EXPIRES, *[500] * 20]
    played = play(listing.list_namespaces(scope_of()), [b"0", names], looks)
    assert len(played.result) == 10_000
    assert played.names == [["SSCAN"], ["COMMAND", "INFO", *["EXISTS"] * 20]]


def test_no_namespaces_is_one_round_trip() -> None:
    assert play(listing.list_namespaces(scope_of()), [b"0", []]).result == []
    assert play(listing.list_namespaces(scope_of(), "x"), [b"0", [b"a"]]).result == []


def test_an_unknown_script_in_the_pipeline() -> None:
    played = play(listing.list_namespaces(scope_of()), [b"0", [b"a"]], NO_SCRIPT, [])
    assert played.result == ["a"]
    assert played.names == [["SSCAN"], ["EVALSHA"], ["EVAL"]]
    names = [b"ns-%d" % number for number in range(600)]
    looks = [[[b"hpttl"]], SOME_FIELD_EXPIRES, 500, 100]
    played = play(listing.list_namespaces(scope_of()), [b"0", names], looks, [NO_SCRIPT, NO_SCRIPT], [[], []])
    assert len(played.result) == 600


@pytest.mark.parametrize("error", [ServerReadOnly("no"), ConnectionLost("gone"), StoreTimeout("late")])
def test_listing_is_right_when_registry_cleanup_fails(error: Exception) -> None:
    played = play(listing.list_namespaces(scope_of()), [b"0", [b"a", b"gone"]], [2], error)
    assert played.result == ["a"]
