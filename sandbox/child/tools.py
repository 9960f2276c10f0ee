"""The `tools` that agents see: functions of the host, plain or async as they are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Tools(dict[str, Callable[..., Any]]):
    """The tools by name; a name that is not there is answered with those that are."""

    def __missing__(self, name: object) -> Any:
        known = ", ".join(map(repr, self)) or "none were given"
        raise KeyError(f"there is no tool {name!r}; there are: {known}")
