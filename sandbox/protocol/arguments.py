"""The arguments of operations: the parts that stand for one, and its conversion on the agent's side and on the host's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from redis_store.errors import InvalidType, InvalidValue, LimitExceeded
from redis_store.flows.compute_once import encode_tag
from redis_store.flows.optimistic import TransactionParts, check_parts
from redis_store.limits import (
    MAX_APPENDED_ITEMS,
    MAX_CALL_KEYS,
    check_cursor,
    check_max_items,
    check_version,
    ttl_to_ms,
)
from redis_store.namespace.access import Access
from redis_store.namespace.keys import encode_key, encode_prefix
from redis_store.types import MISSING, NEVER, Json, Ttl
from redis_store.values import rules
from sandbox.protocol import charges
from sandbox.protocol.frames import MAX_PARTS, FrameError, Part
from sandbox.protocol.messages import (
    JSON,
    JSON_OR_NONE,
    NUMBER,
    NUMBER_OR_NONE,
    TEXT,
    TEXT_OR_NONE,
    WHOLE,
    WHOLE_OR_NONE,
    Kinds,
)

MAX_TAGS = 1000
"""Limit of the tags of one value in the sandbox; the server is blocked while it stores them."""

MAX_PATTERNS = 100
"""Limit of the patterns of a handle made by `restricted` with which an agent invalidates a tag: each is compared with each
namespace that has the tag."""

MAX_ITEMS_ADDED = 100_000
"""Limit of the items of one `append`, each of which the host checks."""

MAX_METADATA_TEXT_BYTES = 1024 * 1024
"""Size limit of metadata as JSON text, the one argument that the host decodes, in bytes.

The store's own limit is lower, and its error tells the agent the reason.
"""

LARGEST_INT = 2**63 - 1
"""The largest number that a message can carry; bounds above it are sent as this one, which nothing reaches."""

READ, SET, DELETE, BOUND, EXPECT = 0, 1, 2, 3, 4
"""Kinds of steps of a transaction.

`READ` expects the value that was read (None: a missing key), `SET` sets, `DELETE` deletes. `BOUND` gives the maximum number of
keys of a namespace, in the position of the ttl. `EXPECT` gives the version that a key must have, in the same position.
"""

_MAY_READ, _MAY_WRITE = 0, 1

_EXPONENT = re.compile(rb"\d[eE]")
_LONGER_BYTES = 14
"""How much longer a number with an exponent can become when it is written again: ``1e15`` as ``1000000000000000.0``."""


class Caller(Protocol):
    """The agent's side: one namespace, with its default ttl and the rights of the handle."""

    @property
    def ttl_ms(self) -> int | None: ...
    @property
    def access(self) -> Access: ...
    def encode(self, value: object) -> bytes: ...
    def decode(self, text: bytes, key: str) -> Json: ...


class Argument(NamedTuple):
    """One argument: the types of its parts, and how each side converts it."""

    kinds: tuple[Kinds, ...]
    encode: Callable[[Caller, Any], Any]
    """In the agent: check the argument and return its part, or its parts if it is `repeated`."""
    decode: Callable[[Any], Any] | None = None
    """On the host: return the argument from its part or parts; None for a part that is the argument."""
    repeated: bool = False
    stored: Callable[[Any], int] | None = None
    """The bytes that the part or parts take in a namespace, about."""
    texts: Callable[[Sequence[Any]], Sequence[bytes]] | None = None
    """The values among the part or parts, as JSON text."""
    most: int = MAX_PARTS
    """Limit of the repetitions, which both sides check before they do anything with them."""
    what: str = ""
    """What is repeated, for the error."""

    def check_count(self, parts: int) -> None:
        """Raise `LimitExceeded` for too many parts of a repeated argument."""
        count = parts // len(self.kinds)
        if count > self.most:
            raise LimitExceeded(
                f"The call has {count:,} {self.what}, and at most {self.most:,} are allowed inside the sandbox: nothing was"
                " done. Use fewer, or split the call.",
                limit=self.what,
                limit_count=self.most,
                size_bytes=count,
            )


def size_of(part: str | bytes) -> int:
    """Return the size of a name or text in bytes; every text of a message can be encoded as UTF-8."""
    return len(part) if isinstance(part, bytes) or part.isascii() else len(part.encode())


def charge_of_key(key: str) -> int:
    """Return the bytes that a key takes beside its value: as a field of the data and of the info."""
    return charges.KEY_BYTES + 2 * size_of(key)


def charge_of_namespaces(names: Collection[str]) -> int:
    """Return the bytes that namespaces take beside their keys: each name is in two Redis keys and in the registry."""
    return charges.NAMESPACE_BYTES * len(names) + 3 * sum(map(size_of, names))


