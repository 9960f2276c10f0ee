"""The changes of all users as they come, on one server. No I/O, no clock.

Keyspace events of the data hashes tell in which namespace something was written, and its change log tells what. A namespace
without a log gets one, for a minute at a time (`follow.lua`). What was written just before comes from its infos. Nothing is
read of namespaces in which nothing happens.

A *pass* looks at the logs and infos of all namespaces for what has happened since a time. It is made at the beginning if older
changes are wanted, after a connection broke, after more events than are kept, and each second or less often on a server whose
events may not come.

`admin/follow_sync.py` has the connections: it passes each message to `heard`, and runs `step` as long as that returns something.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from redis_store.admin.activity import now_ms
from redis_store.admin.records import ChangeRecord
from redis_store.admin.search import SAME_WRITE_MS, ChangesInOrder, records_of, scan_infos
from redis_store.admin.usage import time_of
from redis_store.admin.walks import Walk, next_page, parts_of, readable_keys
from redis_store.changelog.ops import add_flags, read_flags
from redis_store.errors import DataStoreError, PermissionDenied, ServerRefused
from redis_store.namespace.keys import PLAIN, UserKeys, decode_name, encode_namespace
from redis_store.namespace.redis_key import RedisKey, parse_redis_key
from redis_store.protocol.call import all_replies
from redis_store.protocol.command import Command, ReplyError
from redis_store.protocol.error_replies import SlotElsewhere, translate
from redis_store.scripts import FOLLOW
from redis_store.server_config import missing_flags

LOOKS_PER_STEP = 8
"""Namespaces whose logs one step reads."""

ENTRIES_PER_LOG = 50
"""Entries of one log that one step reads."""

LOGS_PER_QUESTION = 200
"""Logs that one request asks for."""

LOG_LIFE_MS = 60_000
"""Time for which a log that was made for this is kept after the last change in it that was read, in ms."""

MOST_WAITING = 10_000
"""Namespaces in which something happened and that wait to be read, at most; more of them cause a pass."""

MOST_KNOWN = 10_000
"""Logs whose last entry that was read is remembered, and keys whose last write was told from their info."""

AGAIN_S = 0.3
"""Time after which a log is read again that had nothing new at an event, in seconds: a watcher may add what it finds."""

CHECK_S = 5.0
"""Interval at which the server's configuration is read again, in seconds."""

FIRST_PASS_S = 1.0
PAUSE_PER_PASS = 10
"""Interval between two passes on a server whose events may not come: seconds at least, and times the length of a pass."""

EVENT = "event"
"""The source of a change of which only the event is known."""

_SAME_WRITE = timedelta(milliseconds=SAME_WRITE_MS)


class Progress:
    """What has been told, on all servers together, as a user may move from one to another."""

    def __init__(self) -> None:
        self.last: OrderedDict[bytes, tuple[str, int]] = OrderedDict()
        """For a log, the id of the last entry that was read, and the server's time then in ms."""
        self.forgotten_ms = 0
        """The latest such time among those that are no longer kept."""
        self._told: OrderedDict[tuple[str, str, str | None], datetime] = OrderedDict()

    def note(self, log: bytes, last: str, at_ms: int) -> None:
        """Note that a log has been read up to an entry."""
        self.last[log] = (last, at_ms)
        self.last.move_to_end(log)
        if len(self.last) > MOST_KNOWN:
            _, (_, gone_ms) = self.last.popitem(last=False)
            self.forgotten_ms = max(self.forgotten_ms, gone_ms)

    def tell(self, record: ChangeRecord) -> bool:
        """Note that a write is told. Return whether it is new: a log and an info may tell the same one."""
        place = (record.user, record.namespace, record.key)
        told = self._told.get(place)
        if record.source != "log" and told is not None and record.at <= told:
            return False
        self._told[place] = record.at + _SAME_WRITE if record.source == "log" else record.at
        self._told.move_to_end(place)
        if len(self._told) > MOST_KNOWN:
            self._told.popitem(last=False)
        return True


class _Place(NamedTuple):
    """A namespace in which something happened."""

    channel: bytes
    parts: RedisKey
    events: frozenset[bytes]

    @property
    def log(self) -> bytes:
        return self.parts.keys.of_stored(self.parts.name).log


@dataclass(slots=True)
class _Scan:
    """A walk over the infos of a namespace whose log was just made, for the writes since a time."""

    parts: RedisKey
    since_ms: int
    walk: Walk[ChangeRecord]


