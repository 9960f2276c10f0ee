"""Limits of calls, values, namespaces, change logs and times, and their checks."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from redis_store.errors import InvalidInput, InvalidType, LimitExceeded
from redis_store.types import NEVER, Ttl

MAX_COUNT = 1_000_000
"""Bound on the slots of a semaphore and the uses of a rate limit: the server keeps each, at about 10 bytes."""

MAX_VALUE_BYTES = 64 * 1024 * 1024
"""Default bound on a value, in bytes of JSON text."""

MAX_BATCH_BYTES = 256 * 1024 * 1024

MAX_VALUES = 1_000_000
"""Limit of the JSON values in a text that is decoded for an agent; each costs the host up to 200 bytes."""

MAX_CALL_KEYS = 10_000

MAX_APPENDED_ITEMS = 1000
"""Limit of the items of one `append` to a sequence, which one script stores."""

MAX_CALL_NAME_BYTES = 2 * 1024 * 1024
"""Limit of the names of several keys in one call of an agent, in bytes; a script copies each of them for the info and the log."""

MAX_READ_BYTES = 48 * 1024 * 1024
MAX_STEP_BYTES = 24 * 1024 * 1024
MAX_SCRIPT_BYTES = 8 * 1024 * 1024
"""Limits of one call of an agent: with each of them the server stands still for about 50 ms at most (benchmarks/harm.py)."""

MOST_ARGUMENTS = 3900
"""Limit of the arguments of one command. Managed services allow little more: ElastiCache Serverless 3,999."""

MAX_INFO_BYTES = 8 * 1024 * 1024
"""Limit of the infos and the tags' entries that one call of an agent moves, because it writes tags or keys that have them."""

TAG_ENTRY_BYTES = 512
"""Bytes that an entry in a tag counts as moved, beside its names: it takes the server as long as copying them."""

TAG_COPIES = 8
"""How many times as often as the other names the names of a value's tags are copied, which are in the key's info as JSON."""

MAX_FREED_BYTES = 256 * 1024 * 1024
"""Limit of the values of several keys that one call of an agent replaces or deletes, in bytes: the server frees their memory."""

MAX_RENAMED_BYTES = 64 * 1024
"""Limit of the names that the tags of a value store after a `rename` of an agent to a longer name, in bytes."""

LOG_ENTRIES = 10_000

LOG_BYTES = 8 * 1024 * 1024

LOG_DAYS = 7

MAX_LOG_DAYS = 36_500
"""Bound on the days for which an unwatched change log is kept: 100 years, as of a ttl."""

MAX_TTL_S = 100 * 365 * 86400
"""Bound on a ttl, in seconds: 100 years. The servers' own bounds on expiry times are not far above."""

MAX_BOUND = 2**53
"""Bound on the bounds that a caller may set: the scripts compute with the exact whole numbers of a double."""

ANY_SIZE = sys.maxsize
"""The bound of a reader that may read any amount at once."""


def shown(value: object) -> str:
    """Return the beginning of a value's `repr` for a message. An int of more than 4,300 digits has no `repr`."""
    try:
        text = repr(value)
    except ValueError:
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def check_whole(value: object, what: str, least: int = 0, most: int = MAX_BOUND) -> int:
    """Return a whole number between two bounds, or raise what it must be; `what` names the argument."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(f"{what} must be a whole number, not {type(value).__name__}.")
    if not least <= value <= most:
        bound = "2**53" if most == MAX_BOUND else f"{most:,}"
        raise InvalidInput(f"{what} must be from {least} to {bound}, not {shown(value)}.")
    return int(value)


def check_max_keys(max_keys: int | None) -> int | None:
    """Return `max_keys`, or raise if it is not a positive int or None."""
    return None if max_keys is None else check_whole(max_keys, "max_keys", 1)


def check_max_items(max_items: object) -> int:
    """Return the bound on a list's items, or raise if it is not a positive int."""
    return check_whole(max_items, "max_items", 1)


def check_sliding(sliding: object, ttl: Ttl) -> None:
    """Raise if a handle is to let ttls begin anew and has none to give, or is told so by something else than a bool."""
    if not isinstance(sliding, bool):
        raise InvalidType(f"sliding must be True or False, not {type(sliding).__name__}.")
    if sliding and default_ttl_ms(ttl) is None:
        raise InvalidInput("A sliding namespace needs a ttl: give use_namespace(name, ttl=..., sliding=True).")


