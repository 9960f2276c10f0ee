"""Hints from what an agent's source says and what the agent printed. Both are only searched, because they may be hostile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from sandbox.result import Hint

_MOST_HANDLES = 20
_MOST_PLACES = 3

_HANDLE = re.compile(rb"(?m)^[ \t]*(\w{1,60})[ \t]*=[ \t]*data_store(?:\.use_namespace\(|[ \t]*$)")
_ITEM = rb"\[[^\[\]\n]{1,200}\]"
_NAMESPACE = rb"(?:\.use_namespace\([^()\n]{1,200}\))?"
_READ_VALUE = rb"(?:" + _ITEM + rb"|\.get\([^()\n]{1,200}\)|\.get_many\([^()\n]{1,200}\)" + _ITEM + rb")"
_CHANGE_OF_IT = (
    rb"(?:(?:" + _ITEM + rb"){1,8}[ \t]*(?:[-+*/%|&^]|//|\*\*)?=(?!=)"
    rb"|(?:" + _ITEM + rb"){0,8}\.(?:append|extend|insert|update|remove|sort|reverse|setdefault|clear|pop|popitem)\()"
)
_REMOVED_FROM_IT = rb"(?:" + _ITEM + rb"){1,8}"
_NEVER_AWAITED = re.compile(r"RuntimeWarning: coroutine '([^'\n]{1,200})' was never awaited")


def changed_copies(agent: str, source: bytes) -> Iterator[Hint]:
    """Yield a hint for each of the first lines that change what a read has returned, as in ``data_store[key][name] = value``."""
    names = [b"data_store", *dict.fromkeys(found[1] for found in islice(_HANDLE.finditer(source), _MOST_HANDLES))]
    read = rb"((?:" + b"|".join(names) + rb")" + _NAMESPACE + rb")" + _READ_VALUE
    change = re.compile(
        rb"(?m)(?:^|;)[ \t]*(?:" + read + _CHANGE_OF_IT + rb"|del[ \t]+" + read + _REMOVED_FROM_IT + rb")"
    )
    for found in islice(change.finditer(source), _MOST_PLACES):
        at = found.lastindex or 1
        line = source.count(b"\n", 0, found.start(at)) + 1
        handle = found[at].decode(errors="replace")
        yield Hint(
            "changed_copy",
            f"{agent} changes in line {line} a value that it has read from {handle}, which is a copy, so that nothing is stored:"
            f" set the whole value, or change it with {handle}.update(key, function).",
            agent,
        )


def forgotten_awaits(agent: str, printed: str) -> Iterator[Hint]:
    """Yield a hint for each coroutine that Python reported as never awaited."""
    for name in islice(dict.fromkeys(found[1] for found in _NEVER_AWAITED.finditer(printed)), _MOST_PLACES):
        yield Hint(
            "forgotten_await",
            f"{agent}: a call of {name!r} was never awaited, so that it did nothing: write await before the call.",
            agent,
        )
