"""Stand-ins for host functions: they look like the originals, and a call is sent to the host."""

from __future__ import annotations

import builtins
import inspect
import itertools
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from redis_store.errors import DataStoreError, InvalidValue
from sandbox.child import json_text
from sandbox.child.advice import did_you_mean
from sandbox.child.awaitables import is_awaited
from sandbox.child.channels import ControlChannel, interrupted, is_broken
from sandbox.child.reply import Reply
from sandbox.errors import SandboxError, ToolError
from sandbox.protocol.frames import Part
from sandbox.protocol.messages import MOST_HELD, MOST_UNDER_WAY

_KINDS = list(inspect._ParameterKind)
_BUILTIN = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict, "list": list, "bytes": bytes}


class _Call(NamedTuple):
    number: int
    reply: Reply
    message: list[Part]
    size: int
    sent: list[int]
    """The sizes of the parts of its message that were sent."""


class Calls:
    """Calls in progress. Each has a number, which its reply repeats.

    A call that nobody waits for any more ends in the host too. It keeps its place among those under way until the host has
    answered: the host bounds its own work in the same way. The agent's signal handlers may raise at any point.
    """

    def __init__(self, control: ControlChannel, max_bytes: int) -> None:
        self._control = control
        self._max_bytes = max_bytes
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._sending = False
        self._queued: dict[int, _Call] = {}
        self._under_way: dict[int, _Call] = {}
        self._held_bytes = 0
        self.failure: Callable[[str, str, bytes], Exception] | None = None
        """Factory of the exception for an agent that failed; set by the code that calls agents."""

    def answered(self, message: list[Any]) -> None:
        """Take a reply: ``["answer", id, JSON]``, ``["failed", id, text, bases]`` (bases may be missing),
        ``["agent_failed", id, class, text, facts]``."""
        kind, number, *content = message
        with self._lock:
            call = self._under_way.pop(number, None)
            if call is None:
                return
            self._held_bytes -= call.size
            self._send_queued()
        if kind == "answer":
            call.reply.set(content, None)
        else:
            call.reply.set([], self._error(kind, content))

    def _error(self, kind: str, content: list[Any]) -> Exception:
        try:
            if kind == "agent_failed" and self.failure is not None:
                return self.failure(*content)
            text, bases = content if len(content) > 1 else (content[0], "")
            return of_both_kinds(ToolError, ToolError.__name__, bases.split(), text)
        except BaseException as error:  # such as a lack of memory; the caller waits for some answer
            return ToolError(f"the error of the call cannot be shown: {type(error).__name__}")

    def reply(self, kind: str, what: str, *texts: bytes) -> bytes:
        """Send a call and wait for its reply. The call ends if a signal handler of the agent ends the wait."""
        call = self._call(kind, what, texts)
        try:
            self._send(call)
            call.reply.wait(None)
        except BaseException:
            self._give_up(call.number)
            raise
        return _content(call.reply)

    async def reply_async(self, kind: str, what: str, *texts: bytes) -> bytes:
        """Send a call and await its reply. The call ends if that is cancelled."""
        call = self._call(kind, what, texts)
        try:
            self._send(call)
            await call.reply.wait_async()
        except BaseException:
            self._give_up(call.number)
            raise
        return _content(call.reply)

    def _call(self, kind: str, what: str, texts: tuple[bytes, ...]) -> _Call:
        size = sum(map(len, texts))
        if size > self._max_bytes:
            raise ToolError(
                f"the arguments of {what.rpartition(':')[2]!r} take {size:,} bytes as JSON, and at most"
                f" {self._max_bytes:,} are allowed: pass less, or raise Limits.result_bytes"
            )
        number = next(self._numbers)
        return _Call(number, Reply(), [kind, number, what, *texts], size, [])

    def _send(self, call: _Call) -> None:
        """Send a call, once less is under way."""
        try:
            with self._lock:
                self._queued[call.number] = call
                self._send_queued()
        except OSError as error:
            if not is_broken(error):  # the agent's signal handler raised it
                raise
            raise ToolError("the channel to the host is broken (a fork of the agent has none)") from None

    def _send_queued(self) -> None:
        """Send the calls that wait, until too much is under way. The lock is held, so that no call is sent after its end."""
        if self._sending:
            raise interrupted()
        most_bytes = MOST_HELD * self._max_bytes
        self._sending = True
        try:
            while self._queued and len(self._under_way) < MOST_UNDER_WAY and self._held_bytes < most_bytes:
                number, call = next(iter(self._queued.items()))
                # A handler that raises runs after a call: there is none between these, nor below where they are taken back.
                self._under_way[number] = call
                self._held_bytes += call.size
                del self._queued[number]
                try:
                    self._control.send(*call.message, sent=call.sent)
                except BaseException:
                    if not call.sent:  # the host will never hear of it
                        del self._under_way[number]
                        self._held_bytes -= call.size
                        self._queued = {number: call, **self._queued}
                    raise
                call.message.clear()
        finally:
            self._sending = False

    def _give_up(self, number: int) -> None:
        """Tell the host that nobody waits for a call; also send what an interrupted call of this thread left unsent."""
        with suppress(OSError, DataStoreError), self._lock:
            self._queued.pop(number, None)
            self._control.send("cancel", number)
            self._send_queued()

    def function(self, described: dict[str, Any]) -> Callable[..., Any]:
        """Return a stand-in for a function, from the host's description. One for a plain function can be awaited too."""
        address = described["address"]

        def plain(*args: Any, **kwargs: Any) -> Any:
            if is_awaited(sys._getframe().f_back):
                return awaited(*args, **kwargs)
            return json_text.load(self.reply("call", address, dump(list(args), "args"), dump(kwargs, "kwargs")))

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            answer = await self.reply_async("call", address, dump(list(args), "args"), dump(kwargs, "kwargs"))
            return json_text.load(answer)

        return _dressed(awaited if described["async"] else plain, described)


