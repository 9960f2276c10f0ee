"""The blocking `XREAD` of a hub whose server sends no events: how it is ended, and how many logs it follows."""

from __future__ import annotations

from typing import Any, cast

from redis_store.hub.events import LOGS_PER_BLOCK, Listening
from redis_store.hub.requests import Tell
from redis_store.hub.subscribers import Members
from redis_store.hub.watched_namespace import WatchedNamespace
from redis_store.namespace.keys import UserKeys
from redis_store.protocol.call import Call

USER = UserKeys.of("u")


class _Position:
    id = b"7-0"


class _Feed:
    """What `Listening` reads of a watched namespace."""

    def __init__(self, name: bytes, user: UserKeys = USER) -> None:
        self.user = user
        self.keys = user.of_stored(name)
        self.position = _Position()


def _steps(coroutine: Any) -> list[Any]:
    """Run a coroutine whose steps need no answer, and return them."""
    steps = []
    try:
        step = coroutine.send(None)
        while True:
            steps.append(step)
            step = coroutine.send([b"OK"] * len(step.commands) if isinstance(step, Call) else None)
    except StopIteration:
        return steps


def _listening() -> Listening:
    listening = Listening(Members(0), lambda size: "ab" * size, lambda text: None)
    listening.counts_events = False
    listening._random = "ab" * 8
    return listening


def _blocked(listening: Listening, feeds: list[_Feed]) -> tuple[list[bytes], list[bytes]]:
    """Have the hub block; return the streams that it reads, and the entries after which it does."""
    (tell,) = _steps(listening.block(cast("list[WatchedNamespace]", feeds)))
    assert isinstance(tell, Tell)
    assert tell.blocks
    streams = list(tell.command[tell.command.index("STREAMS") + 1 :])
    half = len(streams) // 2
    assert len(tell.command) <= 3900
    return streams[:half], streams[half:]  # type: ignore[return-value]


def test_an_entry_of_its_own_ends_the_block() -> None:
    listening, feeds = _listening(), [_Feed(b"n")]
    keys, ids = _blocked(listening, feeds)
    assert keys[1:] == [feeds[0].keys.log]
    assert ids[1:] == [b"7-0"]
    (call,) = _steps(listening.unblock())
    assert call.commands[0][:2] == ("XADD", keys[0])
    assert _steps(listening.block(cast("list[WatchedNamespace]", feeds))) == []  # until its reply is there
    listening.heard([[keys[0], [[b"9-0", [b"", b""]]]]])
    assert _blocked(listening, feeds) == (keys, [b"9-0", b"7-0"])


def test_nothing_is_ended_that_does_not_block() -> None:
    assert _steps(_listening().unblock()) == []


def test_of_many_logs_each_has_its_turn() -> None:
    listening, feeds = _listening(), [_Feed(b"%d" % number) for number in range(LOGS_PER_BLOCK + 5)]
    read: set[bytes] = set()
    for _ in range(2):
        keys, _ = _blocked(listening, feeds)
        read.update(keys[1:])
        listening.heard(None)
    assert read == {feed.keys.log for feed in feeds}


def test_on_a_cluster_each_user_has_its_turn() -> None:
    """No command may have keys of two slots, that of the stream which ends it included."""
    users = [UserKeys.of(name, hash_tag=True) for name in "abc"]
    listening, feeds = _listening(), [_Feed(b"%d" % number, users[number // 3]) for number in range(9)]
    read: set[bytes] = set()
    for _ in range(3):
        keys, _ = _blocked(listening, feeds)
        assert len({key.partition(b"}")[0] for key in keys}) == 1
        read.update(keys[1:])
        listening.heard(None)
    assert read == {feed.keys.log for feed in feeds}
