"""Commands, and the error that a server may reply to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Opening:
    """The common first arguments of many commands, packed once (`protocol/packing.py`).

    A field follows, and maybe a value. Among commands that are sent together anything may follow, or nothing.
    """

    name: str
    count: int
    packed: bytes
    keys: tuple[bytes, ...]
    """The Redis keys among them."""


Argument: TypeAlias = bytes | str | int
Command: TypeAlias = tuple[Argument | Opening, ...]


class ReplyError(Exception):
    """An error reply as the parser returns it. It is translated before an operation sees it."""
