"""Hints from what an agent's source says and what the agent printed. Both are only searched, because they may be hostile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from sandbox.result import Hint

_MOST_HANDLES = 20
_MOST_PLACES = 3

_HANDLE = re.compile(rb"(?m)^[ \t]*(\w{1,60})[ \t]*=[ \t]*data_store(?:\.use_namespace\(|[ \t]*$)")
_READ_VALUE = rb"(?:\[[^\[\]\n]{1,200}\]|\.get\([^()\n]{1,200}\))"
_CHANGE_OF_IT = (
    rb"(?:(?:\[[^\[\]\n]{1,200}\]){1,8}[ \t]*(?:[-+*/%|&^]|//|\*\*)?=(?!=)"
    rb"|\.(?:append|extend|insert|update|remove|sort|reverse|setdefault|clear)\()"
)
_NEVER_AWAITED = re.compile(r"RuntimeWarning: coroutine '([^'\n]{1,200})' was never awaited")


def changed_copies(agent: str, source: bytes) -> Iterator[Hint]:
    """Yield a hint for each of the first lines that change what a read has returned, as in ``data_store[key][name] = value``."""
    names = [b"data_store", *dict.fromkeys(found[1] for found in islice(_HANDLE.finditer(source), _MOST_HANDLES))]
    change = re.compile(rb"(?m)^[ \t]*(" + b"|".join(names) + rb")" + _READ_VALUE + _CHANGE_OF_IT)
    for found in islice(change.finditer(source), _MOST_PLACES):
        line = source.count(b"\n", 0, found.start(1)) + 1
        handle = found[1].decode(errors="replace")
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
