"""The hub with scripted events: wake-ups, the causes of comparisons, and their results. No server, no real time."""

from __future__ import annotations

from typing import Any

import pytest

from redis_store.changelog.ops import BLANK_LIFE_MS
from redis_store.errors import ConnectionLost
from redis_store.hub.compare import NOTES_REFUSED
from redis_store.hub.mailbox import MOST_CHANGES, WatchFailed
from redis_store.limits import LogBounds
from tests.support.scripted_hub import KEYS, ScriptedRunner, ScriptedServer, items, told


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


@pytest.fixture
def runner(server: ScriptedServer) -> ScriptedRunner:
    return ScriptedRunner(server)


def test_keyspace_event_wakes_hub_to_read_log(server: ScriptedServer, runner: ScriptedRunner) -> None:
    mailbox = runner.join()
    runner.run()
    server.write((b"a", b"1"), (b"b", b"2"))
    runner.run()
    assert told(mailbox) == ["Opened", ("set", b"a", b"1"), ("set", b"b", b"2")]


def test_a_busy_writer_does_not_wake_the_hub_at_each_write(server: ScriptedServer, runner: ScriptedRunner) -> None:
    mailbox = runner.join()
    runner.run()
    wakes = runner.wakes
    for i in range(100):
        server.write((b"a", b"%d" % i))
        runner.run(0.0001)
    assert runner.wakes - wakes <= 20
    runner.run(0.01)
    assert told(mailbox)[-1] == ("set", b"a", b"99")


def test_matching_counts_cost_no_comparison(server: ScriptedServer, runner: ScriptedRunner) -> None:
    runner.join()
    runner.run()
    before = sum("HSCAN" in call for call in server.calls)
    for i in range(20):
        server.write((b"a", b"%d" % i))
        if i % 3:
            runner.run(0.01)
    runner.run(3)
    assert sum("HSCAN" in call for call in server.calls) == before


def test_known_namespace_is_not_read_again(server: ScriptedServer, runner: ScriptedRunner) -> None:
    """Otherwise each step of a hub would go through all its namespaces."""
    server.by_hand((b"x", b"0"))
    runner.join()
    runner.run()
    assert not runner.hub.members.agenda.doubtful
    server.by_hand((b"x", b"1"))
    runner.run(3)
    assert not runner.hub.members.agenda.doubtful


def test_expiry_during_writes_costs_no_comparison(server: ScriptedServer, runner: ScriptedRunner) -> None:
    mailbox = runner.join()
    runner.run()
    server.write((b"short", b"1"), expires_ms=server.ms)
    before, take_note = sum("HSCAN" in call for call in server.calls), server._note
    busy = [b"%d" % i for i in range(NOTES_REFUSED)]

    def take_note_beside_writer(keys: Any, rest: Any) -> int:
        if busy:
            server.write((busy.pop(), b"1"))
        return take_note(keys, rest)

    server._note = take_note_beside_writer  # type: ignore[method-assign]
    runner.run(0.01)
    del server.hashes[KEYS.data][b"short"]
    server.fire(KEYS.data, b"hexpired")
    runner.run(3)
    news = told(mailbox)
    assert news[-1] == ("expire", b"short", None)
    assert len(news) == 2 + NOTES_REFUSED + 1
    assert not busy
    assert sum("HSCAN" in call for call in server.calls) == before


def test_surplus_event_is_external_write(server: ScriptedServer, runner: ScriptedRunner) -> None:
    server.by_hand((b"x", b"0"), (b"y", b"0"), (b"z", b"0"))
    mailbox = runner.join()
    runner.run()
    server.write((b"a", b"1"))
    server.by_hand((b"x", b"1"), (b"y", None))
    runner.run()
    assert told(mailbox) == ["Opened", ("set", b"a", b"1"), ("set", b"x", b"1"), ("delete", b"y", None)]
    # The differences are in the log, for later watchers.
    assert server.logs[KEYS.log][-1][1] == [b"", b'{"n":0,"found":1}', b"x", b"s1", b"y", b"d"]


def test_finding_of_another_hub_is_reported_once(server: ScriptedServer, runner: ScriptedRunner) -> None:
    other = ScriptedRunner(server)
    other.hub = runner.hub.__class__(0, lambda size: "cd" * size, other.warnings.append)
    mine = runner.join()
    runner.run()
    theirs = other.join()
    heard: list[list[object]] = []
    runner.hold_back = lambda message: heard.append(message) is not None
    other.run()
    server.by_hand((b"x", b"1"))
    shared = list(server.heard)
    other.run()
    runner.hold_back = lambda message: False
    server.heard = shared
    runner.run()
    assert told(mine) == ["Opened", ("set", b"x", b"1")]
    assert told(theirs) == ["Opened", ("set", b"x", b"1")]
    assert sum(b"found" in entry[1][1] for entry in server.logs[KEYS.log]) == 1


