"""What a cluster's node replies in place of carrying out a command, and where the command is sent then; without a server."""

from __future__ import annotations

from typing import Any

import pytest

from redis_store import InvalidSettings
from redis_store.connections.address import parse_address
from redis_store.connections.topology import Topology
from redis_store.protocol.command import Command, ReplyError
from redis_store.protocol.redirects import ASKING, Journey, Node, Redirection, redirection_of

HERE, THERE, ELSEWHERE = Node("10.0.0.1", 7000), Node("10.0.0.2", 7001), Node("10.0.0.3", 7002)


def moved(node: Node) -> ReplyError:
    return ReplyError(f"MOVED 511 {node.host}:{node.port}")


@pytest.mark.parametrize(
    ("text", "redirection"),
    [
        ("MOVED 511 10.0.0.2:7001", Redirection(511, THERE)),
        ("MOVED 511 :7001", Redirection(511, Node("", 7001))),
        ("MOVED 511 ::1:7001", Redirection(511, Node("::1", 7001))),
        ("MOVED 511 node.example:7001,hostname=node", Redirection(511, Node("node.example", 7001))),
        ("ASK 511 10.0.0.2:7001", Redirection(None, THERE, asking=True)),
        ("MOVED", Redirection(elsewhere=True)),
        ("MOVED x y", Redirection(elsewhere=True)),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Redirection()),
        ("CLUSTERDOWN Hash slot not served", Redirection(elsewhere=True)),
        ("LOADING Redis is loading the dataset in memory", Redirection(elsewhere=True)),
        ("READONLY You can't write against a read only replica.", Redirection(elsewhere=True)),
        ("WRONGTYPE Operation against a key", None),
        ("MOVEDON is no code", None),
    ],
)
def test_what_a_reply_says(text: str, redirection: Redirection | None) -> None:
    assert redirection_of(ReplyError(text)) == redirection
    assert redirection_of(text.encode()) is None


def test_only_refused_commands_are_sent_again() -> None:
    commands: tuple[Command, ...] = (("GET", "a"), ("GET", "b"), ("GET", "c"))
    journey = Journey(commands)
    assert journey.next() == commands
    assert not journey.replied([b"1", moved(THERE), moved(ELSEWHERE)])
    assert (journey.redirection.node, journey.next()) == (THERE, (("GET", "b"),))
    assert not journey.replied(b"2")
    assert (journey.redirection.node, journey.next()) == (ELSEWHERE, (("GET", "c"),))
    assert journey.replied(ReplyError("WRONGTYPE refused for good"))
    assert [str(part) for part in journey.reply] == ["b'1'", "b'2'", "WRONGTYPE refused for good"]


def test_a_node_on_the_way_is_asked_with_a_mark_for_each_command() -> None:
    journey = Journey((("GET", "a"), ("GET", "b")))
    assert not journey.replied([ReplyError("ASK 511 10.0.0.2:7001")] * 2)
    assert journey.next() == (ASKING, ("GET", "a"), ASKING, ("GET", "b"))
    assert journey.replied([b"OK", b"1", b"OK", b"2"])
    assert journey.reply == [b"1", b"2"]


TRANSACTION: tuple[Command, ...] = (("WATCH", "a"), ("MULTI",), ("SET", "a", "1"), ("SET", "b", "2"), ("EXEC",))


def test_a_transaction_is_sent_again_whole() -> None:
    journey = Journey(TRANSACTION)
    abort = ReplyError("EXECABORT Transaction discarded because of previous errors.")
    assert not journey.replied([b"OK", b"OK", b"QUEUED", ReplyError("ASK 511 10.0.0.2:7001"), abort])
    assert journey.next() == (ASKING, ("WATCH", "a"), ASKING, *TRANSACTION[1:])
    replies: list[Any] = [b"OK", b"OK", b"OK", b"OK", b"QUEUED", b"QUEUED", [b"OK", b"OK"]]
    assert journey.replied(replies)
    assert journey.reply == [b"OK", b"OK", b"QUEUED", b"QUEUED", [b"OK", b"OK"]]


@pytest.mark.parametrize("last", [[b"OK", b"OK"], None])
def test_a_transaction_that_was_executed_is_never_sent_again(last: list[bytes] | None) -> None:
    journey = Journey(TRANSACTION)
    assert journey.replied([b"OK", b"OK", b"QUEUED", b"QUEUED", last])
    executed = Journey(TRANSACTION)
    assert executed.replied([moved(THERE), b"OK", b"QUEUED", b"QUEUED", [b"OK", b"OK"]])


def test_the_table_of_slots() -> None:
    seed = parse_address("redis://:secret@10.0.0.1:7000?client_name=c", 2)
    topology = Topology([seed])
    reply: list[Any] = [
        [0, 5000, [b"", 7000, b"id-1"], [b"10.0.0.9", 7009, b"id-9"]],
        [5001, 9999, [None, 7001, b"id-2", []]],
        [10_001, 16_382, [b"node.example", 7002, b"id-3"]],
        [16_383, 16_383, [b"?", 7003, b"id-4"]],
    ]
    topology.learn(reply, seed)
    assert topology.primaries == (Node("10.0.0.1", 7000), Node("10.0.0.1", 7001), Node("node.example", 7002))
    assert [topology.owner(slot) for slot in (0, 10_000, 16_383)] == [Node("10.0.0.1", 7000), None, None]
    assert "has the hash slot of this user (10000)" in str(topology.none_has(10_000))
    address = topology.address_of(Node("node.example", 7002))
    assert (address.options["host"], address.options["port"], address.options["password"]) == (
        "node.example",
        7002,
        "secret",
    )
    assert address.shown == "redis://10.0.0.1:7000"
    version = topology.version
    topology.learn(reply, seed)
    assert topology.version == version
    topology.moved(10_000, THERE)
    assert topology.owner(10_000) == THERE
    assert topology.version > version


@pytest.mark.parametrize(
    "reply", [b"OK", [b"OK"], [[0, 1, b"x"]], [[0, 1, [b"host", b"port"]]], [[b"0", 1, [b"h", 1]]]]
)
def test_no_table_of_slots(reply: Any) -> None:
    seed = parse_address("redis://10.0.0.1:7000", 2)
    with pytest.raises(InvalidSettings, match="no table of slots"):
        Topology([seed]).learn(reply, seed)