def charge_of_tag(tag: str) -> int:
    """Return the bytes that the name of a tag takes: it is in Redis keys as it is, and in infos escaped, as JSON."""
    escaped = len(json.dumps(tag)) - 2 + 4 * (tag.count("\\") + tag.count('"')) + 5 * tag.count("}")
    return 2 * max(escaped, size_of(tag))


def charge_of_metadata(text: bytes | None) -> int:
    """Return the bytes that metadata takes at most when it is merged, and so written again."""
    return len(text) + _LONGER_BYTES * len(_EXPONENT.findall(text)) if text else 0


def key_text(key: object) -> str:
    """Return a key as an exact str, once it is checked."""
    encode_key(key)  # type: ignore[arg-type]  # it checks an argument of any type
    return str.__str__(key)


def _keys(_: Caller, keys: Iterable[str]) -> list[str]:
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise InvalidType(f"Keys must be a list of str, not {type(keys).__name__}: put a single key in a list.")
    return [key_text(key) for key in keys]


def _items(caller: Caller, items: Mapping[str, Any]) -> list[Part]:
    if not isinstance(items, Mapping):
        raise InvalidType(f"A batch must be a dict of keys and values, not {type(items).__name__}.")
    return [part for key, value in items.items() for part in (key_text(key), _text_of(caller, key, value))]


def _text_of(caller: Caller, key: str, value: object) -> bytes:
    try:
        return caller.encode(value)
    except InvalidValue as error:
        raise InvalidValue(f"Under the key {key!r}: {error}", path=error.path, key=key) from None


def _values(caller: Caller, values: Iterable[Any]) -> list[bytes]:
    values = list(values)
    try:
        return [caller.encode(value) for value in values]
    except InvalidValue:
        pass
    return [rules.dump(value) for value in rules.to_plain(values)]  # its error names the item


def _pairs(parts: list[Any]) -> dict[str, Any]:
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _metadata_text(caller: Caller, metadata: dict[str, Json] | None) -> bytes | None:
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidType(f"Metadata must be a dict or None, not {type(metadata).__name__}.")
    return caller.encode(metadata) if metadata else None


def _metadata(text: bytes | None) -> dict[str, Any] | None:
    if text is None:
        return None
    if len(text) > MAX_METADATA_TEXT_BYTES:
        raise LimitExceeded(
            f"The metadata takes {len(text):,} bytes as JSON, and at most {MAX_METADATA_TEXT_BYTES:,} are read inside the"
            " sandbox: store it as a value.",
            limit="max_metadata_bytes",
            limit_bytes=MAX_METADATA_TEXT_BYTES,
            size_bytes=len(text),
        )
    try:
        metadata = rules.load(text)
    except (ValueError, RecursionError):
        raise FrameError("metadata that is not JSON") from None
    if not isinstance(metadata, dict):
        raise FrameError("metadata that is not a JSON object")
    return metadata


def _ttl_s(caller: Caller, ttl: Ttl) -> float | None:
    """Return a ttl in seconds, None for no expiry: the host knows neither `NEVER` nor a namespace's default."""
    if ttl is None:
        return None if caller.ttl_ms is None else caller.ttl_ms / 1000
    return None if ttl is NEVER else ttl_to_ms(ttl) / 1000


def _cursor(_: Caller, cursor: object) -> str:
    return str.__str__(check_cursor(cursor))


def _max_items(_: Caller, most: int | None) -> int | None:
    return None if most is None else min(check_max_items(most), LARGEST_INT)


def _access_parts(access: Access) -> list[Part]:
    patterns = [(_MAY_READ, one) for one in access.read] + [(_MAY_WRITE, one) for one in access.write]
    return [part for right, pattern in patterns for part in (right, str(pattern))]


def _access(parts: list[Any]) -> Access:
    rights = list(zip(parts[::2], parts[1::2], strict=True))
    read, write = ([pattern for right, pattern in rights if right == wanted] for wanted in (_MAY_READ, _MAY_WRITE))
    return Access.of(read, write)