def _content(reply: Reply) -> bytes:
    if reply.error is not None:
        raise reply.error
    content: bytes = reply.parts[0]
    return content


def of_both_kinds(kind: type[SandboxError], name: str, bases: list[str], message: str, /, **facts: Any) -> SandboxError:
    """Return an error of a kind that is also an instance of the first of the builtin classes that allows it."""
    for base in bases:
        builtin = getattr(builtins, base, None)
        # Not a StopIteration: raised inside an awaitable, it means that the awaitable has returned.
        if isinstance(builtin, type) and issubclass(builtin, Exception) and not issubclass(builtin, StopIteration):
            with suppress(TypeError, AttributeError):  # a class that requires its own arguments
                both: type[SandboxError] = type(
                    name, (kind, builtin), {"__str__": _text, "__module__": kind.__module__}
                )
                return both(message, **facts)
    return kind(message, **facts)


def _text(error: BaseException) -> str:
    return str(error.args[0])


def dump(value: Any, name: str) -> bytes:
    """Return the JSON text of a value; the path in an error begins with `name`."""
    try:
        return json_text.dump(value)
    except InvalidValue as error:
        raise renamed(error, name) from None


def renamed(error: InvalidValue, name: str) -> InvalidValue:
    """Return the error with `name` instead of "value" at the beginning of its path."""
    message, path = (text.replace("value", name, 1) for text in (str(error), error.path))
    return InvalidValue(message, path=path)


class _Shown:
    """A placeholder for an object of the host; its repr is the host's text for that object."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _dressed(function: Callable[..., Any], described: dict[str, Any]) -> Callable[..., Any]:
    """Give a stand-in the name, the docstring and the signature of the original."""
    function.__name__ = function.__qualname__ = described["name"]
    function.__module__ = "host"
    function.__doc__ = described["doc"] or None
    if described["parameters"] is not None:
        with suppress(ValueError):  # such as an invalid parameter name in a hand-written signature
            function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
                [_parameter(one) for one in described["parameters"]],
                return_annotation=_annotation(described["returns"]),
            )
    return function


def _parameter(described: dict[str, Any]) -> inspect.Parameter:
    default: Any = inspect.Parameter.empty
    if "default" in described:
        default = described["default"].get("value", _Shown("..."))
    return inspect.Parameter(
        described["name"],
        _KINDS[described["kind"]],
        default=default,
        annotation=_annotation(described["annotation"]),
    )


def _annotation(text: str | None) -> Any:
    if text is None:
        return inspect.Parameter.empty
    return None if text == "None" else _BUILTIN.get(text) or _Shown(text)


class Tools(dict[str, Callable[..., Any]]):
    """The tools by name; the `KeyError` for an unknown name lists the known ones."""

    def __missing__(self, name: object) -> Any:
        known = ", ".join(map(repr, self)) or "none were given"
        raise KeyError(f"there is no tool {name!r}; there are: {known}. {did_you_mean(name, self)}".rstrip(". "))

    def __getattr__(self, name: str) -> Any:
        if name in self:
            raise AttributeError(f"tools is a dict: call tools[{name!r}](...)", name=name)
        raise AttributeError(f"'Tools' object has no attribute {name!r}", name=name, obj=self)
