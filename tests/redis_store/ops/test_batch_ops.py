"""Operations on many keys, with scripted replies and no server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from redis_store import Conflict, InvalidInput, ServerFull, ServerReadOnly
from redis_store.ops import batch
from redis_store.protocol.call import Alone
from redis_store.protocol.command import ReplyError
from redis_store.protocol.packing import pack
from tests.support.scripted import play, scope_of

MANY = {f"key-{number}": number for number in range(2500)}


def queued(*results: Any) -> list[Any]:
    """Return the replies to a MULTI of scripts with these results."""
    return [b"OK", *[b"QUEUED"] * len(results), list(results)]


def test_get_many_requests_each_key_once() -> None:
    played = play(batch.get_many(scope_of(), ["b", "a", "b"]), [b"2", None])
    assert played.result == {"b": 2}
    assert played.calls[0].commands == (("HMGET", b"user:alice:ns:default", b"b", b"a"),)
    assert played.calls[0].repeatable


@pytest.mark.parametrize(("count", "bulk"), [(batch.SMALL_READ_KEYS, False), (batch.SMALL_READ_KEYS + 1, True)])
def test_big_get_many_uses_its_own_path(count: int, bulk: bool) -> None:
    played = play(batch.get_many(scope_of(), list(MANY)[:count]), [None] * count)
    assert played.calls[0].bulk is bulk


def test_empty_batches_send_nothing() -> None:
    scope = scope_of()
    assert play(batch.get_many(scope, [])).result == {}
    assert play(batch.set_many(scope, {}, None, None, "tx")).result == 0
    assert play(batch.set_many(scope, {}, {"a": 1}, None, "tx")).result == 0
    assert play(batch.delete_many(scope, [], "tx")).result == 0


def test_set_many_is_a_transaction_of_scripts() -> None:
    played = play(batch.set_many(scope_of(), MANY, None, None, "the-tx"), queued(1, 1, 1))
    assert played.result == 2500
    assert played.names == [["MULTI", "EVAL", "EVALSHA", "EVALSHA", "EXEC"]], "the text first, so that all know it"
    assert not played.calls[0].repeatable
    heads = [json.loads(str(command[8]) + '"n":1}') for command in played.calls[0].commands[1:-1]]
    assert [head["tx"] for head in heads] == [["the-tx", part, 3] for part in (1, 2, 3)]
    fields = [field for command in played.calls[0].commands[1:-1] for field in command[14::2]]
    assert fields == [key.encode() for key in MANY]


def test_a_small_set_many_has_no_parts() -> None:
    played = play(batch.set_many(scope_of(), {"a": 1}, None, None, "the-tx"), queued(1))
    assert b"the-tx" not in b"".join(part for part in played.calls[0].commands[1] if isinstance(part, bytes))
    assert "tx" not in str(played.calls[0].commands[1][8])


BIG = {f"key-{number}": "x" * 2000 for number in range(1500)}


def test_big_values_are_sent_outside_the_script_after_a_check() -> None:
    checked = [b"OK", 1, b"OK", *[b"QUEUED"] * 4, [1, 1000, 1, 500]]
    scope = scope_of()
    played = play(batch.set_many(scope, BIG, None, None, "the-tx"), 1, checked)
    assert played.result == 1500
    assert played.names == [["EVAL"], ["WATCH", "EVAL", "MULTI", "EVAL", "HSET", "EVALSHA", "HSET", "EXEC"]]
    watching, check, _, *writes, _ = played.calls[1].commands
    (asked,) = played.calls[0].commands
    assert pack([asked]) == pack([check, asked])[: -len(pack([asked]))], "a store's first one asks whether it may"
    assert watching[0].keys == check[0].keys == asked[3:8], "what is checked is watched"
    assert not any(b"x" * 2000 in str(part).encode() for script in writes[::2] for part in script)
    assert [part for script in writes[1::2] for part in script[2::2]] == [key.encode() for key in BIG]
    assert not played.calls[1].repeatable
    assert play(batch.set_many(scope, BIG, None, None, "the-tx"), checked).names == played.names[1:]


def test_big_values_use_script_after_concurrent_writes() -> None:
    lost = [b"OK", 1, b"OK", *[b"QUEUED"] * 4, None]
    played = play(batch.set_many(scope_of(), BIG, None, None, "the-tx"), 1, lost, queued(1, 1))
    assert played.result == 1500
    assert played.names[2] == ["MULTI", "EVAL", "EVALSHA", "EXEC"]


@pytest.mark.parametrize("items", [{**BIG, "small": 1}, {"edge": "x" * 1022}])
def test_inline_log_values_use_script(items: dict[str, Any]) -> None:
    parts = -(-len(items) // 1000)
    played = play(batch.set_many(scope_of(), items, None, None, "the-tx"), queued(*[1] * parts))
    assert played.names[0][0] == "MULTI"


def test_small_values_of_a_big_batch_go_through_the_script_and_the_big_ones_beside_it() -> None:
    items = {"small": 1, **{f"key-{number}": "x" * 5000 for number in range(1200)}, "other": 2}
    checked = [b"OK", 1, b"OK", *[b"QUEUED"] * 5, [1, 1, 1000, 1, 200]]
    played = play(batch.set_many(scope_of(), items, None, None, "the-tx"), 1, checked)
    assert played.result == 1202
    assert played.names[1] == ["WATCH", "EVAL", "MULTI", "EVAL", "EVALSHA", "HSET", "EVALSHA", "HSET", "EXEC"]
    small, first, big, *_ = played.calls[1].commands[3:]
    assert (small[13:], first[13], big[2::2][:2]) == (
        ("keep", b"small", b"1", b"other", b"2"),
        "beside",
        (b"key-0", b"key-1"),
    )
    heads = [
        json.loads(str(command[8]) + '"n":1}') for command in played.calls[1].commands[3:-1] if command[0] != "HSET"
    ]
    assert [head["tx"] for head in heads] == [["the-tx", part, 3] for part in (1, 2, 3)]


def test_big_values_with_ttl_use_script() -> None:
    played = play(batch.set_many(scope_of(), BIG, None, 10, "the-tx"), queued(1, 1))
    assert played.names == [["MULTI", "EVAL", "EVALSHA", "EXEC"]]


def test_batch_is_validated_before_sending() -> None:
    scope = scope_of()
    for items, metadata in (
        ({**MANY, "bad": {1}}, None),
        ({**MANY, "": 1}, None),
        ({**MANY, "bad": {1}}, {"m": 1}),
        (MANY, {"m": {1}}),
        ([("a", 1)], None),
    ):
        with pytest.raises(InvalidInput):
            play(batch.set_many(scope, items, metadata, None, "tx"))
    with pytest.raises(InvalidInput):
        play(batch.delete_many(scope, ["a", ""], "tx"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", ServerFull),
        ("READONLY You can't write against a read only replica.", ServerReadOnly),
    ],
)
def test_an_error_inside_a_transaction_is_found(text: str, error: type[Exception]) -> None:
    refused = ReplyError(text)
    for replies in (
        queued(refused, refused, refused),
        [b"OK", refused, refused, refused, ReplyError("EXECABORT Transaction discarded because of previous errors.")],
    ):
        with pytest.raises(error):
            play(batch.set_many(scope_of(), MANY, None, None, "tx"), replies)


def test_metadata_of_several_parts_is_watched_and_retried() -> None:
    op = batch.set_many(scope_of(), MANY, {"m": 1}, None, "tx")
    assert isinstance(op, Alone), "WATCH wants a connection for itself"
    known = [[b""] * 1000, [b""] * 1000, [b""] * 500]
    lost = [b"OK", *[b"QUEUED"] * 3, None]
    played = play(op, b"OK", *known, lost, b"OK", *known, queued(1, 1, 1))
    assert played.result == 2500
    # The last part has few arguments, for which there is another form of the script: each form is sent as text once.
    once = [["WATCH"], ["EVALSHA"], ["EVALSHA"], ["EVALSHA"], ["MULTI", "EVAL", "EVALSHA", "EVAL", "EXEC"]]
    assert played.names == once * 2


def test_metadata_of_one_part_is_compared_by_its_script() -> None:
    played = play(
        batch.set_many(scope_of(), {"a": 1}, {"m": 1}, None, "tx"),
        [b""],
        queued([0, b'{"x":1}']),
        [b'{"x":1}'],
        queued(1),
    )
    assert played.result == 1
    assert played.names == [["EVALSHA"], ["MULTI", "EVAL", "EXEC"]] * 2
    assert played.calls[-1].commands[1][-2:] == (b'{"x":1,"m":1}', b'{"x":1}')


def test_metadata_changed_on_every_try_is_a_conflict() -> None:
    replies = [[b""], queued([0, b'{"x":1}'])] * batch.BATCH_TRIES
    with pytest.raises(Conflict, match="nothing was written"):
        play(batch.set_many(scope_of(), {"a": 1}, {"m": 1}, None, "tx"), *replies)


def test_clear_and_delete_many_are_one_script_each() -> None:
    assert play(batch.clear(scope_of()), 7).result == 7
    played = play(batch.delete_many(scope_of(), [*MANY, "key-1"], "tx"), 2500)
    assert played.result == 2500
    assert played.names == [["EVALSHA"]], "a full Redis 7.0 takes no MULTI"