def check_version(version: object) -> int:
    """Return an expected version as given, or raise if it is not a whole number from 0."""
    if isinstance(version, bool) or not isinstance(version, int):
        raise InvalidType(
            f"A version must be a whole number, as info(key).version is, or 0 for a missing key, not {type(version).__name__}."
        )
    if not 0 <= version <= MAX_BOUND:
        raise InvalidInput(f"A version must be from 0 to 2**53, not {shown(version)}: take it from info(key).version.")
    return int(version)


def too_much_at_once(limit_bytes: int) -> LimitExceeded:
    """Return the error for a read that was given up because its reply exceeds the reader's bound."""
    return LimitExceeded(
        f"The reply takes more than {limit_bytes:,} bytes, the most that may be read at once here: read in parts,"
        " for example with iter_items.",
        limit="max_read_bytes",
        limit_bytes=limit_bytes,
    )


def too_many_arguments(count: int) -> LimitExceeded:
    """Return the error for a command that is not sent, because it has more arguments than managed services take."""
    return LimitExceeded(
        f"The call needs a command of {count:,} arguments, and at most {MOST_ARGUMENTS:,} are sent, because managed servers"
        " take no more: nothing was done. Split the call.",
        limit="max_arguments",
        limit_count=MOST_ARGUMENTS,
        size_bytes=count,
    )


def too_many_values(limit_count: int) -> LimitExceeded:
    """Return the error for a text that is not decoded, because it has more JSON values than its reader decodes."""
    return LimitExceeded(
        f"The value has more than {limit_count:,} JSON values in it, the most that are decoded here: nothing was written."
        " Store it in parts, or as one string.",
        limit="max_values",
        limit_count=limit_count,
    )


def ttl_to_ms(ttl: object, what: str = "ttl") -> int:
    """Return a ttl, given in seconds or as a timedelta, in whole milliseconds, at least 1.

    `what` is the name of the argument, for the error message.
    """
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidType(f"{what} must be a number of seconds or a timedelta, not {type(ttl).__name__}.")
    if not 0 < seconds <= MAX_TTL_S:
        raise InvalidInput(
            f"{what}={shown(ttl)} is out of range: give more than 0 and at most {MAX_TTL_S:,} seconds (100 years)."
        )
    return max(1, round(seconds * 1000))


