"""The broker under random frames: it replies, or ends the run with a named error, and calls nothing but its operations."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import sandbox
from redis_store.errors import InvalidValue
from sandbox.errors import SandboxError
from sandbox.host import broker as broker_module
from sandbox.host.broker import Broker
from sandbox.protocol.frames import MAX_PARTS, FrameBuffer, FrameError, FrameTooBig, pack, unpack
from sandbox.protocol.messages import FROM_CHILD, read_from_child
from sandbox.protocol.operations import OPERATIONS, read_request
from sandbox.record.timeline import Who
from tests.support.brokered_side import FakeTree


def _is_key(value: Any) -> bool:
    return not isinstance(value, float)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=True),
    st.text(max_size=20),
    st.binary(max_size=40),
    st.sampled_from([*OPERATIONS, *FROM_CHILD, "default", "__class__", "k", b"{}", b"[]", b"1", b"NaN", 0, 1, -1]),
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS.filter(_is_key), inner, max_size=3)
)
MESSAGES = st.one_of(
    st.lists(SCALARS, max_size=8),
    st.tuples(st.integers(0, 9), st.sampled_from(list(OPERATIONS)), st.just("default")).flatmap(
        lambda head: st.lists(SCALARS, max_size=5).map(lambda rest: [*head, *rest])
    ),
    st.lists(ANYTHING, max_size=5),
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Bodies of frames: well-formed, or with bytes changed, cut off or added."""
    body = bytearray(msgpack.packb(draw(MESSAGES), use_bin_type=True))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(body)


class Store:
    """A stand-in for a store that accepts its operations and records every other access."""

    _MAY = frozenset({*OPERATIONS, "use_namespace"})

    def __getattribute__(self, name: str) -> Any:
        if name not in Store._MAY:
            raise AssertionError(f"the broker reached for {name!r}")

        def operation(*arguments: Any, **named: Any) -> Any:
            if name == "use_namespace":
                return self
            raise InvalidValue(f"{name} of {len(arguments)}")

        return operation


@pytest.fixture(autouse=True)
def steps_of_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carry operations out on the stand-in."""
    monkeypatch.setattr(
        broker_module, "carry_out", lambda store, operation, *arguments: getattr(store, operation)(*arguments)
    )
    monkeypatch.setattr(broker_module, "moved_bytes", lambda _: 0)


def serve(frames: list[bytes], limits: sandbox.Limits) -> tuple[SandboxError | None, list[list[Any]], Broker]:
    """Give frames to a broker; return the run's end, the replies and the broker."""
    ended: list[SandboxError | None] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        broker = Broker(theirs, Store(), Who("agent", "run"), FakeTree(limits=limits))  # type: ignore[arg-type]
        thread = threading.Thread(target=lambda: ended.append(broker.serve()))
        thread.start()
        answers = FrameBuffer(2**32 - 1)
        for frame in frames:
            with suppress(ConnectionError):
                ours.sendall(frame)
        ours.shutdown(socket.SHUT_WR)
        thread.join(20)
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while data := ours.recv(65536):
                answers.feed(data)
    assert not thread.is_alive()
    found = []
    while (body := answers.next_body()) is not None:
        found.append(unpack(body))
    return ended[0], found, broker


@settings(max_examples=300)
@given(st.lists(bodies(), min_size=1, max_size=6))
@example([msgpack.packb([1, "get", "default", "k"])])
@example([msgpack.packb([1, "use_namespace", "default", "k"])])
@example([msgpack.packb([1, "__class__", "default"])])
def test_every_frame_gets_a_reply_or_ends_the_run(sent: list[bytes]) -> None:
    frames = [len(body).to_bytes(4, "little") + body for body in sent]
    ended, answers, broker = serve(frames, sandbox.Limits())
    done = broker._tree.timeline.operations()
    assert ended is None or isinstance(ended, sandbox.ProtocolViolation)
    assert len(answers) == len(done)
    assert (ended is not None) == (len(answers) < len(sent))
    assert {one.operation for one in done} <= set(OPERATIONS)
    assert not {answer[2] for answer in answers if answer[1] == 0} & {"DataStoreError"}, "the host failed in something"


