"""The `tools` that agents see: functions of the host, plain or async as they are there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from redis_store import _plain
from redis_store.errors import InvalidValue
from sandbox.child.channels import ControlChannel
from sandbox.errors import ToolError


class Tools(dict[str, Callable[..., Any]]):
    """The tools by name; a name that is not there is answered with those that are."""

    def __missing__(self, name: object) -> Any:
        known = ", ".join(map(repr, self)) or "none were given"
        raise KeyError(f"there is no tool {name!r}; there are: {known}")


class ToolCalls:
    """Calls under way: each has a number, under which its answer comes back."""

    def __init__(self, control: ControlChannel, max_bytes: int) -> None:
        self._control = control
        self._max_bytes = max_bytes
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[bytes]] = {}

    def answered(self, message: list[Any]) -> None:
        """Take an answer from the host: ``["answer", id, JSON]`` or ``["failed", id, text]``."""
        kind, number, content = message
        future = self._waiting.pop(number, None)
        if future is None:
            return
        with suppress(InvalidStateError):  # the agent gave up waiting
            if kind == "answer":
                future.set_result(content)
            else:
                future.set_exception(ToolError(content))

    def plain(self, name: str) -> Callable[..., Any]:
        """Return a function that waits for the tool."""

        def tool(*args: Any, **kwargs: Any) -> Any:
            return _plain.load(self._start(name, args, kwargs).result())

        return _named(tool, name)

    def awaited(self, name: str) -> Callable[..., Any]:
        """Return an async function that lets others run while the tool does."""

        async def tool(*args: Any, **kwargs: Any) -> Any:
            answer: bytes = await asyncio.wrap_future(self._start(name, args, kwargs))
            return _plain.load(answer)

        return _named(tool, name)

    def _start(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[bytes]:
        texts = _dump(list(args), "args"), _dump(kwargs, "kwargs")
        if sum(map(len, texts)) > self._max_bytes:
            raise ToolError(
                f"the arguments of {name!r} take {sum(map(len, texts)):,} bytes as JSON, and at most {self._max_bytes:,}"
                " are allowed (Limits.result_bytes)"
            )
        number = next(self._numbers)
        future = self._waiting[number] = Future()
        try:
            self._control.send("call", number, name, *texts)
        except OSError:
            raise ToolError("the channel to the host is broken (a fork of the agent's process has none)") from None
        return future


def _dump(value: Any, name: str) -> bytes:
    try:
        return _plain.dump(value)
    except InvalidValue as error:
        raise renamed(error, name) from None


def renamed(error: InvalidValue, name: str) -> InvalidValue:
    """Return the error with its path beginning at `name` instead of "value"."""
    message, path = (text.replace("value", name, 1) for text in (str(error), error.path))
    return InvalidValue(message, path=path)


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    return function
