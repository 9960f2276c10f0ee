"""The lines of an export: one JSON object for each key, between a first line and a last one.

The bytes of a value are copied into the line where they are JSON on one line. Others are kept exactly too, as a string (`text`),
or in base64 where they are not UTF-8. So are names. `docs/operating.md` describes the fields.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence

import msgspec
import orjson

from redis_store.errors import DataStoreError, InvalidInput, InvalidSettings
from redis_store.namespace.keys import UserKeys
from redis_store.ops.key_info import texts_of_tags
from redis_store.values.compression import RESERVED_FIRST_BYTE, Compression

FIRST_LINE = b'{"redis-store":"export","version":1}\n'

_ENCODED = bytes([RESERVED_FIRST_BYTE])
_ANY_TEXT = Compression(max_bytes=1 << 30)
_PACKING = Compression(above_bytes=0)

# A string as `scope._quoted` writes it, without a raw quote.
_NAME_IN_INFO = rb'"[^"\\\x00-\x1f]*(?:\\[^"\\][^"\\\x00-\x1f]*)*"'
_TIME = rb"[0-9]{1,16}"
_INFO_FORM = re.compile(
    rb'(\{"created":%(t)b(?:,"by":%(n)b,"updated":%(t)b|(?:,"updated":%(t)b)?(?:,"by":%(n)b)?)'
    rb'(?:,"updated_by":(?:null|%(n)b))?(?:,"run":%(n)b)?)(?:,"tags":(\{[^}]*\}))?((?:,"metadata":\{.*\})?\})'
    % {b"t": _TIME, b"n": _NAME_IN_INFO},
    re.DOTALL,
)
"""An info as the scripts write it, in format 2 or 1: what precedes the tags, the tags, and the rest."""

_TAG = re.compile(r"(?:own:[A-Za-z0-9_.%-]+:)?tag:.+", re.DOTALL)
"""The end of the Redis key of a tag, after the user."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """A key with everything that belongs to it, as the server holds it."""

    user: str
    namespace: bytes
    field: bytes
    text: bytes
    info: bytes
    """Its info, without tags; empty if it has none."""
    tags: list[str]
    """The ends of the Redis keys of its tags."""
    expires_ms: int | None


class ParsedLine(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The line of a key, which was checked."""

    user: str
    namespace: str | None = None
    namespace_base64: str | None = None
    key: str | None = None
    key_base64: str | None = None
    value: msgspec.Raw = msgspec.Raw(b"")
    text: str | None = None
    base64: str | None = None
    compressed: bool = False
    info: msgspec.Raw = msgspec.Raw(b"")
    tags: list[str] = []
    expires: int | None = None


class _End(msgspec.Struct, forbid_unknown_fields=True):
    keys: int
    sha256: str


class _LastLine(msgspec.Struct, forbid_unknown_fields=True):
    end: _End


_raws = msgspec.json.Decoder(list[msgspec.Raw])
_line = msgspec.json.Decoder(ParsedLine)
_last_line = msgspec.json.Decoder(_LastLine)


def last_line(keys: int, sha256: str) -> bytes:
    """Return the line that ends an export of so many keys, with the digest of all lines before it."""
    return b'{"end":{"keys":%d,"sha256":"%b"}}\n' % (keys, sha256.encode())


def start_of(user: str, namespace: bytes) -> bytes:
    """Return the start of the lines of a namespace."""
    return b'{"user":%b,%b' % (_quoted(user), _name(b"namespace", namespace))


def key_part(field: bytes) -> bytes:
    """Return the part of a line that names the key. It has no tab and no newline, as the names of a `Spool` must not."""
    return b"," + _name(b"key", field)


def ends_of(
    user: UserKeys,
    fields: Sequence[bytes],
    texts: Sequence[bytes | None],
    infos: Sequence[bytes | None],
    expiries: Sequence[int] | None,
) -> list[bytes]:
    """Return the rest of the line of each key, with its newline; empty for a key that is gone."""
    wholes = [text or b"null" for text in texts]
    plain = _are_json(wholes)
    values = wholes if plain else None
    fine = _are_json([info for info in infos if info is not None])
    lives: Sequence[int] = expiries or [-1] * len(fields)
    ends = []
    for at, (text, info, life) in enumerate(zip(texts, infos, lives, strict=True)):
        if text is None or life == -2:
            ends.append(b"")
            continue
        value = b',"value":' + text if values is not None and text else _value(text, fields[at])
        about = b"" if info is None else _about(user, info, fine)
        ends.append(b'%b%b,"expires":%d}\n' % (value, about, life) if life > 0 else b"%b%b}\n" % (value, about))
    return ends


def _are_json(texts: Sequence[bytes]) -> bool:
    """Whether each of these texts is JSON on one line, without space around it."""
    joined = b",".join(texts)
    if b"\n" in joined:
        return False
    try:
        joined.decode()
        return list(map(bytes, _raws.decode(b"[%b]" % joined))) == list(texts)
    except (ValueError, RecursionError):
        return False


