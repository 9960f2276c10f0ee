"""Operations on one key, with scripted replies and no server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from redis_store import Conflict, ConnectionLost, CorruptValue, InvalidInput, KeyInfo, WrongKeyType
from redis_store.limits import MAX_TTL_S, ttl_to_ms
from redis_store.namespace.keys import FixedForm, UserKeys
from redis_store.ops import values
from redis_store.ops.first_look import first_look
from redis_store.protocol.command import ReplyError
from redis_store.protocol.packing import pack
from tests.support.scripted import play, scope_of

NO_SCRIPT = ReplyError("NOSCRIPT No matching script. Please use EVAL.")


def test_get_is_one_hget() -> None:
    scope = scope_of()
    played = play(values.get(scope, "key"), b'{"a":1}')
    assert played.result == {"a": 1}
    assert pack(played.calls[0].commands) == pack([("HGET", b"user:alice:ns:default", b"key")])
    assert played.calls[0].repeatable
    assert play(values.get(scope, "key", 7), None).result == 7
    assert play(values.get(scope, "key", 7), b"null").result is None


def test_corrupt_value_is_raised_by_the_operation() -> None:
    with pytest.raises(CorruptValue):
        play(values.get(scope_of(), "key"), b"{")


def test_input_is_validated_before_sending() -> None:
    scope = scope_of()
    for op in (
        values.get(scope, ""),
        values.set_value(scope, "key", {1}),
        values.set_value(scope, "key", 1, ttl=-1),
        values.set_value(scope, "key", 1, metadata={"a": {1}}),
        values.set_value(scope, "key", 1, metadata=[]),
        values.delete(scope, "\ud800"),
        values.info(scope, "k" * 70_000),
        values.contains(scope, ""),
    ):
        with pytest.raises(InvalidInput):
            play(op)


def test_set_is_one_call_and_loads_missing_script() -> None:
    scope = scope_of(agent="a")
    known = play(values.set_value(scope, "key", [1]), 1)
    assert known.names == [["EVALSHA"]]
    assert not known.calls[0].repeatable, "a write is never repeated by a driver"
    again = play(values.set_value(scope, "key", [1]), NO_SCRIPT, NO_SCRIPT, 1)
    assert again.names[-1] == ["EVAL"]
    for call in again.calls:
        assert not call.repeatable


def test_big_value_is_sent_beside_the_script_after_a_check() -> None:
    big, scope = "x" * values.BESIDE_BYTES, scope_of(agent="a")
    checked = [b"OK", 1, b"OK", b"QUEUED", b"QUEUED", [1, 1]]
    played = play(values.set_value(scope, "key", big), 1, checked)
    assert played.names == [["EVAL"], ["WATCH", "EVAL", "MULTI", "EVAL", "HSET", "EXEC"]]
    assert not played.calls[1].repeatable
    watching, check, _, script, value, _ = played.calls[1].commands
    assert watching[0].keys == check[0].keys == (*scope.script_keys, b"user:alice:w:check"), (
        "what is checked is watched"
    )
    assert script[1:] == check[1:] == (b"key",)
    assert value == ("HSET", b"user:alice:ns:default", b"key", f'"{big}"'.encode())
    for op, reply in (
        (values.set_value(scope, "key", big[3:]), 1),
        (values.set_value(scope, "key", big, ttl=5), 1),
        (values.set_value(scope.moved("bounded", max_keys=9), "key", big), [1, 0, 0]),
    ):
        assert play(op, reply).names == [["EVALSHA"]]


def test_big_value_goes_through_the_script_after_a_concurrent_write() -> None:
    scope = scope_of()
    lost = [b"OK", 1, b"OK", b"QUEUED", b"QUEUED", None]
    played = play(values.set_value(scope, "key", "x" * values.BESIDE_BYTES), 1, lost, 1)
    assert played.names[2] == ["EVALSHA"]
    assert played.calls[2].commands[0][1:] == (b"key", f'"{"x" * values.BESIDE_BYTES}"'.encode())


def test_big_value_with_tags_goes_through_the_script_that_moves_them() -> None:
    stopped = [b"OK", 0, b"OK", b"QUEUED", b"QUEUED", None]
    played = play(values.set_value(scope_of(), "key", "x" * values.BESIDE_BYTES), 1, stopped, 0, 1)
    assert played.names[2:] == [["EVALSHA"], ["EVALSHA"]]


def test_redis_gets_values_beside_the_script_from_half_the_size_on() -> None:
    on_redis = replace(scope_of(), user=UserKeys.of("alice", form=FixedForm(False, is_redis=True)))
    for size, scope, beside in (
        (values.BESIDE_BYTES_ON_REDIS, on_redis, True),
        (values.BESIDE_BYTES_ON_REDIS - 3, on_redis, False),
        (values.BESIDE_BYTES_ON_REDIS, scope_of(), False),
    ):
        replies = (1, [b"OK", 1, b"OK", b"QUEUED", b"QUEUED", [1, 1]]) if beside else (1,)
        assert ("HSET" in play(values.set_value(scope, "key", "x" * size), *replies).names[-1]) == beside


@pytest.mark.parametrize(
    ("facts", "is_redis"),
    [
        (b"redis_version:8.2.3\r\nredis_mode:standalone\r\n", True),
        (b"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\nredis_mode:standalone\r\n", False),
        (ReplyError("NOPERM no right to INFO"), False),
    ],
)
def test_the_first_look_tells_redis_from_valkey(facts: Any, is_redis: bool) -> None:
    form = FixedForm(None)
    told = [b"mode", b"standalone"]
    replies = [told] if isinstance(facts, ReplyError) else []
    play(first_look(UserKeys.of("alice", form=form)), [facts, 1, 0], *replies, [0, 0, None])
    assert (form.tagged, form.is_redis) == (False, is_redis)


def test_a_missing_script_is_sent_once_only() -> None:
    with pytest.raises(Exception, match="does not know the script"):
        play(values.info(scope_of(), "key"), NO_SCRIPT, NO_SCRIPT)


def test_metadata_is_merged_until_it_fits() -> None:
    scope = scope_of()
    played = play(
        values.set_value(scope, "key", 1, metadata={"b": 2}),
        [0, b'{"a":1}'],
        [0, b'{"a":1,"c":3}'],
        1,
    )
    assert played.names == [["EVALSHA"]] * 3
    arguments = [call.commands[0][-2:] for call in played.calls]
    assert arguments == [
        (b'{"b":2}', b""),
        (b'{"a":1,"b":2}', b'{"a":1}'),
        (b'{"a":1,"c":3,"b":2}', b'{"a":1,"c":3}'),
    ]


def test_metadata_changed_on_every_try_is_a_conflict() -> None:
    replies = [[0, b'{"n":%d}' % number] for number in range(values.MERGE_TRIES)]
    with pytest.raises(Conflict, match="nothing was written"):
        play(values.set_value(scope_of(), "key", 1, metadata={"a": 1}), *replies)


def test_non_object_metadata_is_replaced() -> None:
    played = play(values.set_value(scope_of(), "key", 1, metadata={"a": 1}), [0, b"[broken"], 1)
    assert played.calls[1].commands[0][-2:] == (b'{"a":1}', b"[broken")


def test_an_error_of_the_server_reaches_the_caller() -> None:
    with pytest.raises(WrongKeyType):
        play(
            values.delete(scope_of(), "key"),
            *[ReplyError("WRONGTYPE Operation against a key holding the wrong kind of value")]
            * 2,  # the longer way as well
            [b"hash", b"string", b"hash", b"none"],
        )
    lost = ConnectionLost("gone", outcome_unknown=True)
    with pytest.raises(ConnectionLost) as caught:
        play(values.set_value(scope_of(), "key", 1), lost)
    assert caught.value is lost


def test_the_key_of_another_type_is_looked_up() -> None:
    with pytest.raises(WrongKeyType) as caught:
        play(
            values.delete(scope_of(), "key"),
            *[ReplyError("WRONGTYPE Operation against a key holding the wrong kind of value")]
            * 2,  # the longer way as well
            [b"hash", b"none", b"hash", b"list"],
        )
    assert caught.value.redis_key == "user:alice:log:default"


def test_info_of_texts_of_every_kind() -> None:
    scope = scope_of()
    assert play(values.info(scope, "key"), None).result is None
    assert play(values.info(scope, "key"), [7, None, -1]).result == KeyInfo("key", None, None, None, None, {}, 7, None)
    full = b'{"created":1000,"by":"a","updated":2500,"updated_by":"b","metadata":{"m":[1]}}'
    found = play(values.info(scope, "key"), [7, full, 5000]).result
    assert [t.timestamp() for t in (found.created_at, found.updated_at, found.expires_at)] == [1.0, 2.5, 5.0]
    assert (found.created_by, found.updated_by, found.metadata, found.size) == ("a", "b", {"m": [1]}, 7)
    left_out = play(values.info(scope, "key"), [7, b'{"created":1000,"by":"a"}', -1]).result
    assert (left_out.updated_at, left_out.updated_by) == (left_out.created_at, "a")
    by_nobody = play(values.info(scope, "key"), [7, b'{"created":1000,"by":"a","updated_by":null}', -1]).result
    assert (by_nobody.created_by, by_nobody.updated_by) == ("a", None)
    text = b'{"created":1795451319752001,"updated":1795451319761999,"by":"a","run":"0123456789abcdef"}'
    new = play(values.info(scope, "key"), [7, text, -1]).result
    assert (new.created_at.microsecond, new.updated_at.microsecond) == (752001, 761999)
    assert (new.version, new.run, new.updated_by) == (1795451319761999, "0123456789abcdef", "a")


@pytest.mark.parametrize(("ttl", "ms"), [(1, 1000), (0.0001, 1), (1.5, 1500), (MAX_TTL_S, 3153600000000)])
def test_a_ttl_in_milliseconds(ttl: float, ms: int) -> None:
    assert ttl_to_ms(ttl) == ms
