"""Answers within a budget of tokens: values cut at JSON structure, and the cursors that reach the rest. No I/O."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from redis_store.errors import InvalidInput
from redis_store.namespace.fit import fit_name
from redis_store.types import MISSING, Json, Missing

DEFAULT_TOKENS = 8_000
LEAST_TOKENS = 1_000
"""Least budget of an answer, in tokens: a cursor and what describes a value take some hundreds."""

_WORD = re.compile(r"\s?[A-Z]?[a-z]+|[A-Z]+|[0-9]{1,3}|\s+|[!-/:-@\[-`{-~]{1,2}|[^\x00-\x7f]|[\x00-\x1f\x7f]", re.ASCII)
_BYTES_PER_TOKEN = 4
_ENVELOPE_TOKENS = 120
"""Reserve for the cursor and the punctuation of an answer, in tokens."""
_LEVEL_TOKENS = 6
"""Tokens of a list or an object beside its items: its brackets, and its place in a cursor."""
_SHARES = (1.0, 0.85, 0.7, 0.5, 0.3, 0.1)
"""Parts of the budget that are tried in turn, because the cursor's length is known only afterwards."""
_NAME_BYTES = 256
_CURSOR_TOKENS = 320
"""Reserve for a cursor with a name in it, in tokens."""
_MOST_POINTER_CHARS = 300


def dumps(value: object) -> str:
    """Return a value as compact JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def tokens(text: str) -> int:
    """Estimate the tokens that a model takes for a text, rather too many than too few: at least one for 4 bytes."""
    counted = sum(_cost(word) for word in _WORD.findall(text))
    return max(counted, -(-len(text.encode()) // _BYTES_PER_TOKEN))


def _cost(word: str) -> int:
    if not word.isascii():
        return 1 if ord(word) < 0x10000 else 3
    if word.isspace():
        return 1 + len(word) // 16
    return 1 + (len(word) - 1) // (2 if word.isupper() else 6)


def fits(text: str, most_tokens: int) -> bool:
    """Whether a text is within a budget. Long texts are refused by their length."""
    return len(text) <= most_tokens * _BYTES_PER_TOKEN and tokens(text) <= most_tokens


def write_cursor(*parts: object) -> str:
    """Return the text of a cursor."""
    return urlsafe_b64encode(dumps(parts).encode()).decode().rstrip("=")


def read_cursor(text: str, kinds: tuple[type, ...]) -> list[Any]:
    """Parse a cursor whose parts have these types, or raise `InvalidInput`."""
    try:
        parts = json.loads(urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        parts = None
    if not isinstance(parts, list) or [type(part) for part in parts] != list(kinds):
        raise InvalidInput("The cursor is not one that this tool gave: pass it unchanged, or call again without it.")
    return parts


@dataclass(slots=True)
class _Allowance:
    whole: int
    left: int

    def take(self, count: int) -> bool:
        """Take tokens, or none if there are not enough."""
        if count > self.left:
            return False
        self.left -= count
        return True


def value_answer(value: Json, about: dict[str, Json], cursor: str | None, most_tokens: int) -> str:
    """Return the JSON text of an answer with a value, or with a part of it and the cursor of the next part.

    A part has the value's own structure, from where the last one ended: the list, object or text that goes on in it is named by
    `continues`, as a JSON pointer. Where a name or a number alone is over the budget, `json_text` has pieces of the value's text.
    """
    text = dumps(value)
    if cursor is None:
        whole = dumps({"value": value, **about}) if len(text) <= most_tokens * _BYTES_PER_TOKEN else None
        if whole is not None and fits(whole, most_tokens):
            return whole
        if not fits(dumps(about), most_tokens // 4):
            about = {**about, "metadata": "left out: too long"}
    digest = blake2b(text.encode(), digest_size=6).hexdigest()
    path, offset = _place_of(cursor, digest)
    if offset is None:
        answer = _structured(value, path, about, digest, most_tokens)
        if answer is not None:
            return answer
        offset = 0
    return _textual(text, offset, about, digest, most_tokens)


def _place_of(cursor: str | None, digest: str) -> tuple[list[int], int | None]:
    """Return the path at which to go on, and the offset in the value's text if it is given in pieces of text."""
    if cursor is None:
        return [], None
    of, path, offset = read_cursor(cursor, (str, list, int))
    if of != digest:
        raise InvalidInput("The value has changed since the cursor was given: read it again without the cursor.")
    if not all(type(part) is int and part >= 0 for part in path):
        raise InvalidInput("The cursor is not one that this tool gave: pass it unchanged, or call again without it.")
    return path, offset if offset >= 0 else None


