"""The operations of the data channel: one row for each, which says all that the agent's side and the host's side must know.

A row names the arguments, in the order of the store's method; the answer; the rights that are needed; and what is counted. From
it follow the messages: fixed parts in the same order, then the repeated ones. No operation waits before it is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from redis_store.namespace.keys import MAX_NAMESPACE_BYTES
from sandbox.protocol import charges
from sandbox.protocol.answers import (
    APPENDED,
    CLAIM,
    COMMITTED,
    COUNT,
    DONE,
    EMPTY,
    FOUND_ITEMS,
    HELD,
    INFO,
    INFOS,
    INVALIDATED,
    ITEMS_WITH_INFO,
    KEY_NAMES,
    LAST_POPPED,
    MOMENT,
    NAMESPACE_NAMES,
    PAGE_OF_ITEMS,
    PAGE_OF_ITEMS_WITH_INFO,
    PAGE_OF_KEYS,
    POPPED,
    POSITION,
    RENAMED,
    REPLACED,
    STEP,
    SUM,
    VALUE_OR_DEFAULT,
    VALUE_TOUCHED,
    Answer,
    Answered,
)
from sandbox.protocol.arguments import (
    ACCESS,
    CURSOR,
    EXPECTED,
    EXPECTED_VERSION,
    ITEMS,
    JSON_VALUE,
    KEY,
    KEYS,
    LIFETIME_S,
    MAX_ITEMS,
    METADATA,
    NUMBER_OF,
    OLD_KEY,
    PERIOD_S,
    PLAIN_NAME,
    POSITION_OR_NONE,
    PREFIX,
    SECONDS,
    SEQUENCE_ITEMS,
    SET,
    TAG,
    TAGS,
    TEXT_EXPECTED,
    TEXT_OF_VALUE,
    TOKEN,
    TRANSACTION,
    TTL,
    VALUES,
    WAIT_S,
    Argument,
    Caller,
    charge_of_metadata,
    charge_of_tag,
    namespaces_of_sets,
    needs_of_steps,
    size_of,
)
from sandbox.protocol.frames import FrameError, Part
from sandbox.protocol.messages import TEXT, WHOLE, Shape


@dataclass(frozen=True, slots=True)
class Row:
    """An operation: its arguments, its answer, and what it needs and does."""

    arguments: tuple[Argument, ...]
    answer: Answer
    reads: bool = False
    """Whether the right to read the namespace is needed."""
    writes: bool = False
    """Whether the right to write the namespace is needed."""
    changes: bool = False
    """Whether it can change data."""
    adds: bool = False
    """Whether it can add keys to the namespace, so that it takes a maximum number of keys."""
    stores: bool = False
    """Whether the bytes of its arguments are stored in a namespace."""
    tells: bool = False
    """Whether it stores, or tells watchers, something that is not among its arguments."""
    needs: tuple[str, ...] = ()
    """Further operations that the agent must be allowed to use, because of what the answer reveals."""
    notes: str = ""
    """What is stored beside the data under a name among its arguments, as Redis keys call it: ``lock``, ``limit`` (semaphores),
    ``rate``; ``ns`` for a claim and tags. Empty if nothing is."""
    replaces: bool = False
    """Whether what it stores under its keys replaces what is there."""
    is_renewal: bool = False
    """Whether it prolongs what is there already."""
    releases: bool = False
    """Whether it makes room by releasing something."""
    frees: bool = field(init=False)
    """Whether it can make room by deleting or replacing data, or by releasing something."""
    shape: Shape = field(init=False)
    fixed: tuple[Argument, ...] = field(init=False)
    repeated_at: int = field(init=False)
    """Index of the repeated argument, or -1."""
    is_plain: bool = field(init=False)
    """Whether the parts are the arguments."""
    is_named: bool = field(init=False)
    """Whether the first argument is a key or another name, such as that of a lock or a tag."""
    metadata_at: int = field(init=False)
    """Index of the metadata that is stored with each of several items, or -1."""
    decoders: tuple[tuple[int, Callable[[Any], Any]], ...] = field(init=False)
    """The conversions of single arguments on the host, each with the argument's index among the parts."""
    sizes: tuple[tuple[int | slice, Callable[[Any], int]], ...] = field(init=False)
    """The functions that count the stored bytes of arguments, each with the place of its part or parts."""
    values: tuple[tuple[int | slice, Callable[[Any], Sequence[bytes]]], ...] = field(init=False)
    """The functions that find the values of arguments, each with the place of its part or parts."""

    def __post_init__(self) -> None:
        fixed = tuple(argument for argument in self.arguments if not argument.repeated)
        at = next((at for at, argument in enumerate(self.arguments) if argument.repeated), -1)
        repeated = () if at < 0 else self.arguments[at].kinds
        object.__setattr__(self, "frees", self.changes or self.releases or TAG in fixed)
        object.__setattr__(self, "fixed", fixed)
        object.__setattr__(self, "repeated_at", at)
        object.__setattr__(self, "shape", Shape(tuple(argument.kinds[0] for argument in fixed), repeated))
        several = METADATA in fixed and at >= 0
        object.__setattr__(self, "is_named", bool(fixed) and fixed[0] in (KEY, OLD_KEY, PLAIN_NAME, TAG))
        object.__setattr__(self, "metadata_at", fixed.index(METADATA) if several else -1)
        decoders = tuple((at, argument.decode) for at, argument in enumerate(fixed) if argument.decode is not None)
        object.__setattr__(self, "is_plain", at < 0 and not decoders)
        object.__setattr__(self, "decoders", decoders)
        places: list[tuple[int | slice, Argument]] = [*enumerate(fixed)]
        if at >= 0:
            places.append((slice(len(fixed), None), self.arguments[at]))
        sizes = tuple((place, argument.stored) for place, argument in places if argument.stored is not None)
        values = tuple((place, argument.texts) for place, argument in places if argument.texts is not None)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "values", values)

    @property
    def of_user(self) -> bool:
        """Whether it concerns no namespace, or several."""
        return not self.reads and not self.writes

    def needed(self, parts: list[Any], bounded: bool) -> Iterable[str]:
        """Return the further operations that a call needs: for its answer, its steps, or its eviction of other keys."""
        if TRANSACTION in self.arguments:
            return needs_of_steps(parts)
        return (*self.needs, "delete") if bounded else self.needs

    def encode(self, caller: Caller, arguments: tuple[Any, ...]) -> list[Part]:
        """Return the parts of a call, in the agent. Arguments that are left out are None; further ones are not sent."""
        given = (*arguments, *[None] * (len(self.arguments) - len(arguments)))
        parts: list[Part] = []
        more: list[Part] = []
        for argument, value in zip(self.arguments, given, strict=False):
            if argument.repeated:
                more = argument.encode(caller, value)
                argument.check_count(len(more))
            else:
                parts.append(argument.encode(caller, value))
        return parts + more

    def check_counts(self, parts: list[Any]) -> None:
        """Raise `LimitExceeded` if the repeated argument has too many parts, on the host."""
        if self.repeated_at >= 0:
            self.arguments[self.repeated_at].check_count(len(parts) - len(self.fixed))

    def decode(self, parts: list[Any]) -> list[Any]:
        """Return the arguments of a call, on the host."""
        if self.is_plain:
            return parts
        arguments = parts[: len(self.fixed)]
        for at, decode in self.decoders:
            arguments[at] = decode(arguments[at])
        if self.repeated_at >= 0:
            rest, argument = parts[len(self.fixed) :], self.arguments[self.repeated_at]
            arguments.insert(self.repeated_at, rest if argument.decode is None else argument.decode(rest))
        return arguments

    def answered(self, parts: list[Any], result: Any) -> Answered:
        """Return the answer to a call with these parts, on the host."""
        answered = self.answer.encode(result)
        if not self.stores or answered.size or self.answer is REPLACED:
            return answered
        texts = [text for place, texts_of in self.values for text in texts_of(parts[place])]
        size, value = sum(map(len, texts)), texts[0] if texts else None
        return Answered(answered.parts, answered.keys, answered.hit, size, value, answered.moved_bytes, answered.kept)

    def bytes_written(self, parts: list[Any]) -> int:
        """Return about how many bytes a call would store in namespaces that exist: keys, values, metadata, info."""
        if not self.stores:
            return 0
        size = sum([stored(parts[place]) for place, stored in self.sizes])
        if self.metadata_at >= 0:
            items = (len(parts) - len(self.fixed)) // 2
            size += (items - 1) * charge_of_metadata(parts[self.metadata_at])
        return size + charges.LOGGED_BYTES if self.tells else size

    def bytes_noted(self, namespace: str, parts: list[Any]) -> int:
        """Return about how many bytes a call would store beside the data: for locks, limits, claims and tags, and in logs."""
        size = charges.LOGGED_BYTES + size_of(parts[0]) if self.tells and not self.stores else 0
        if not self.notes:
            return size
        tags = parts[len(self.fixed) :] if self.repeated_at >= 0 else []
        if tags:
            member = charges.TAG_BYTES + size_of(namespace) + size_of(parts[0])  # each tag stores the key
            size += sum(charge_of_tag(tag) + member for tag in tags)
        if not self.stores:
            others = sum(size_of(part) for part in parts[1 : len(self.fixed)] if isinstance(part, str))
            size += charges.HELD_BYTES + 3 * size_of(parts[0]) + 2 * others
            size += size_of(namespace) if self.notes == "ns" else 0
        return size

    def written_namespaces(self, namespace: str, parts: list[Any]) -> Collection[str]:
        """Return the namespaces in which a call stores something."""
        if not self.stores:
            return ()
        return namespaces_of_sets(parts) if TRANSACTION in self.arguments else (namespace,)

    def changed_namespaces(self, namespace: str, parts: list[Any]) -> Collection[str]:
        """Return the namespaces in which a call can change something."""
        if not self.changes:
            return ()
        return {name for what, name in zip(parts[::5], parts[1::5], strict=True)} if self.of_user else (namespace,)

    def listed(self, namespace: str, parts: list[Any]) -> list[tuple[str, str]]:
        """Return what a call can store beside the data: the kinds, as Redis keys call them, and names."""
        found = [("ns", name) for name in self.written_namespaces(namespace, parts)]
        if self.notes == "ns":
            tags = parts[len(self.fixed) :] if self.repeated_at >= 0 else []
            found += [("ns", namespace), *(("tag", tag) for tag in tags)]
        elif self.notes:
            found.append((self.notes, parts[0]))
        return [(kind, name) for kind, name in found if size_of(name) <= MAX_NAMESPACE_BYTES]  # others are refused

    def only_renews(self, parts: list[Any]) -> bool:
        """Whether a call only prolongs a claim: one with tags may store others than the claim has."""
        return self.is_renewal and len(parts) == len(self.fixed)

    def deletes(self, parts: list[Any], bounded: bool) -> bool:
        """Whether a call can make room otherwise than by replacing a value or giving up a claim."""
        return "delete" in self.needed(parts, bounded) or not (self.stores or self.replaces or self.notes)

    def overwritten(self, namespace: str, parts: list[Any]) -> Mapping[str, list[str]]:
        """Return the keys whose values a call replaces, by namespace."""
        if not self.replaces:
            return {}
        if TRANSACTION not in self.arguments:
            return {namespace: parts[len(self.fixed) :: 2] if ITEMS in self.arguments else parts[:1]}
        found: dict[str, list[str]] = {}
        for what, name, key in zip(parts[::5], parts[1::5], parts[2::5], strict=True):
            if what == SET:
                found.setdefault(name, []).append(key)
        return found


