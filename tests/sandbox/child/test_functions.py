"""Calls of host functions, from the agent's side."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator

import pytest

from sandbox.child.channels import ControlChannel
from sandbox.child.functions import Calls
from sandbox.protocol.frames import Channel, unpack
from tests.support.interrupts import Interrupted, raising_at

_MOST_BYTES = 100_000


@pytest.fixture
def calls() -> Iterator[Calls]:
    """Calls to a host that answers each with its second argument."""
    theirs, ours = socket.socketpair()
    host = Channel(theirs, _MOST_BYTES, 0)
    numbers = set()

    def answer() -> None:
        while (body := host.receive()) is not None:
            kind, number, *content = unpack(body)
            if kind == "call":
                assert number not in numbers
                numbers.add(number)
                host.send(["answer", number, content[1]])

    made = Calls(ControlChannel(ours, _MOST_BYTES), _MOST_BYTES)
    answers = Channel(ours, _MOST_BYTES, 0)  # the process would end if the control channel read its end

    def take() -> None:
        while (body := answers.receive()) is not None:
            made.answered(unpack(body))

    threads = [threading.Thread(target=answer), threading.Thread(target=take)]
    for thread in threads:
        thread.start()
    yield made
    ours.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(20)
    theirs.close()
    ours.close()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("error", [Interrupted, TimeoutError])
def test_call_may_be_interrupted_at_any_point(calls: Calls, error: type[BaseException]) -> None:
    at, was_interrupted = 0, True
    while was_interrupted:
        at += 1
        was_interrupted = False
        try:
            with raising_at(at, error):
                calls.reply("call", "tool", b"1", b"{}")
        except error:
            was_interrupted = True
        text = str(at).encode()
        assert calls.reply("call", "tool", text, b"{}") == text
    assert at > 20


def test_error_of_a_handler_is_no_broken_channel(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise TimeoutError(errno.ETIMEDOUT, "late")

    with monkeypatch.context() as patch:
        patch.setattr(ControlChannel, "send", late)
        with pytest.raises(TimeoutError, match="late"):
            calls.reply("call", "tool", b"1", b"{}")
    assert calls.reply("call", "tool", b"2", b"{}") == b"2"