def _structured(value: Json, path: list[int], about: dict[str, Json], digest: str, most_tokens: int) -> str | None:
    head: dict[str, Json] = {**about, **({"continues": _pointer(value, path)} if path else {})}
    room = most_tokens - _ENVELOPE_TOKENS - tokens(dumps(head))
    for share in _SHARES:
        try:
            part, rest = _cut(value, path, _Allowance(int(room * share), int(room * share)))
        except IndexError:
            raise InvalidInput("The cursor is not one that this tool gave: call again without it.") from None
        if isinstance(part, Missing):
            return None
        following = {} if rest is None else {"cursor": write_cursor(digest, rest, -1)}
        answer = dumps({"value": part, **head, **following})
        if tokens(answer) <= most_tokens:
            return answer
    return None


def _textual(text: str, offset: int, about: dict[str, Json], digest: str, most_tokens: int) -> str:
    room = most_tokens - _ENVELOPE_TOKENS - tokens(dumps(about))
    for share in _SHARES:
        piece = text[offset : offset + _prefix_within(text, offset, int(room * share))]
        following = (
            {} if offset + len(piece) >= len(text) else {"cursor": write_cursor(digest, [], offset + len(piece))}
        )
        answer = dumps({"json_text": piece, **about, **following})
        if tokens(answer) <= most_tokens:
            break
    return answer


def _cut(value: Json, at: Sequence[int], allowance: _Allowance) -> tuple[Json | Missing, list[int] | None]:
    """Return the part of a value from a path on that is allowed, and the path of the rest.

    The part is MISSING if there is room for none of it; the rest is None if there is none.
    """
    if isinstance(value, str):
        return _cut_text(value, at[0] if at else 0, allowance)
    if isinstance(value, (list, dict)) and value:
        return _cut_items(value, at, allowance)
    return (value, None) if allowance.take(tokens(dumps(value))) else (MISSING, [])


def _cut_text(value: str, offset: int, allowance: _Allowance) -> tuple[Json | Missing, list[int] | None]:
    """Take a text or a part of it. One that would fit into the next answer is left for that if more than half of this is used."""
    rest = value[offset:]
    text = dumps(rest) if len(rest) <= allowance.whole * _BYTES_PER_TOKEN else None
    if text is not None and fits(text, allowance.left):
        allowance.take(tokens(text))
        return rest, None
    if text is not None and not offset and 2 * allowance.left < allowance.whole and fits(text, allowance.whole):
        return MISSING, []
    count = _prefix_within(value, offset, allowance.left)
    if not count:
        return MISSING, [offset] if offset else []
    allowance.left = 0
    return rest[:count], [offset + count]