@st.composite
def requests(draw: st.DrawFn) -> list[Any]:
    """Requests with arguments of the right types and number."""
    operation = draw(st.sampled_from(list(OPERATIONS)))
    shape = OPERATIONS[operation].shape
    kinds = [*shape.fixed, *shape.repeated * draw(st.integers(0, 3))]
    samples = {str: TEXTS, bytes: JSON_TEXTS, int: WHOLES, float: st.floats(), type(None): st.none()}
    parts = [draw(st.one_of([samples[kind] for kind in kinds_of])) for kinds_of in kinds]
    return [draw(st.integers(0, 9)), operation, draw(st.sampled_from(["default", "", "*", "other"])), *parts]


TEXTS = st.one_of(st.text(max_size=9), st.sampled_from(["", "k", "token-of-mine", "\0", "*", "user:other:ns:default"]))
JSON_TEXTS = st.one_of(st.binary(max_size=9), st.sampled_from([b"1", b"[]", b"{}", b"null", b"NaN", b"[" * 200]))
WHOLES = st.one_of(st.integers(-(2**63), 2**64 - 1), st.integers(-1, 3))


@settings(max_examples=400)
@given(st.lists(requests(), min_size=1, max_size=8))
@example([[1, "commit_transaction", "default", 7, "default", "k", b"1", None]])
@example([[1, "commit_transaction", "default", 1, "default", "k", None, None]])
@example([[1, "invalidate_tag", "default", "tag", 2, "*"]])
@example([[1, "invalidate_tag", "default", "tag", -1, "*"]])
def test_every_well_formed_request_gets_a_reply_or_ends_the_run(sent: list[list[Any]]) -> None:
    """Values out of range, invalid tokens and invalid JSON each get a reply, or end the run."""
    frames = []
    for request in sent:
        with suppress(FrameError, FrameTooBig):
            frames.append(pack(request, 2**20))
    ended, answers, broker = serve(frames, sandbox.Limits())
    assert ended is None or isinstance(ended, sandbox.ProtocolViolation)
    assert len(answers) == len(frames) or ended is not None
    assert not {answer[2] for answer in answers if answer[1] == 0} & {"DataStoreError"}, "the host failed in something"
    assert len(broker.held) == 0, "nothing was taken, as everything is refused here"


@settings(max_examples=500)
@given(bodies())
def test_reading_a_message_raises_only_frame_error(body: bytes) -> None:
    for read in (read_request, read_from_child):
        with suppress(FrameError):
            read(unpack(body))


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(st.text(max_size=9), st.binary(max_size=9), st.integers(-(2**63), 2**63 - 1), st.none()), max_size=9
    )
)
def test_pack_unpack_round_trip(parts: list[Any]) -> None:
    assert unpack(pack(parts, 2**20)[4:]) == parts


@pytest.mark.parametrize(
    ("what", "body"),
    {
        "empty arrays": b"\xdd\x00\x0f\x00\x00" + b"\x90" * 983_040,
        "nested arrays": b"\x91" * 1_000_000,
        "arrays that announce much": b"\x91\xdd\xff\xff\xff\xff" * 100_000,
        "maps that announce much": b"\x91\xdf\xff\xff\xff\xff" * 100_000,
        "a text that announces much": b"\x92\x01\xdb\xff\xff\xff\xff" + b"x" * 1_000_000,
        "bytes that announce much": b"\x92\x01\xc6\xff\xff\xff\xff" + b"x" * 1_000_000,
        "extensions": b"\xdd\x00\x0f\x00\x00" + b"\xd4\x01x" * 300_000,
        "more parts than bytes": b"\xdd\xff\xff\xff\xff" + b"\xc0" * 1_000_000,
        "numbers": b"\xdd\x00\x0f\x42\x40" + b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff" * MAX_PARTS,
    }.items(),
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_memory_of_a_frame_is_a_few_times_its_size(what: str, body: bytes) -> None:
    tracemalloc.start()
    try:
        frame = len(body).to_bytes(4, "little") + body
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        ended, answers, _ = serve([frame], sandbox.Limits())
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert isinstance(ended, sandbox.ProtocolViolation)
    assert answers == []
    assert peak < 8 * len(body) + 2**20, what