def default_ttl_ms(ttl: Ttl) -> int | None:
    """Return a namespace's default ttl in ms, or None for no expiry."""
    return None if ttl is None or ttl is NEVER else ttl_to_ms(ttl)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one value, batch and metadata object, in bytes of JSON text."""

    max_value_bytes: int = MAX_VALUE_BYTES
    max_batch_bytes: int = MAX_BATCH_BYTES
    max_metadata_bytes: int = 64 * 1024


class Moved:
    """The bytes that the server has moved for the calls of one agent, beyond those of the calls and their answers."""

    __slots__ = ("size_bytes",)

    def __init__(self) -> None:
        self.size_bytes = 0


@dataclass(frozen=True, slots=True)
class CallBounds:
    """Bounds on what one call makes the host and the server do at a time. Only the stores of agents have any."""

    values: int = ANY_SIZE
    """Number of JSON values in one text that is decoded to check or to change it."""
    keys: int = ANY_SIZE
    """Number of keys that one call names."""
    name_bytes: int = ANY_SIZE
    """Size of the names of several keys that one call names, in bytes."""
    read_bytes: int = ANY_SIZE
    """Size of the values of several keys that one command reads, in bytes as they are stored."""
    batch_bytes: int = ANY_SIZE
    """Size of the keys and values of one batch of several keys, in bytes of JSON text."""
    script_bytes: int = ANY_SIZE
    """Size of the values that one script gets or reads, in bytes as they are stored; it copies each several times."""
    info_bytes: int = ANY_SIZE
    """Size of the infos of the written keys and of their entries in tags, in bytes."""
    freed_bytes: int = ANY_SIZE
    """Size of the values of several keys that one call replaces or deletes, in bytes as they are stored."""
    renamed_bytes: int = ANY_SIZE
    """Size of the names that a value's tags store when its key gets a longer name, in bytes."""
    moved: Moved | None = None
    """What the calls have moved, for a caller who holds an agent to a pace; None for a store without bounds."""

    @classmethod
    def of_agent(cls) -> CallBounds:
        """Return the bounds for an agent's store, whose calls may be meant to harm others."""
        return cls(
            MAX_VALUES,
            MAX_CALL_KEYS,
            MAX_CALL_NAME_BYTES,
            MAX_READ_BYTES,
            MAX_STEP_BYTES,
            MAX_SCRIPT_BYTES,
            MAX_INFO_BYTES,
            MAX_FREED_BYTES,
            MAX_RENAMED_BYTES,
            Moved(),
        )

    def note_moved(self, size_bytes: int) -> None:
        """Count bytes that the server has moved."""
        if self.moved is not None:
            self.moved.size_bytes += size_bytes

    def take_moved(self) -> int:
        """Return the bytes that were counted since the last time."""
        if self.moved is None:
            return 0
        size_bytes, self.moved.size_bytes = self.moved.size_bytes, 0
        return size_bytes

    def check_keys(self, count: int) -> None:
        """Raise `LimitExceeded` if a call names too many keys."""
        if count > self.keys:
            raise LimitExceeded(
                f"The call names {count:,} keys, and at most {self.keys:,} are allowed at once here: nothing was done."
                " Split it.",
                limit="max_call_keys",
                limit_count=self.keys,
                size_bytes=count,
            )

    def check_names(self, fields: Collection[bytes]) -> None:
        """Raise `LimitExceeded` if a call names too many keys, or several whose names are too long together."""
        self.check_keys(len(fields))
        if len(fields) > 1 and (size_bytes := sum(map(len, fields))) > self.name_bytes:
            raise LimitExceeded(
                f"The names of the keys take {size_bytes:,} bytes, and at most {self.name_bytes:,} are allowed at once here:"
                " nothing was done. Split the call.",
                limit="max_call_name_bytes",
                limit_bytes=self.name_bytes,
                size_bytes=size_bytes,
            )

    def check_batch(self, count: int, size_bytes: int) -> None:
        """Raise `LimitExceeded` if a batch of several keys takes too many bytes."""
        if count > 1 and size_bytes > self.batch_bytes:
            raise LimitExceeded(
                f"The batch takes {size_bytes:,} bytes, and at most {self.batch_bytes:,} are allowed at once here: nothing was"
                " written. Store it in parts.",
                limit="max_batch_bytes",
                limit_bytes=self.batch_bytes,
                size_bytes=size_bytes,
            )

    def check_script(self, size_bytes: int) -> None:
        """Raise `LimitExceeded` if a script would copy too many bytes."""
        if size_bytes > self.script_bytes:
            raise LimitExceeded(
                f"The call would move {size_bytes:,} bytes in one step of the server, and at most {self.script_bytes:,} are"
                " allowed here, because others wait meanwhile: nothing was written. Use smaller values, or get and set"
                " without a ttl and metadata.",
                limit="max_script_bytes",
                limit_bytes=self.script_bytes,
                size_bytes=size_bytes,
            )

    def check_tags(self, tags: Collection[str], member_bytes: int) -> None:
        """Raise `LimitExceeded` if the tags of one value take too many bytes; an entry in each names the key."""
        size_bytes = TAG_COPIES * sum(map(len, tags)) + len(tags) * (TAG_ENTRY_BYTES + member_bytes)
        if size_bytes > self.info_bytes:
            raise LimitExceeded(
                f"The {len(tags):,} tags of the value count {size_bytes:,} bytes, because each also has the names of the key"
                f" and the namespace, and at most {self.info_bytes:,} are allowed here: nothing was written. Use fewer or"
                " shorter tags, or a shorter key.",
                limit="max_info_bytes",
                limit_bytes=self.info_bytes,
                size_bytes=size_bytes,
            )
        self.note_moved(size_bytes)

    def check_renamed(self, tags: int, name_bytes: int) -> None:
        """Raise `LimitExceeded` if a key with this many tags would get too long a name: each tag stores it."""
        if tags * name_bytes > self.renamed_bytes:
            raise LimitExceeded(
                f"The value has {tags:,} tags, each of which stores the new name: this takes {tags * name_bytes:,} bytes, and"
                f" at most {self.renamed_bytes:,} are allowed here. Nothing was written: use a shorter name, or set the value"
                " anew.",
                limit="max_renamed_bytes",
                limit_bytes=self.renamed_bytes,
                size_bytes=tags * name_bytes,
            )

    def check_burden(self, moved_bytes: int, freed_bytes: int) -> None:
        """Raise `LimitExceeded` if several keys that a call writes or deletes hold too much already, see `burden.lua`."""
        self.note_moved(moved_bytes)
        if moved_bytes > self.info_bytes:
            raise LimitExceeded(
                f"The keys of the call have tags and metadata already, of {moved_bytes:,} bytes or more, and at most"
                f" {self.info_bytes:,} can be moved at once here: nothing was written. Write fewer keys at once.",
                limit="max_info_bytes",
                limit_bytes=self.info_bytes,
                size_bytes=moved_bytes,
            )
        if freed_bytes > self.freed_bytes:
            raise LimitExceeded(
                f"The keys of the call hold values of {freed_bytes:,} bytes already, and at most {self.freed_bytes:,} can be"
                " replaced or deleted at once here: nothing was written. Write or delete them few at a time.",
                limit="max_freed_bytes",
                limit_bytes=self.freed_bytes,
                size_bytes=freed_bytes,
            )

    def check_replaced(self, old_bytes: int, new_bytes: int) -> None:
        """Raise `LimitExceeded` if a script would copy too many bytes of an old value, to compare it, and of a new one."""
        if not old_bytes:
            self.check_script(new_bytes)
        elif old_bytes + new_bytes > self.script_bytes:
            raise LimitExceeded(
                f"The old value takes {old_bytes:,} bytes and the new one {new_bytes:,}, and at most {self.script_bytes:,} are"
                " allowed for both together here, because they are compared and replaced in one step of the server while"
                " others wait: nothing was written. Keep the value in several keys, or replace it with set.",
                limit="max_script_bytes",
                limit_bytes=self.script_bytes,
                size_bytes=old_bytes + new_bytes,
            )

    def check_read(self, count: int, size_bytes: int) -> None:
        """Raise `LimitExceeded` if a command would read too many bytes of several keys."""
        if count > 1 and size_bytes > self.read_bytes:
            raise too_much_at_once(self.read_bytes)