def _value(stored: bytes, field: bytes) -> bytes:
    if stored.startswith(_ENCODED):
        try:
            text = _ANY_TEXT.plain(stored, "", "")
        except (DataStoreError, ImportError):
            return _bytes(b"text", stored)
        if _are_json([text]):
            return b',"value":%b,"compressed":true' % text
        return _bytes(b"text", stored)
    return b',"value":' + stored if _are_json([stored]) else _bytes(b"text", stored)


def _bytes(name: bytes, raw: bytes) -> bytes:
    try:
        return b',"%b":%b' % (name, _quoted(raw.decode()))
    except UnicodeDecodeError:
        return b',"base64":"%b"' % b64encode(raw)


def _name(name: bytes, raw: bytes) -> bytes:
    try:
        return b'"%b":%b' % (name, _quoted(raw.decode()))
    except UnicodeDecodeError:
        return b'"%b_base64":"%b"' % (name, b64encode(raw))


def _quoted(text: str) -> bytes:
    return orjson.dumps(text)


def _about(user: UserKeys, info: bytes, fine: bool) -> bytes:
    """Return the parts of a line that an info becomes; nothing for one that this package did not write."""
    match = _INFO_FORM.fullmatch(info)
    if match is None or not (fine or _are_json([info])):
        return b""
    head, tags, rest = match.groups()
    if tags is None:
        return b',"info":' + info
    start = user.prefix.decode()
    names = [name.removeprefix(start) for name in orjson.loads(tags) if name.startswith(start)]
    return b',"info":%b%b,"tags":%b' % (head, rest, orjson.dumps(names))


def parse_line(line: bytes) -> ParsedLine:
    """Parse the line of a key. Raises `InvalidInput` if it is none."""
    try:
        found = _line.decode(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"it is not a line of an export ({error})") from None
    info, expires = found.info, found.expires
    if found.namespace is None or found.namespace_base64 is not None:
        _raw("namespace", found.namespace, found.namespace_base64)
    if found.key is None or found.key_base64 is not None:
        _raw("key", found.key, found.key_base64)
    if not found.value or found.text is not None or found.base64 is not None:
        _text(found)
    if found.compressed:
        compressed(b"0")  # raises if zstd is not installed
    if info:
        match = _INFO_FORM.fullmatch(info)
        if match is None or match[2] is not None:
            raise InvalidInput("its info is not one that this package writes")
    if found.tags:
        for tag in found.tags:
            if not _TAG.fullmatch(tag):
                raise InvalidInput(f"{tag[:80]!r} is not a tag")
        if not info:
            raise InvalidInput("it has tags, but no info")
    if expires is not None and not 0 < expires < 1 << 46:
        raise InvalidInput(f"{expires} is not a time in ms since 1970")
    return found


def row_of(line: ParsedLine) -> Row:
    """Return what a line has, as the server holds it."""
    return Row(
        line.user,
        _raw("namespace", None, line.namespace_base64) if line.namespace is None else line.namespace.encode(),
        _raw("key", None, line.key_base64) if line.key is None else line.key.encode(),
        bytes(line.value) if line.value and not line.compressed else _text(line),
        bytes(line.info),
        line.tags,
        line.expires,
    )


def _text(line: ParsedLine) -> bytes:
    if bool(line.value) + (line.text is not None) + (line.base64 is not None) != 1:
        raise InvalidInput("it must have one of value, text and base64")
    return compressed(bytes(line.value)) if line.value else _raw("value", line.text, line.base64)


def read_last_line(line: bytes) -> tuple[int, str] | None:
    """Return the number of keys and the digest of a last line; None if it is another."""
    if not line.startswith(b'{"end":'):
        return None
    try:
        end = _last_line.decode(line).end
    except ValueError:
        return None
    return end.keys, end.sha256


def compressed(text: bytes) -> bytes:
    """Return the bytes that a store with compression keeps for a JSON text."""
    try:
        return _PACKING.pack(text)
    except ImportError:
        raise InvalidSettings(
            "its value is compressed, and zstd is not installed here: pip install backports.zstd, and import again"
        ) from None


def _raw(what: str, text: str | None, base64: str | None) -> bytes:
    if (text is None) == (base64 is None):
        raise InvalidInput(f"it must name its {what} once")
    if text is not None:
        return text.encode()
    try:
        return b64decode(base64 or "", validate=True)
    except ValueError:
        raise InvalidInput(f"its {what} is not base64") from None


def info_with_tags(user: UserKeys, info: bytes, tags: Iterable[str]) -> bytes:
    """Return an info with its tags, as `scripts/info_text.lua` writes it."""
    names = texts_of_tags(user.prefix.decode() + tag for tag in tags)
    match = _INFO_FORM.fullmatch(info)
    if not names or match is None:
        return info
    text = "{" + ",".join(f'"{name}":1' for name in names) + "}"
    return b'%b,"tags":%b%b' % (match[1], text.encode(), match[3])
