"""Frames: a received frame equals the sent one, and only flat frames within the limits are accepted."""

from __future__ import annotations

import socket
import struct
import threading
import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.protocol.frames import Channel, FrameBuffer, FrameError, FrameTooBig, pack, unpack

MAX = 1 << 20
ints = st.integers(-(2**63), 2**64 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]))
parts_of_frames = st.lists(
    st.none() | st.booleans() | ints | st.floats(allow_nan=False) | texts | st.binary(), max_size=40
)
anything = st.recursive(
    st.none() | st.booleans() | ints | st.floats() | texts | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=30,
)


@given(st.lists(parts_of_frames.filter(bool), min_size=1, max_size=5), st.data())
def test_frames_survive_any_fragmentation(messages: list[list[Any]], data: st.DataObject) -> None:
    stream = b"".join(pack(parts, MAX) for parts in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    buffer, found = FrameBuffer(MAX), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer.feed(stream[start:end])
        while (body := buffer.next_body()) is not None:
            found.append(unpack(body))
    assert found == messages
    assert [list(map(type, parts)) for parts in found] == [list(map(type, parts)) for parts in messages]


@given(st.binary(max_size=300))
def test_any_bytes_are_a_flat_frame_or_a_frame_error(body: bytes) -> None:
    try:
        parts = unpack(body)
    except FrameError:
        return
    assert msgpack.unpackb(body) == parts or any(part != part for part in parts)
    assert {type(part) for part in parts} <= {type(None), bool, int, float, str, bytes}


@given(anything)
def test_rejects_frames_that_are_not_flat_arrays(value: Any) -> None:
    body = msgpack.packb(value)
    flat = isinstance(value, list) and not any(isinstance(part, (list, dict)) for part in value)
    if flat:
        unpack(body)
        return
    with pytest.raises(FrameError):
        unpack(body)


@given(parts_of_frames, st.binary(min_size=1, max_size=5))
def test_rejects_extra_or_missing_bytes(parts: list[Any], more: bytes) -> None:
    body = msgpack.packb(parts)
    with pytest.raises(FrameError):
        unpack(body + more)
    for end in {len(body) - 1, len(body) // 2} - {len(body)}:
        with pytest.raises(FrameError):
            unpack(body[:end])


@pytest.mark.parametrize("small", [[], [None, "k"], [{}], [[]], [b"", -1, "é" * 70_000], [True] * 3])
@pytest.mark.parametrize("more", [b"", b"\xc0", b"\x90", b"\xc6\x00\x00\x00\x02x", b"\xc1" * 400_000])
def test_a_big_frame_is_read_as_a_small_one(small: list[Any], more: bytes) -> None:
    big = [b"x" * 600_000, *small, b"y" * 600_000]
    body = msgpack.packb(big) + more
    if more or {} in small or [] in small:
        with pytest.raises(FrameError):
            unpack(body)
    else:
        assert unpack(body) == big
    for end in (len(body) - len(more) - 1, 600_004, 600_007, 500_000, 5):
        with pytest.raises(FrameError):
            unpack(body[:end])


HOSTILE_BODIES = {
    "nothing": b"",
    "a map": b"\x80",
    "a string": b"\xa1x",
    "an empty map inside": b"\x91\x80",
    "an empty array inside": b"\x91\x90",
    "a million empty maps": b"\xdd" + struct.pack(">I", 1_000_000) + b"\x80" * 1_000_000,
    "a million empty arrays": b"\xdd" + struct.pack(">I", 1_000_000) + b"\x90" * 1_000_000,
    "eight million empty maps": b"\xdd" + struct.pack(">I", 8_000_000) + b"\x80" * 8_000_000,
    "eight million nils": b"\xdd" + struct.pack(">I", 8_000_000) + b"\xc0" * 8_000_000,
    "nested empty maps": b"\x91\xdd" + struct.pack(">I", 8_000_000) + b"\x80" * 8_000_000,
    "arrays in arrays": b"\x91" * 8_000_000 + b"\xc0",
    "maps in maps": b"\x81\xa0" * 4_000_000 + b"\xc0",
    "a few arrays of empty arrays": b"\x9f" * 16 + b"\x90" * 15 + b"\xc0" * 14 * 15,
    "a few arrays that are not there": b"\x9f" * 4000,
    "arrays that claim to be huge": b"\xdd\xff\xff\xff\xff" * 1_000_000,
    "an array that claims to be huge": b"\xdd\xff\xff\xff\xff",
    "an inner array that claims to be huge": b"\x91\xdd\xff\xff\xff\xff",
    "a map that claims to be huge": b"\x91\xdf\xff\xff\xff\xff",
    "a string that claims to be huge": b"\x91\xdb\xff\xff\xff\xff",
    "bytes that claim to be huge": b"\x91\xc6\xff\xff\xff\xff",
    "an extension": b"\x91\xd4\x05a",
    "an empty extension": b"\x91\xc7\x00\x05",
    "a timestamp": b"\x91\xd6\xff\x00\x00\x00\x00",
    "a broken timestamp": b"\x91\xc7\x00\xff",
    "an extension that claims to be huge": b"\x91\xc9\xff\xff\xff\xff\x05",
    "a byte that means nothing": b"\x91\xc1",
    "a string that is not UTF-8": b"\x91\xa1\xff",
    "a string with a surrogate": b"\x91\xa3\xed\xa0\x80",
    "a truncated array": b"\xdc\x00",
    "a big text and eight million nils": b"\x92\xc6"
    + struct.pack(">I", 1_000_000)
    + b"x" * 1_000_000
    + b"\xc0" * 8_000_000,
    "a big text that claims to be bigger": b"\x92\xc6" + struct.pack(">I", 9_000_001) + b"x" * 9_000_000,
    "a big text and arrays in arrays": b"\x92\xc6"
    + struct.pack(">I", 1_000_000)
    + b"x" * 1_000_000
    + b"\x91" * 8_000_000,
}


@pytest.mark.parametrize("name", HOSTILE_BODIES)
def test_hostile_bodies_cost_little_memory(name: str) -> None:
    body = HOSTILE_BODIES[name]
    tracemalloc.start()
    try:
        with pytest.raises(FrameError) as caught:
            unpack(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 200
    assert peak < 3 * len(body) + (80 if len(body) > 4096 else 1) * 1024 * 1024


@pytest.mark.parametrize("size", [0, MAX + 1, 2**31, 2**32 - 1])
def test_length_over_the_limit_is_refused_before_the_body(size: int) -> None:
    buffer = FrameBuffer(MAX)
    buffer.feed(struct.pack("<I", size))
    with pytest.raises(FrameError, match="bytes"):
        buffer.next_body()


def test_own_frame_over_the_limit_is_not_sent() -> None:
    for parts in ([b"x" * MAX], ["x" * MAX], [b"x" * (MAX // 2)] * 3):
        with pytest.raises(FrameTooBig) as caught:
            pack(parts, MAX)
        assert caught.value.size_bytes > caught.value.limit_bytes == MAX


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 500_000, 1_000_000])
def test_a_frame_with_big_parts_is_as_a_packer_writes_it(size: int) -> None:
    for parts in (
        ["set", "ns", "k", b"x" * size, None, 1.5],
        [b"x" * size],
        [b"x" * size, b"", "é" * 70_000, b"y" * size],
    ):
        frame = pack(parts, 4 * MAX)
        assert frame == struct.pack("<I", len(frame) - 4) + msgpack.packb(parts)
        assert unpack(frame[4:]) == parts


def test_a_big_text_is_copied_once_for_a_frame_and_once_from_it() -> None:
    text = b"x" * (8 * MAX)
    tracemalloc.start()
    try:
        frame = pack(["set", "ns", "k", text], 9 * MAX)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * len(text)
        tracemalloc.reset_peak()
        assert unpack(memoryview(frame)[4:])[3] == text
        assert tracemalloc.get_traced_memory()[1] < 2.5 * len(text)
    finally:
        tracemalloc.stop()
    with pytest.raises(FrameTooBig):
        pack(["k" * 100, text], 8 * MAX + 50)


def test_channel_carries_frames_bigger_than_any_buffer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        near, far = Channel(ours, 1 << 26, 0), Channel(theirs, 1 << 26, 50)
        big = [1, "x", b"y" * 20_000_000, None]
        sender = threading.Thread(target=lambda: [near.send(big), near.send([2])])
        sender.start()
        assert [unpack(far.receive() or b""), unpack(far.receive() or b"")] == [big, [2]]
        sender.join()
        ours.shutdown(socket.SHUT_WR)
        assert far.receive() is None


class Interrupted(BaseException):
    """Raised by the signal handler of an agent."""


class _Cut:
    """A socket whose calls are cut short: each moves a few bytes, and every second one is interrupted."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._calls = 0
        self.fileno = sock.fileno

    def _cut(self) -> None:
        self._calls += 1
        if self._calls % 2 == 0:
            raise Interrupted

    def send(self, data: bytes) -> int:
        self._cut()
        return self._sock.send(data[:3])

    def recv(self, size: int) -> bytes:
        self._cut()
        return self._sock.recv(min(size, 5))


def test_an_interrupted_call_of_a_channel_is_continued_by_the_next() -> None:
    here, there = socket.socketpair()
    with here, there:
        sender, receiver = Channel(_Cut(here), 1000, 0), Channel(_Cut(there), 1000, 0)  # type: ignore[arg-type]
        for number in range(3):
            for _ in range(20):
                try:
                    sender.send([number, "request"])
                    break
                except Interrupted:
                    pass
        here.shutdown(socket.SHUT_WR)
        found = []
        while not found or found[-1] is not None:
            with suppress(Interrupted):
                found.append(receiver.receive())
        bodies = [unpack(body) for body in found if body is not None]
        # Interrupted calls may have been sent, each of them whole.
        assert {tuple(body) for body in bodies} == {(0, "request"), (1, "request"), (2, "request")}
        assert [body[0] for body in bodies] == sorted(body[0] for body in bodies)