class ChangeFinder:
    """Finds the changes on one server."""

    def __init__(self, database: int, user: str | None, namespace: str | None, told: Progress, epoch: str) -> None:
        if user is not None:
            UserKeys.of(user, form=PLAIN)  # raises for what is no user
        self._user = user
        self._namespace = None if namespace is None else encode_namespace(namespace)
        self._head = b"__keyspace@%d__:" % database
        self.pattern = self._head + b"user:*:ns:*"
        """The pattern of the channels whose messages are to be passed to `heard`. A login needs to be given just this one."""
        self.now = 0.0
        """The current time, by any clock in seconds; set before each call."""
        self.floor_ms = 0
        """The server's time, in ms, up to which everything has been told of the logs that are not known."""
        self.sure = False
        """Whether each change is announced by an event."""
        self.refused: DataStoreError | None = None
        """The server's refusal of the subscription."""
        self.pass_at: float | None = None
        """The time of the next pass, or None if none is needed."""
        self._told = told
        self._epoch = epoch
        self._waiting: dict[bytes, set[bytes]] = {}
        self._again: dict[bytes, float] = {}
        self._scans: deque[_Scan] = deque()
        self._scans_turn = False
        """Whether a scan is to go on before logs are read, so that many changes do not hold it up."""
        self._pass: Walk[ChangeRecord] | None = None
        self._collected = ChangesInOrder()
        """What the pass has found so far."""
        self._pass_began = 0.0
        self._check_at = 0.0

    # What the runner calls

    async def begin(self, since_ms: int | None, configures: bool) -> None:
        """Begin after the subscription is confirmed, or was refused: with what has happened since a time, or from now on."""
        if configures:
            await self._configure()
        await self._check()
        if since_ms is None:
            self.floor_ms = await now_ms()
        else:
            self.floor_ms = since_ms
            self.pass_at = self.now

    async def resume(self) -> None:
        """Go on after the connections broke: what has happened meanwhile was not announced."""
        self._again.clear()
        self.stop()
        for scan in self._scans:
            scan.walk = self._scan(scan.parts, scan.since_ms)
        self.pass_at = self.now
        await self._check()

    def stop(self) -> None:
        """End the walks under way. What the pass has found is kept, and scans can begin again."""
        walks = [scan.walk for scan in self._scans]
        if self._pass is not None:
            walks.append(self._pass)
            self._pass = None
        for walk in walks:
            with suppress(StopIteration):  # a walk awaits nothing while it is closed
                walk.aclose().send(None)

    def heard(self, message: Any) -> None:
        """Take a message of the subscription, or its refusal."""
        if isinstance(message, ReplyError):
            self.refused, self.sure = translate(message, (("PSUBSCRIBE",),)), False
        if not isinstance(message, list) or len(message) != 4:
            return
        events = self._waiting.get(message[2])
        if events is not None:
            events.add(message[3])
        elif len(self._waiting) < MOST_WAITING:
            self._waiting[message[2]] = {message[3]}
        else:
            self.pass_at = self.now

    @property
    def until(self) -> float:
        """The time until which there is nothing to do if no message comes."""
        times = [self._check_at, *self._again.values()]
        if self.pass_at is not None:
            times.append(self.pass_at)
        return min(times)

    async def step(self) -> list[ChangeRecord] | None:
        """Do what is most urgent and return the changes that it found, or None if there was nothing to do."""
        if self.now >= self._check_at:
            await self._check()
            return []
        if self._pass is None and self.pass_at is not None and self.now >= self.pass_at:
            self.pass_at, self._pass_began = None, self.now
            self._pass = self._look_at_all()
        if self._pass is not None:
            page = await next_page(self._pass)
            if page is None:
                self._pass = None
                if not self.sure:
                    length_s = self.now - self._pass_began
                    self.pass_at = self.now + max(FIRST_PASS_S, PAUSE_PER_PASS * length_s)
            return page or []
        for channel in [each for each, due in self._again.items() if self.now >= due]:
            del self._again[channel]
            self._waiting.setdefault(channel, set())
        if self._waiting and not (self._scans and self._scans_turn):
            self._scans_turn = True
            return await self._look()
        if self._scans:
            self._scans_turn = False
            page = await next_page(self._scans[0].walk)
            if page is None:
                self._scans.popleft()
            else:
                self._scans.rotate(-1)  # a big namespace does not hold up the others
            return page or []
        return None

    # Events

    async def _look(self) -> list[ChangeRecord]:
        """Read the logs of some namespaces in which something happened."""
        places = []
        for channel in list(self._waiting)[:LOOKS_PER_STEP]:
            events = self._waiting.pop(channel)
            parts = parse_redis_key(channel[len(self._head) :])
            if parts is not None and parts.kind == "ns" and self._is_wanted(parts):
                places.append(_Place(channel, parts, frozenset(events)))
        if not places:
            return []
        commands: list[Command] = [("TIME",)]
        for place in places:
            make = FOLLOW.by_text if len(commands) == 1 else FOLLOW.by_digest
            data = place.parts.keys.of_stored(place.parts.name).data
            commands.append(make((place.log, data), (self._epoch, LOG_LIFE_MS)))
            commands.append(self._rest_of(place.log))
        replies = await all_replies(*commands, bulk=True)
        if isinstance(replies[0], ReplyError):
            raise translate(replies[0], commands[:1])
        at_ms = int(replies[0][0]) * 1000 + int(replies[0][1]) // 1000
        found: list[ChangeRecord] = []
        for number, place in enumerate(places):
            found += self._of_place(place, at_ms, *replies[2 * number + 1 : 2 * number + 3])
        return found

    def _rest_of(self, log: bytes) -> Command:
        known = self._told.last.get(log)
        begin = str(self._floor()) if known is None else f"({known[0]}"
        return ("XRANGE", log, begin, "+", "COUNT", ENTRIES_PER_LOG)

    def _floor(self) -> int:
        return max(self.floor_ms, self._told.forgotten_ms)

    def _of_place(self, place: _Place, at_ms: int, made: Any, entries: Any) -> list[ChangeRecord]:
        """Return the changes that the log of a namespace has; if it had none, have its infos read."""
        if isinstance(entries, ReplyError):
            entries = []
        if isinstance(made, ReplyError) and isinstance(translate(made), SlotElsewhere):
            return []  # the other node announces what is written there
        is_new = bool(entries) and list(entries[0][1]) == [b"", b'{"n":0,"epoch":"%b"}' % self._epoch.encode()]
        known = self._told.last.get(place.log)
        if entries:
            self._told.note(place.log, entries[-1][0].decode(), at_ms)
        if isinstance(made, bytes) and not is_new:
            if len(entries) == ENTRIES_PER_LOG:
                self._waiting.setdefault(place.channel, set())
            elif not entries and place.events and len(self._again) < MOST_WAITING:
                self._again[place.channel] = self.now + AGAIN_S
            return self._records(entries, place.parts)
        # There was no log: only the last write of each key is known, and that something was deleted.
        since_ms = self._floor() if known is None else known[1]
        if made is not None:
            self._scans.append(_Scan(place.parts, since_ms, self._scan(place.parts, since_ms)))
            if not is_new:  # the server refuses to make a log
                self._told.note(place.log, "0", at_ms)
        return [*self._of_events(place, at_ms), *self._records(entries, place.parts)]

    def _records(self, entries: Sequence[Any], parts: RedisKey) -> list[ChangeRecord]:
        found = [record for raw in entries for record in records_of(raw, parts)]
        for record in found:
            if record.op == "set":
                self._told.tell(record)
        return found

    def _of_events(self, place: _Place, at_ms: int) -> list[ChangeRecord]:
        at = time_of(at_ms)
        op = next((op for event, op in _LOSSES.items() if event in place.events), None)
        if op is None or at is None:
            return []
        return [ChangeRecord(at, place.parts.user, decode_name(place.parts.name), None, op, None, None, EVENT)]

    async def _scan(self, parts: RedisKey, since_ms: int) -> Walk[ChangeRecord]:
        """Yield the writes of a namespace from before its log was made, as its infos tell them."""
        async for records in scan_infos({parts.keys.of_stored(parts.name).info: parts}, since_ms):
            yield [one for one in records if self._told.tell(one)]

    # Passes

    async def _look_at_all(self) -> Walk[ChangeRecord]:
        began_ms = await now_ms()
        since_ms = self._floor()
        names: dict[tuple[str, str], bytes] = {}
        async for page in readable_keys(self._user):
            chosen = [each for each in page if self._is_wanted(each[1])]
            for some in parts_of([each for each in chosen if each[1].kind == "log"], LOOKS_PER_STEP):
                async for records in self._rests(some):
                    self._collected.add(records)
                    yield []
            infos = await self._without_log({key: parts for key, parts in chosen if parts.kind == "info"})
            async for records in scan_infos(infos, since_ms):
                if records:
                    new = self._not_read(records, infos)
                    self._collected.add(new)
                    names |= _data_keys(new, infos)
                yield []
        self.floor_ms = began_ms
        collected, self._collected = self._collected, ChangesInOrder()
        found = [one for one in collected.result() if one.source == "log" or self._told.tell(one)]
        for one in found:
            if (data := names.get((one.user, one.namespace))) is not None and len(self._waiting) < MOST_WAITING:
                self._waiting.setdefault(self._head + data, set())  # from now on, a log tells more
        yield found

    async def _rests(self, logs: Sequence[tuple[bytes, RedisKey]]) -> Walk[ChangeRecord]:
        """Yield what some logs have that was not told."""
        left = dict(logs)
        while left:
            commands = [("TIME",), *(self._rest_of(log) for log in left)]
            clock, *replies = await all_replies(*commands, bulk=True)
            at_ms = 0 if isinstance(clock, ReplyError) else int(clock[0]) * 1000 + int(clock[1]) // 1000
            found: list[ChangeRecord] = []
            for log, entries in zip(list(left), replies, strict=True):
                if not isinstance(entries, ReplyError) and entries:
                    self._told.note(log, entries[-1][0].decode(), at_ms)
                    found += self._records(entries, left[log])
                if isinstance(entries, ReplyError) or len(entries) < ENTRIES_PER_LOG:
                    del left[log]
            yield found

    async def _without_log(self, infos: dict[bytes, RedisKey]) -> dict[bytes, RedisKey]:
        """Leave out the namespaces whose logs are followed, and tell everything."""
        logs = {key: parts.keys.of_stored(parts.name).log for key, parts in infos.items()}
        known = [key for key, log in logs.items() if log in self._told.last]
        there: set[bytes] = set()
        for some in parts_of(known, LOGS_PER_QUESTION):
            replies = await all_replies(*(("EXISTS", logs[key]) for key in some))
            there.update(key for key, reply in zip(some, replies, strict=True) if reply == 1)
        return {key: parts for key, parts in infos.items() if key not in there}

    def _not_read(self, records: Sequence[ChangeRecord], infos: dict[bytes, RedisKey]) -> list[ChangeRecord]:
        """Leave out the writes of before the logs were read."""
        read_ms = {}
        for parts in infos.values():
            if (known := self._told.last.get(parts.keys.of_stored(parts.name).log)) is not None:
                read_ms[parts.user, decode_name(parts.name)] = known[1]
        return [one for one in records if _ms_of(one.at) >= read_ms.get((one.user, one.namespace), 0)]

    def _is_wanted(self, parts: RedisKey) -> bool:
        return self._user in (None, parts.user) and self._namespace in (None, parts.name)

    # The server's configuration

    async def _check(self) -> None:
        """Find out whether events come for sure. The call also shows that the connection is alive."""
        self._check_at = self.now + CHECK_S
        was_sure = self.sure
        try:
            self.sure = not missing_flags(await read_flags()) and self.refused is None
        except (ServerRefused, PermissionDenied):
            self.sure = False
        if not self.sure and self.pass_at is None and self._pass is None:
            self.pass_at = self.now + FIRST_PASS_S
        elif self.sure and not was_sure:
            self.pass_at = self.now if self.pass_at is not None else None  # once more, for what was not announced

    async def _configure(self) -> None:
        try:
            flags = await read_flags()
            if missing_flags(flags):
                await add_flags(flags)
        except (ServerRefused, PermissionDenied):
            return


def _ms_of(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000) // 1000


def _data_keys(records: Sequence[ChangeRecord], infos: dict[bytes, RedisKey]) -> dict[tuple[str, str], bytes]:
    """Return the data hashes of the namespaces of some records."""
    places = {(one.user, one.namespace) for one in records}
    every = {(each.user, decode_name(each.name)): each.keys.of_stored(each.name).data for each in infos.values()}
    return {place: every[place] for place in places}


_LOSSES = {b"hdel": "delete", b"hexpired": "expire", b"del": "clear", b"expired": "clear", b"evicted": "clear"}
"""What is known of a change from its event alone."""