def _cut_items(
    value: list[Json] | dict[str, Json], at: Sequence[int], allowance: _Allowance
) -> tuple[Json | Missing, list[int] | None]:
    keys, items = (list(value), list(value.values())) if isinstance(value, dict) else (None, value)
    taken: list[Json] = []
    begin, inner = (at[0], at[1:]) if at else (0, ())
    if begin >= len(items):
        raise IndexError
    rest: list[int] | None = None
    room = allowance.take(_LEVEL_TOKENS)
    for index in range(begin, len(items)):
        where = inner if index == begin else ()
        before = allowance.left
        room = room and allowance.take(1 if keys is None else 1 + tokens(dumps(keys[index])))
        piece, after = _cut(items[index], where, allowance) if room else (MISSING, None)
        if isinstance(piece, Missing):
            allowance.left, rest = before, [index, *where]
            break
        taken.append(piece)
        if after is not None:
            rest = [index, *after]
            break
    if not taken:
        return MISSING, rest
    return (taken if keys is None else dict(zip(keys[begin:], taken, strict=False))), rest


def _prefix_within(text: str, offset: int, most_tokens: int) -> int:
    """Return how many characters from an offset on are within a budget as JSON text."""
    low, high = 0, min(len(text) - offset, max(most_tokens, 0) * _BYTES_PER_TOKEN)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(dumps(text[offset : offset + middle]), most_tokens):
            low = middle
        else:
            high = middle - 1
    return low


def _pointer(value: Json, path: Sequence[int]) -> str:
    """Return the JSON pointer of what goes on at a path: the text whose offset, or the container whose index, comes last."""
    names = []
    for index in path[:-1]:
        if isinstance(value, dict):
            name = list(value)[index] if index < len(value) else ""
            value = value.get(name)
            names.append(name.replace("~", "~0").replace("/", "~1"))
        elif isinstance(value, list):
            value = value[index] if index < len(value) else None
            names.append(str(index))
    pointer = "".join(f"/{name}" for name in names)
    return pointer if len(pointer) <= _MOST_POINTER_CHARS else f"{pointer[:_MOST_POINTER_CHARS]}..."


@dataclass(slots=True)
class Spot:
    """A place in a listing by pages of `scan_page`: what to go on from, and the last key that was given of the page there.

    Pages are sorted. A page is the same part of the namespace again only if the cursor after it is the same; otherwise it is
    given again from its beginning, so that nothing is left out.
    """

    scan: str = "0"
    following: str = ""
    last: str = ""
    """The last key that was given, as `shortened`; empty if none was."""

    @classmethod
    def read(cls, cursor: str | None) -> Spot:
        return cls() if cursor is None else cls(*read_cursor(cursor, (str, str, str)))

    def write(self) -> str:
        return write_cursor(self.scan, self.following, self.last)

    def rest_of(self, following: str, page: Iterable[str]) -> list[str]:
        """Return the keys of a page that were not given yet."""
        if following != self.following:
            self.following, self.last = following, ""
        return [key for name, key in sorted((shortened(key), key) for key in page) if name > self.last]


def shortened(name: str) -> str:
    """Return a name for a cursor or a label: itself, or if it is long its beginning and a digest."""
    return fit_name(name, _NAME_BYTES)


class AnswerList:
    """The entries of an answer, as many as its budget allows."""

    def __init__(self, most_tokens: int) -> None:
        self.items: list[Any] = []
        self.shortened = 0
        self._most = most_tokens
        self._left = most_tokens - _ENVELOPE_TOKENS - _CURSOR_TOKENS

    def add(self, item: object) -> bool:
        """Add an entry, or return False if it has no room. The first one always has."""
        cost = 1 + tokens(dumps(item))
        if cost > self._left and self.items:
            return False
        self._left -= cost
        self.items.append(item)
        return True

    def name(self, key: str) -> str:
        """Return a name as an answer shows it: its beginning and a digest if it would take much of the budget."""
        if fits(dumps(key), self._most // 5):
            return key
        self.shortened += 1
        return shortened(key)

    def answer(self, name: str, cursor: str | None, **more: Json) -> str:
        """Return the JSON text of the answer."""
        found: dict[str, Any] = {name: self.items, **more}
        if self.shortened:
            found["shortened_names"] = self.shortened
        if cursor is not None:
            found["cursor"] = cursor
        return dumps(found)
