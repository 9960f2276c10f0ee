"""The main function of an agent's process: receive a request, run the agent, report the outcome."""

from __future__ import annotations

import inspect
import json
import os
import socket
import sys
import time
from contextlib import suppress
from types import ModuleType
from typing import Any

from redis_store.errors import InvalidValue
from redis_store.store import DataStore
from redis_store.values import rules
from sandbox.child import json_text
from sandbox.child.agent import NotAnAgent, arguments_for, call_run, find_run, make_module
from sandbox.child.agents import Agents, failure
from sandbox.child.awaitables import accept_values
from sandbox.child.channels import ControlChannel, DataChannel
from sandbox.child.functions import Calls, Tools, renamed
from sandbox.child.given import hide_packages, put_in_place, tools_of
from sandbox.child.reports import Reports, class_name, text_of
from sandbox.child.store.operations import ChannelOperations
from sandbox.child.store.watch import Waits
from sandbox.protocol.frames import FrameTooBig, Part
from sandbox.protocol.messages import ANSWERS_TO_WAITS, LOST_CHANNEL_EXIT_CODE

_LARGEST_FRAME = 2**32 - 1
_KEPT: list[object] = []
"""A result that was refused: a coroutine in it, when it is deleted, would warn on stderr of what the error says."""


def main(data_fd: int, control_fd: int, folders: dict[str, str], scratch: str | None = None) -> None:
    """Run the agent that the host sends on the control channel; never return.

    `scratch` is a folder that this process removes if the host dies, because no other process would.
    """
    control = ControlChannel(socket.socket(fileno=control_fd), _LARGEST_FRAME, scratch)
    _, user, namespace, name, filename, source, text, frame_bytes, result_bytes, *described = control.receive()
    data = DataChannel(socket.socket(fileno=data_fd), frame_bytes)
    os.register_at_fork(after_in_child=data.close)
    os.register_at_fork(after_in_child=control.close)
    calls = Calls(control, result_bytes)
    calls.failure = failure
    waits = Waits(control)

    def answered(message: list[Any]) -> None:
        (waits if message[0] in ANSWERS_TO_WAITS else calls).answered(message)

    control.listen(answered)
    given, packages = map(json.loads, described)
    hide_packages(folders.keys() - {"redis_store", "sandbox"}, packages["modules"])
    names = put_in_place(given, packages, calls, Agents(calls, given["agents"]))
    accept_values()
    reports = Reports(filename, list(folders.values()))
    control.send("started")
    pid = os.getpid()
    operations: Any = ChannelOperations(data, waits, user, namespace)  # Any: its `Watch` has the methods of the store's
    module = make_module(name, filename, source, {"data_store": DataStore(operations), **names})
    try:
        message = _outcome(module, source, json_text.load(text), tools_of(given, calls), reports, result_bytes)
    except BaseException as odd:  # an exception whose own methods raise while it is reported
        message = _unsaid(odd)
    _flush()
    try:
        try:
            control.send(*message)
        except (ValueError, OverflowError, MemoryError, FrameTooBig) as odd:
            control.send(*_unsaid(odd))
    except BaseException:  # the agent has closed the socket, or this is a forked copy that ran to its end
        os._exit(LOST_CHANNEL_EXIT_CODE if os.getpid() == pid else 1)
    _wait_for_the_end()


def _outcome(
    module: ModuleType, source: bytes, input_dict: dict[str, Any], tools: Tools, reports: Reports, result_bytes: int
) -> list[Part]:
    """Run the agent and return the message about its outcome."""
    filename = module.__file__ or ""
    try:
        code = compile(source, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return reports.unreadable(error)
    loading = True
    try:
        exec(code, module.__dict__)
        run = find_run(module)
        args, kwargs = arguments_for(run, input_dict, tools)
        loading = False
        return _result(call_run(run, args, kwargs), result_bytes)
    except NotAnAgent as error:
        return ["invalid_agent", str(error), ""]
    except SystemExit as error:
        return [*_exited(error.code), loading]
    except BaseException as error:
        return [*reports.raised(error), loading]


def _result(value: Any, result_bytes: int) -> list[Part]:
    if not isinstance(value, dict):
        if value is None:
            return ["invalid_result", "run returned nothing: return a dict.", "result"]
        advice = "return a dict"
        if inspect.iscoroutine(value):
            advice = rules.instead_of(type(value))
        _KEPT.append(value)
        return ["invalid_result", f"result is {rules.one(type(value))}: {advice}.", "result"]
    try:
        text = json_text.dump(value)
    except InvalidValue as error:
        _KEPT.append(value)
        error = renamed(error, "result")
        return ["invalid_result", str(error), error.path]
    return ["result", text] if len(text) <= result_bytes else ["result_too_big", len(text)]


def _exited(code: object) -> list[Part]:
    if code is None or isinstance(code, int):
        return ["exited", int(code or 0) & 0xFF, ""]
    return ["exited", 1, text_of(code)[:1000].encode(errors="backslashreplace").decode()]


def _unsaid(odd: BaseException) -> list[Part]:
    """Return the message about an outcome that cannot be reported."""
    return ["raised", class_name(odd)[:200], "the outcome of the agent cannot be reported", "", "", "", False]


def _flush() -> None:
    for name in ("stdout", "stderr"):
        with suppress(BaseException):  # the agent may have closed, replaced or deleted it
            getattr(sys, name).flush()


def _wait_for_the_end() -> None:
    """Sleep until the host has read everything and kills this process, with all processes and threads that the agent started."""
    while True:
        with suppress(BaseException):
            time.sleep(3600)