def test_log_not_starting_at_known_entry_is_another_history(server: ScriptedServer, runner: ScriptedRunner) -> None:
    mailbox = runner.join()
    runner.run()
    server.write((b"a", b"1"))
    runner.run()
    server.write((b"b", b"1"))
    del server.logs[KEYS.log][:-1]
    runner.run()
    assert told(mailbox) == ["Opened", ("set", b"a", b"1"), "HistoryGone"]
    server.write((b"c", b"1"))
    runner.run()
    assert told(mailbox) == [("set", b"c", b"1")]


def test_log_deleted_without_event_is_noticed_within_a_tick(server: ScriptedServer, runner: ScriptedRunner) -> None:
    mailbox = runner.join()
    runner.run()
    server.logs.clear()
    server.hashes.clear()
    runner.run(1.5)
    assert told(mailbox) == ["Opened", "HistoryGone"]


def test_lost_log_does_not_block_hub(server: ScriptedServer, runner: ScriptedRunner) -> None:
    runner.join()
    runner.run()
    server.logs.clear()
    before = len(server.calls)
    runner.run(4)
    assert sum("TIME" in call for call in server.calls[before:]) >= 4, "each second all logs are read"


@pytest.mark.parametrize("log_is_lost", [False, True])
def test_consumer_ending_during_hub_call_leaves_no_lock(
    server: ScriptedServer, runner: ScriptedRunner, log_is_lost: bool
) -> None:
    mailbox = runner.join()
    mailbox.lock = (b"lock", b"cursors", "holder")
    runner.run()
    advance = server._advance

    def advance_behind_the_end(keys: Any, rest: Any) -> int:
        mailbox.close()
        server.strings.pop(b"lock", None)
        return advance(keys, rest)

    server._advance = advance_behind_the_end  # type: ignore[method-assign]
    if log_is_lost:
        server.logs.clear()
    runner.run(1.5)
    assert mailbox.closed
    assert b"lock" not in server.strings


def test_different_entry_under_known_id_is_another_history(server: ScriptedServer, runner: ScriptedRunner) -> None:
    mailbox = runner.join()
    runner.run()
    server.write((b"a", b"1"))
    runner.run()
    server.logs[KEYS.log][-1] = [server.logs[KEYS.log][-1][0], [b"", b'{"n":1}', b"a", b"s2"]]
    server.hashes[KEYS.data][b"a"] = b"2"
    runner.run(1.5)
    assert told(mailbox) == ["Opened", ("set", b"a", b"1"), "HistoryGone"]


def test_lost_token_is_lost_connection(server: ScriptedServer, runner: ScriptedRunner) -> None:
    mailbox = runner.join()
    runner.run()
    runner.hold_back = lambda message: message[1].startswith(b"user:u:w:")
    server.write((b"a", b"1"))
    runner.run(0.1)
    runner.hold_back = lambda message: False
    server.write((b"b", b"1"))
    runner.run(5)
    assert told(mailbox) == ["Opened", ("set", b"a", b"1"), ("set", b"b", b"1")]


@pytest.mark.parametrize("at", range(30))
def test_broken_connection_loses_and_repeats_nothing(server: ScriptedServer, runner: ScriptedRunner, at: int) -> None:
    server.by_hand((b"old", b"0"), (b"big", b"0"))
    mailbox = runner.join()
    runner.run()
    assert told(mailbox) == ["Opened"]
    runner.break_at = at
    server.write((b"a", b"1"))
    runner.run(0.1)
    server.write((b"b", b"1"))
    server.append(KEYS.log, b'{"n":0}', [(b"big", b"r")])
    server.by_hand((b"old", b"by hand"))
    server.write((b"c", b"1"))
    runner.run(8)
    news = told(mailbox)
    assert news[:2] == [("set", b"a", b"1"), ("set", b"b", b"1")]
    assert sorted(news[2:]) == [("set", b"big", b"0"), ("set", b"c", b"1"), ("set", b"old", b"by hand")]


def test_watcher_that_cannot_start_gets_the_error(runner: ScriptedRunner) -> None:
    mailbox = runner.join()
    runner.hub.disconnected(ConnectionLost("nobody there"))
    [item] = items(mailbox)
    assert isinstance(item, WatchFailed)
    assert "nobody there" in str(item.error)
    assert runner.hub.unused