UNBOUNDED = CallBounds()


@dataclass(frozen=True, slots=True)
class LogBounds:
    """Bounds on the change log of a watched namespace: its newest entries, and its approximate size in bytes.

    A change log that is not watched for `days` days is deleted.
    """

    entries: int = LOG_ENTRIES
    max_bytes: int = LOG_BYTES
    days: int = LOG_DAYS
    values: bool = True
    """Whether the log holds values, or only says which keys were set."""

    @property
    def bytes_for_scripts(self) -> int:
        """The size as the scripts take it: negative if the log holds no values."""
        return self.max_bytes if self.values else -self.max_bytes

    @property
    def life_ms(self) -> int:
        """Time that an unwatched change log is kept, in ms."""
        return self.days * 86_400_000


def check_timeout(timeout: object) -> float | None:
    """Return a timeout in seconds, or raise if it is invalid. None waits without limit, and 0 tries once."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise InvalidType(f"A timeout must be a number of seconds or None, not {type(timeout).__name__}.")
    if not 0 <= timeout < 1e9:
        raise InvalidInput(
            f"The timeout {shown(timeout)} is out of range: give a number of seconds, at least 0, or None."
        )
    return float(timeout)


def check_places(n: object) -> int:
    """Return the number of a semaphore's slots or a rate limit's uses, or raise if it is not from 1 to `MAX_COUNT`."""
    return check_whole(n, "n", 1, MAX_COUNT)


def check_cursor(cursor: object) -> str:
    """Return the cursor of a page, or raise if it is none."""
    if not isinstance(cursor, str) or not cursor.isascii() or not cursor.isdecimal() or len(cursor) > 20:
        raise InvalidInput(
            f"{cursor!r:.80} is not a cursor: begin with '0', and continue with the cursor that the last page returned."
        )
    return cursor