def _transaction(parts: list[Any]) -> TransactionParts:
    check_parts(len(parts) // 5)
    checks: list[tuple[str, str, int]] = []
    found = TransactionParts([], [], [], {}, checks)
    for start in range(0, len(parts), 5):
        what, namespace, key, text, ttl = parts[start : start + 5]
        if what == READ:
            found.reads.append((namespace, key, MISSING if text is None else text))
        elif what == SET and text is not None:
            found.sets.append((namespace, key, text, ttl))
        elif what == DELETE:
            found.deletes.append((namespace, key))
        elif what == BOUND and isinstance(ttl, int):
            found.max_keys[namespace] = ttl
        elif what == EXPECT and isinstance(ttl, int):
            checks.append((namespace, key, ttl))
        else:
            raise FrameError("a step of a transaction that is none")
    return found


def _size_of_sets(parts: list[Any]) -> int:
    sets = zip(parts[::5], parts[2::5], parts[3::5], strict=True)
    return sum(charge_of_key(key) + len(text or b"") for what, key, text in sets if what == SET)


def namespaces_of_sets(parts: Sequence[Any]) -> set[str]:
    """Return the namespaces that a transaction writes values in."""
    return {name for what, name in zip(parts[::5], parts[1::5], strict=True) if what == SET}


def _texts_of_sets(parts: Sequence[Any]) -> list[bytes]:
    return [text for what, text in zip(parts[::5], parts[3::5], strict=True) if what == SET and text is not None]


_NEEDS_OF_STEPS = {READ: "get", DELETE: "delete", BOUND: "delete", EXPECT: "info"}


def needs_of_steps(parts: Sequence[Any]) -> set[str]:
    """Return the operations that the steps of a transaction need besides it."""
    return {_NEEDS_OF_STEPS[what] for what in parts[::5] if what in _NEEDS_OF_STEPS}


def _as_it_is(kinds: Kinds) -> Argument:
    return Argument((kinds,), lambda _, part: part)


KEY = Argument((TEXT,), lambda _, key: key_text(key), stored=charge_of_key)
OLD_KEY = KEY._replace(stored=None)
KEYS = Argument((TEXT,), _keys, repeated=True, most=MAX_CALL_KEYS, what="keys")
JSON_VALUE = Argument((JSON,), lambda caller, value: caller.encode(value), stored=len, texts=lambda text: [text])  # type: ignore[list-item]
TEXT_OF_VALUE = JSON_VALUE._replace(encode=lambda _, text: text)
VALUES = Argument(
    (JSON,),
    _values,
    repeated=True,
    stored=lambda texts: sum(map(len, texts)),
    texts=lambda texts: texts,
    most=MAX_ITEMS_ADDED,
    what="items",
)
SEQUENCE_ITEMS = VALUES._replace(
    stored=lambda texts: sum(map(len, texts)) + (charges.KEY_BYTES + 2 * 16) * len(texts),  # keys of 16 digits
    most=MAX_APPENDED_ITEMS,
)
ITEMS = Argument(
    (TEXT, JSON),
    _items,
    _pairs,
    repeated=True,
    stored=lambda parts: sum(map(charge_of_key, parts[::2])) + sum(map(len, parts[1::2])),
    texts=lambda parts: parts[1::2],
    most=MAX_CALL_KEYS,
    what="keys",
)
EXPECTED = Argument(
    (JSON_OR_NONE,),
    lambda caller, value: None if value is MISSING else caller.encode(value),
    lambda text: MISSING if text is None else text,
)
TEXT_EXPECTED = EXPECTED._replace(encode=lambda _, text: text)
METADATA = Argument((JSON_OR_NONE,), _metadata_text, _metadata, stored=charge_of_metadata)
TTL = Argument((NUMBER_OR_NONE,), _ttl_s)
SECONDS = Argument((NUMBER,), lambda _, ttl: ttl_to_ms(ttl) / 1000)
PREFIX = Argument((TEXT_OR_NONE,), lambda _, prefix: encode_prefix(prefix) or None)
CURSOR = Argument((TEXT,), _cursor)
MAX_ITEMS = Argument((WHOLE_OR_NONE,), _max_items)
PLAIN_NAME = TOKEN = _as_it_is(TEXT)
NUMBER_OF = _as_it_is(WHOLE)
PERIOD_S = _as_it_is(NUMBER)
WAIT_S = _as_it_is(NUMBER_OR_NONE)
POSITION_OR_NONE = _as_it_is(WHOLE_OR_NONE)
LIFETIME_S = _as_it_is(NUMBER_OR_NONE)
EXPECTED_VERSION = Argument((WHOLE,), lambda _, version: check_version(version))
TAGS = Argument((TEXT,), lambda _, tags: [*tags], repeated=True, most=MAX_TAGS, what="tags")
TAG = Argument((TEXT,), lambda _, tag: encode_tag(tag).decode())
ACCESS = Argument(
    (WHOLE, TEXT),
    lambda caller, _: _access_parts(caller.access),
    _access,
    repeated=True,
    most=MAX_PATTERNS,
    what="patterns",
)
"""The rights of the agent's handle, which may be less than those of its run; never an argument of the method."""
TRANSACTION = Argument(
    (WHOLE, TEXT, TEXT, JSON_OR_NONE, NUMBER_OR_NONE),
    lambda _, parts: parts,
    _transaction,
    repeated=True,
    stored=_size_of_sets,
    texts=_texts_of_sets,
)