_TOUCH = ("get", "expire")

_read = partial(Row, reads=True)
_write = partial(Row, writes=True, changes=True)
_change = partial(Row, reads=True, writes=True, changes=True)
_touch = partial(_change, tells=True, replaces=True)
_store = partial(_change, adds=True, stores=True)
_compute = partial(Row, reads=True, writes=True, needs=("get",), notes="ns")

OPERATIONS: dict[str, Row] = {
    "get": _read((KEY,), VALUE_OR_DEFAULT),
    "set": _write((KEY, JSON_VALUE, METADATA, TTL), EMPTY, adds=True, stores=True, replaces=True),
    "set_if_version": _store((KEY, JSON_VALUE, METADATA, TTL, EXPECTED_VERSION), EMPTY, needs=("info",), replaces=True),
    "delete": _write((KEY,), DONE),
    "delete_if_version": _change((KEY, EXPECTED_VERSION), DONE, needs=("info",)),
    "delete_many": _write((KEYS,), COUNT),
    "list_keys": _read((PREFIX,), KEY_NAMES),
    "scan_page": _read((CURSOR, PREFIX), PAGE_OF_KEYS),
    "scan_items_page": _read((CURSOR, PREFIX), PAGE_OF_ITEMS),
    "scan_infos_page": _read((CURSOR, PREFIX), PAGE_OF_ITEMS_WITH_INFO, needs=("info",)),
    "list_namespaces": Row((PREFIX,), NAMESPACE_NAMES),
    "get_many": _read((KEYS,), FOUND_ITEMS),
    "get_all": _read((PREFIX,), FOUND_ITEMS),
    "get_many_info": _read((KEYS,), ITEMS_WITH_INFO, needs=("info",)),
    "get_all_info": _read((PREFIX,), ITEMS_WITH_INFO, needs=("info",)),
    "set_many": _write((ITEMS, METADATA, TTL), COUNT, adds=True, stores=True, replaces=True),
    "clear": _write((), COUNT),
    "info": _read((KEY,), INFO),
    "infos": _read((KEYS,), INFOS),
    "contains": _read((KEY,), DONE),
    "count": _read((), COUNT),
    "get_touched": _touch((KEY, SECONDS), VALUE_TOUCHED, needs=_TOUCH),
    "get_sliding": _touch((KEY, TTL), VALUE_TOUCHED, needs=_TOUCH),
    "get_many_sliding": Row((KEYS, TTL), FOUND_ITEMS, reads=True, writes=True, needs=_TOUCH),
    "expire": _touch((KEY, SECONDS), DONE),
    "persist": _touch((KEY,), DONE),
    "increment": _store((KEY, JSON_VALUE, TTL), SUM, tells=True, replaces=True),
    "append": _store((KEY, VALUES, MAX_ITEMS, TTL), APPENDED, tells=True),
    "set_if_absent": _store((KEY, JSON_VALUE, TTL), DONE),
    "compare_and_set": _store((KEY, EXPECTED, JSON_VALUE, TTL), DONE, replaces=True),
    # The value was counted when it was written, and is stored only once.
    "rename": _store((OLD_KEY, KEY), RENAMED, tells=True),
    "sequence_append": _change((SEQUENCE_ITEMS, TTL), POSITION, stores=True),
    "sequence_append_bounded": _change((SEQUENCE_ITEMS, NUMBER_OF, TTL), POSITION, needs=("delete",), stores=True),
    "sequence_last": _read((NUMBER_OF,), FOUND_ITEMS),
    "sequence_range": _read((NUMBER_OF, POSITION_OR_NONE), FOUND_ITEMS),
    "sequence_page": _read((NUMBER_OF,), PAGE_OF_ITEMS),
    "sequence_pop": _change((PLAIN_NAME, TEXT_EXPECTED), LAST_POPPED, needs=("sequence_last",)),
    # Steps between which the agent process calls the agent's own functions, or waits.
    "pop": _change((KEY, TEXT_EXPECTED), POPPED, needs=("get",)),
    "replace": _store((KEY, TEXT_EXPECTED, TEXT_OF_VALUE, TTL), REPLACED, needs=("get",), replaces=True),
    "look_value": Row((KEY,), VALUE_OR_DEFAULT, reads=True, writes=True, needs=("get",)),
    "claim_value": _compute((OLD_KEY, TOKEN, LIFETIME_S, LIFETIME_S, PERIOD_S, NUMBER_OF, TAGS), CLAIM),
    "renew_value": _compute((OLD_KEY, TOKEN, PERIOD_S, TAGS), STEP, is_renewal=True),
    "commit_value": _compute(
        (KEY, TOKEN, TEXT_OF_VALUE, LIFETIME_S, LIFETIME_S, TAGS),
        DONE,
        changes=True,
        adds=True,
        stores=True,
        replaces=True,
    ),
    "fail_value": _compute((OLD_KEY, TOKEN, PLAIN_NAME, PLAIN_NAME), STEP, releases=True),
    "invalidate_tag": Row((TAG, ACCESS), INVALIDATED),
    "commit_transaction": Row((TRANSACTION,), COMMITTED, changes=True, stores=True, replaces=True),
    "acquire_lock": Row((PLAIN_NAME, TOKEN, PERIOD_S, NUMBER_OF), HELD, notes="lock"),
    "renew_lock": Row((PLAIN_NAME, TOKEN, PERIOD_S), STEP),
    "release_lock": Row((PLAIN_NAME, TOKEN), STEP, releases=True),
    "acquire_place": Row((PLAIN_NAME, TOKEN, NUMBER_OF, PERIOD_S, NUMBER_OF), HELD, notes="limit"),
    "renew_place": Row((PLAIN_NAME, TOKEN, NUMBER_OF, PERIOD_S), STEP),
    "release_place": Row((PLAIN_NAME, TOKEN, NUMBER_OF), STEP, releases=True),
    "take_moment": Row((PLAIN_NAME, NUMBER_OF, PERIOD_S, WAIT_S), MOMENT, notes="rate"),
}
"""The operations by name. Those of the second half take seconds, and 1 for "stand in the queue"."""

