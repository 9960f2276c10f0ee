"""A stored value as a page shows it: a tree that folds, with secrets masked, and in parts if it is big.

A part is named by its path, a JSON array of names and positions, and for a long list or text by where it begins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from markupsafe import Markup, escape

from redis_store.console.rendering import url
from redis_store.console.shown import visible
from redis_store.errors import StoredDataError
from redis_store.types import Json
from redis_store.values.codec import VALUES
from redis_store.values.printable import json_text
from redis_store.values.quantities import counted
from sandbox.masking import MASK, is_secret_name, preview, without_secrets

MOST_ELEMENTS = 1500
"""Elements of a value on one page, at most; the others are behind links."""

ITEMS_PER_PART = 200
"""Items of one list or object on one page, at most."""

OPEN_ITEMS = 50
"""Items of a list or object that is unfolded at first, at most."""

TEXT_IN_TREE = 1000
"""Characters of a text in a tree; the rest of it is behind a link."""

TEXT_PER_PART = 64 * 1024
"""Characters of a text on a page of its own, about."""

PAGE_CHARACTERS = 1_000_000
"""Characters of a page's values and links, about; what does not fit is named without its link."""

DEPTH_PER_PART = 40
"""Depth of a tree on one page; what is below is behind links."""

OPEN_DEPTH = 3
"""Depth down to which a tree is unfolded at first."""

LONGEST_TOKEN = 2000
"""Characters by which a part of a text may be shorter, so that its end cuts no secret in two."""

EDITED_BYTES = 1024 * 1024
"""Size of a value, as JSON text, up to which it is edited on a page."""