def test_new_watcher_waits_for_reconnection(server: ScriptedServer, runner: ScriptedRunner) -> None:
    runner.join()
    runner.run()
    newcomer = runner.join()
    runner.break_at = 0
    server.write((b"a", b"1"))
    runner.run()
    assert runner.lost == 1
    assert "Opened" in told(newcomer)


def test_watcher_gets_error_after_two_broken_connections(runner: ScriptedRunner) -> None:
    mailbox = runner.join()
    for _ in range(2):
        runner.hub.disconnected(ConnectionLost("cut"), were_made=True)
    [item] = items(mailbox)
    assert isinstance(item, WatchFailed)


def test_writes_between_connections_do_not_signal_missing_events(
    server: ScriptedServer, runner: ScriptedRunner
) -> None:
    mailbox = runner.join()
    runner.run()
    runner.hub.disconnected(ConnectionLost("cut"), were_made=True)
    runner.forget()
    server.write((b"a", b"1"))
    runner.run(3)
    assert told(mailbox) == ["Opened", ("set", b"a", b"1")]
    assert runner.lost == 0


def test_slow_watcher_gets_reset(server: ScriptedServer, runner: ScriptedRunner) -> None:
    idle, reader = runner.join(), runner.join()
    runner.run()
    for _ in range(MOST_CHANGES // 1000 + 5):
        server.write(*[(b"%d" % i, b"1") for i in range(1000)])
        runner.run(0.1)
        assert len([news for news in told(reader) if news != "Opened"]) == 1000
    news = told(idle)
    assert len(news) == MOST_CHANGES + 2
    assert news[-1] == "Overflow"
    assert idle.missed == 5000


def test_light_watcher_costs_no_digests(server: ScriptedServer, runner: ScriptedRunner) -> None:
    mailbox = runner.join(light=True)
    runner.run()
    server.by_hand((b"x", b"1"))
    runner.run()
    assert told(mailbox) == ["Opened", "Suspicion"]
    assert not any("HSCAN" in call for call in server.calls)


def test_missing_events_warn_once_and_hub_still_reads(server: ScriptedServer, runner: ScriptedRunner) -> None:
    server.events = False
    mailbox = runner.join()
    runner.run()
    server.write((b"a", b"1"))
    runner.run(1.5)
    assert told(mailbox) == ["Opened", ("set", b"a", b"1")]
    runner.break_at = 0
    runner.run(3)
    assert len(runner.warnings) == 1


def test_state_of_last_watcher_explains_later_writes(server: ScriptedServer, runner: ScriptedRunner) -> None:
    server.by_hand(*[(b"%d" % i, b"0") for i in range(50)])
    first = runner.join()
    runner.run()
    runner.leave(first)
    runner.run(3)
    server.write((b"1", b"1"), (b"new", b"1"))
    later = ScriptedRunner(server)
    resumed = later.join(resumes=True)
    later.run()
    assert told(resumed) == ["Opened"]


@pytest.mark.parametrize("key", [b"2", b"new", b"unknown"])
def test_unexplained_difference_is_a_gap(server: ScriptedServer, runner: ScriptedRunner, key: bytes) -> None:
    server.by_hand(*[(b"%d" % i, b"0") for i in range(500)])
    first = runner.join()
    runner.run(3)
    runner.leave(first)
    runner.run(3)
    server.write((b"1", b"1"), (b"new", b"1"))
    server.by_hand((key, b"by hand"))
    later = ScriptedRunner(server)
    resumed = later.join(resumes=True)
    new = later.join()
    later.run(3)
    assert told(resumed) == ["Opened", "HistoryGone"]
    assert told(new) == ["Opened"]
    assert server.logs[KEYS.log][-1][1][1] == b'{"n":0,"gap":1}'


def test_blank_log_is_renewed_until_something_is_written(server: ScriptedServer, runner: ScriptedRunner) -> None:
    renewals = ("PEXPIRE", KEYS.log, BLANK_LIFE_MS, "GT")

    def renewed() -> int:
        return sum(call == renewals for call in server.expiries)

    runner.join()
    runner.run(BLANK_LIFE_MS / 1000)
    assert renewed() >= 3
    server.write((b"a", b"1"))
    runner.run()
    assert server.expiries[-1] == ("PEXPIRE", KEYS.log, LogBounds().life_ms)
    before = renewed()
    runner.run(BLANK_LIFE_MS / 1000)
    assert renewed() == before