WRITES = frozenset(name for name, row in OPERATIONS.items() if row.changes)
"""Operations that can change data."""

REFUSABLE = WRITES | {"update", "get_or_set"}
"""Calls whose refusal in the agent process is told to the host, for the timeline."""

OF_THE_USER = frozenset(name for name, row in OPERATIONS.items() if row.of_user)
"""Operations that concern no namespace, or several."""

BOUNDED = "bounded"
"""Prefix of an operation that `adds`, on a namespace with `max_keys`; the maximum, the operation and its parts follow."""

_HEAD = Shape((WHOLE, TEXT, TEXT))
_BOUND_HEAD = Shape((WHOLE, TEXT))


def read_request(parts: list[Any]) -> tuple[int, str, str, int | None, list[Any]]:
    """Check a request and return its id, operation, namespace, maximum number of keys and parts; or raise `FrameError`."""
    if not _HEAD.fits(parts[:3]):
        raise FrameError("a request that does not begin with an id, an operation and a namespace")
    number, operation, namespace = parts[:3]
    max_keys: int | None = None
    if operation == BOUNDED:
        if not _BOUND_HEAD.fits(parts[3:5]) or parts[4] not in OPERATIONS or not OPERATIONS[parts[4]].adds:
            raise FrameError("an invalid bound, or a bound on an operation that takes none")
        max_keys, operation = parts[3:5]
        del parts[3:5]
    row = OPERATIONS.get(operation)
    if row is None:
        raise FrameError(f"a request for the unknown operation {operation[:64]!r}")
    arguments = parts[3:]
    if not row.shape.fits(arguments):
        raise FrameError(f"a request for {operation!r} with arguments of the wrong types or number")
    return number, operation, namespace, max_keys, arguments