_PRIVATE_KEY = re.compile(r"-----BEGIN[ A-Z]*PRIVATE KEY-----")
_NEXT_VALUE = re.compile(r'[,{\[](?=["\d\[{tfn-])')
_BEARER = "bearer "
_IN_TOKEN = re.compile(r"[\w+/=.~:@-]")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a value on a page."""

    html: Markup
    links: list[tuple[str, str]]
    """The parts around it, as title and link."""


class NotJson(Exception):
    """A stored text is not JSON: somebody wrote it by hand."""


def parsed(text: bytes) -> Json:
    """Return the value of a JSON text as agents read it, or raise `NotJson`."""
    try:
        return VALUES.decode(text, "", "")
    except StoredDataError:
        pass
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from None
    raise NotJson("It has what JSON does not have, such as NaN")


def excerpt_of(excerpt: str, text: str) -> str:
    """Return what a search shows of a value with secrets masked.

    The beginning of an excerpt may be the value of a name that was cut off: only what was searched for is shown there.
    """
    head = ""
    if excerpt.startswith("…"):
        found = _NEXT_VALUE.search(excerpt)
        at = found.start() if found else len(excerpt)
        head, excerpt = excerpt[:at], excerpt[at:]
        head = f"…{text}…" if text.casefold() in head.casefold() else "…"
    return head + preview(excerpt.encode(errors="replace"))


def digest_of(text: bytes) -> str:
    """Return what tells a stored text from others."""
    return blake2b(text, digest_size=16).hexdigest()


def indented(value: Json) -> str:
    """Return a value as JSON text for people."""
    return json_text(value, indent=2)


def stored_text(given: str) -> bytes:
    """Return JSON text that a person wrote as it is stored. Raises `ValueError` that says where it is wrong."""
    try:
        value = json.loads(given)
    except RecursionError:
        raise ValueError("The value is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"Line {error.lineno}, column {error.colno}: {error.msg}.") from None
    return VALUES.encode(value)


def part_of(text: bytes, at: str | None, begin: int, where: dict[str, str]) -> Part:
    """Return a part of a JSON text as HTML. `where` is the query of the key's page.

    Raises `NotJson`, and `LookupError` for a part that is not there.
    """
    value, path = parsed(text), path_of(at)
    is_secret = is_secret_name(where["key"])
    for step in path:
        value = value[step]
        is_secret = is_secret or (isinstance(step, str) and is_secret_name(step))
    tree = _Tree(where)
    if isinstance(value, str):
        return tree.long_text(value, path, begin, is_secret)
    return tree.whole(value, path, begin, is_secret)


def raw_part_of(text: bytes, begin: int, where: dict[str, str]) -> Part:
    """Return a part of a stored text that is not JSON."""
    return _Tree(where).long_text(text.decode(errors="backslashreplace"), [], begin, is_secret_name(where["key"]))


def tree_of(value: Json) -> Markup:
    """Return a small value, such as metadata, as HTML."""
    return _Tree({}).whole(value, [], 0, False).html


def path_of(at: str | None) -> list[Any]:
    """Return the path that a url names; raises `LookupError` for another text."""
    if not at:
        return []
    try:
        path = json.loads(at)
    except (ValueError, RecursionError):
        raise LookupError(at) from None
    if not isinstance(path, list) or not all(type(step) is str or (type(step) is int and step >= 0) for step in path):
        raise LookupError(at)
    return path


class _Tree:
    """Makes the HTML of one page."""

    def __init__(self, where: dict[str, str]) -> None:
        self._where = where
        self._left = MOST_ELEMENTS
        self._room = PAGE_CHARACTERS

    def whole(self, value: Json, path: list[Any], begin: int, is_secret: bool) -> Part:
        """Return a value that has a page of its own, from one of its items on."""
        if not isinstance(value, (dict, list)):
            return Part(self._scalar(value, path, is_secret), [])
        html = Markup('<div class="json">{}</div>').format(self._items(value, path, begin, is_secret, 0))
        links = []
        if begin:
            links.append(("Items before", self._link(path, max(0, begin - ITEMS_PER_PART))))
        if begin + ITEMS_PER_PART < len(value):
            links.append(("Items after", self._link(path, begin + ITEMS_PER_PART)))
        return Part(html, links)

    def long_text(self, text: str, path: list[Any], begin: int, is_secret: bool) -> Part:
        """Return a part of a text."""
        if is_secret:
            return Part(Markup('<pre class="wrap">{}</pre>').format(MASK), [])
        start, end = _between_tokens(text, begin), _between_tokens(text, begin + TEXT_PER_PART)
        html = Markup('<pre class="wrap">{}</pre>').format(visible(_masked(text, start, end)))
        links = []
        if start:
            links.append(("Text before", self._link(path, max(0, begin - TEXT_PER_PART))))
        if end < len(text):
            links.append(("Text after", self._link(path, begin + TEXT_PER_PART)))
        return Part(html, links)

    def _row(self, step: Any, value: Json, path: list[Any], is_secret: bool, depth: int) -> Markup:
        """Return an item of a list or object, with its name or position."""
        self._left -= 1
        label = _label(step)
        self._room -= len(label)
        if not isinstance(value, (dict, list)) or not value:
            return Markup("<li>{}: {}</li>").format(label, self._scalar(value, path, is_secret))
        kind, size = "object" if isinstance(value, dict) else "list", counted(len(value), "item")
        if self._left <= 0 or self._room <= 0 or depth > DEPTH_PER_PART:
            return Markup("<li>{}: {}</li>").format(label, self._linked(f"{kind}, {size}", path))
        is_open = depth < OPEN_DEPTH and len(value) <= OPEN_ITEMS
        return Markup('<li><details{}><summary>{}: {} <span class="more">{}</span></summary>{}</details></li>').format(
            Markup(" open") if is_open else "", label, kind, size, self._items(value, path, 0, is_secret, depth)
        )

    def _items(self, value: Any, path: list[Any], begin: int, is_secret: bool, depth: int) -> Markup:
        end = min(len(value), begin + ITEMS_PER_PART)
        rows = [
            self._row(step, inner, [*path, step], is_secret or _is_secret(step), depth + 1)
            for step, inner in _between(value, begin, end)
        ]
        if depth and end < len(value):
            rows.append(Markup("<li>{}</li>").format(self._linked(f"{len(value) - end:,} more", path, end)))
        return Markup("<ul>{}</ul>").format(Markup("").join(rows))

    def _scalar(self, value: Json, path: list[Any], is_secret: bool) -> Markup:
        if isinstance(value, str):
            if is_secret:
                return Markup('<span class="str masked" title="masked">"{}"</span>').format(MASK)
            whole = f"{len(value):,} characters"
            if self._room <= 0:
                return self._linked(f"text, {whole}", path)
            end = _between_tokens(value, TEXT_IN_TREE) if len(value) > TEXT_IN_TREE else len(value)
            self._room -= end
            shown = Markup('<span class="str">"{}{}"</span>').format(
                visible(_masked(value, 0, end)), "…" if end < len(value) else ""
            )
            if end == len(value):
                return shown
            return Markup("{} {}").format(shown, self._linked(f"all {whole}", path))
        if value in ({}, []) and isinstance(value, (dict, list)):
            return Markup('<span class="lit">{}</span>').format("{}" if isinstance(value, dict) else "[]")
        if is_secret and value is not None and not isinstance(value, bool):
            return Markup('<span class="lit masked" title="masked">{}</span>').format(MASK)
        return Markup('<span class="lit">{}</span>').format(_number_text(value))

    def _linked(self, text: str, path: list[Any], begin: int = 0) -> Markup:
        """Return a link to a part, or its text where long names leave no room for links."""
        link = self._link(path, begin)
        self._room -= len(link)
        return Markup('<a href="{}">{}</a>').format(link, text) if self._room > 0 else escape(text)

    def _link(self, path: list[Any], begin: int = 0) -> str:
        at = json.dumps(path, ensure_ascii=False) if path else None
        return url("/key", **self._where, at=at, begin=begin or None)


def _number_text(value: Json) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # an integer of more digits than Python writes
        return hex(value)


def _between(value: Any, begin: int, end: int) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, list):
        return enumerate(value[begin:end], start=begin)
    return _of_dict(value, begin, end)


def _of_dict(value: dict[str, Any], begin: int, end: int) -> Iterator[tuple[str, Any]]:
    for at, item in enumerate(value.items()):
        if at >= end:
            return
        if at >= begin:
            yield item


def _label(step: Any) -> Markup:
    if isinstance(step, int):
        return Markup('<span class="soft">{}</span>').format(step)
    cut = without_secrets(step[:TEXT_IN_TREE]) + ("…" if len(step) > TEXT_IN_TREE else "")
    return Markup('<span class="prop">"{}"</span>').format(visible(cut))


def _is_secret(step: Any) -> bool:
    return isinstance(step, str) and is_secret_name(step)


def _between_tokens(text: str, at: int) -> int:
    """Return a place at or before this one that lies in no word, so that a secret is cut off there only if it is very long."""
    if at <= 0:
        return 0
    if at >= len(text):
        return len(text)
    place = at
    while at - place < LONGEST_TOKEN and place > 0 and _IN_TOKEN.match(text[place - 1]):
        place -= 1
    if text[max(0, place - len(_BEARER)) : place].lower() == _BEARER:
        place -= len(_BEARER)  # what follows is a secret because of this word
    return place if at - place < LONGEST_TOKEN and place > 0 else at


def _masked(text: str, start: int, end: int) -> str:
    """Return a part of a text with secrets masked; a private key hides all that follows it."""
    found = _PRIVATE_KEY.search(text, 0, end)
    if found is None:
        return without_secrets(text[start:end])
    return without_secrets(text[start : found.start()]) + MASK if found.start() >= start else MASK
