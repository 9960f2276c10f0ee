"""Frames on a socket: a u32 length in little endian, then one flat msgpack array.

Host and agent process share this module. The host reads frames that hostile code may have written, so it never allocates
memory on the word of a header. It checks the length before it reads the body, and the number of parts before it decodes
them. Nested parts are refused while decoding; an empty array or map is the only one that can come to exist.
"""

from __future__ import annotations

import select
import socket
from itertools import islice
from time import perf_counter_ns
from typing import Any, TypeAlias

from redis_store.connections.spin import Spinner

try:
    from msgpack._cmsgpack import Packer, Unpacker, unpackb
except ImportError:
    from msgpack.fallback import Packer, Unpacker, unpackb

Part: TypeAlias = bool | int | float | str | bytes | None

HEADER_BYTES = 4
MAX_PARTS = 1_000_000
"""Maximum number of parts of a frame that the host accepts; each costs it at most 64 bytes beyond its own size."""

RECEIVE_BYTES = 64 * 1024
"""Size of one read from a socket, in bytes."""

SPIN_FOR_REQUEST_US = 100
SPIN_FOR_ANSWER_US = 200
"""Time that the host and the agent process poll before they sleep, in microseconds.

The agent process must poll for longer than a sleeping host takes to wake up. Otherwise both would sleep and never find out
that polling pays. One get takes 54 µs with these values, 130 µs with 50 for both, and 190 µs without polling.
"""

_COPIED_BYTES = 64 * 1024
"""Size of a part of a frame up to which a packer copies it, in bytes; and the mean size up to which it packs all parts."""

_BIG_BYTES = 0xC6
"""The first byte of bytes whose length takes four bytes."""

_SMALL_BYTES = 4096
"""Size up to which a body of few parts is decoded before it is checked, in bytes. Lists in it take at most half a MiB."""
_FEW_PARTS = 15
_LOOK_AFTER = 1000
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})


class FrameError(Exception):
    """The peer sent an invalid frame, or one over the bounds."""


class FrameTooBig(Exception):
    """An outgoing frame is over the bound of its channel; nothing was sent. Attributes: `size_bytes`, `limit_bytes`."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"a frame of {size_bytes:,} bytes is over the bound of {limit_bytes:,}")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


def pack(parts: list[Part], max_bytes: int) -> bytes:
    """Return a frame, or raise `FrameTooBig`. Ints over 64 bits raise `OverflowError`, lone surrogates `ValueError`."""
    size = 0
    for part in parts:
        if type(part) is bytes:
            size += len(part)
    if size > max_bytes:
        raise FrameTooBig(size, max_bytes)
    if size > _COPIED_BYTES * len(parts):
        return _frame_of_pieces(parts, max_bytes)
    body: bytes = Packer(buf_size=min(size, RECEIVE_BYTES) + 4096).pack(parts)
    if len(body) > max_bytes:
        raise FrameTooBig(len(body), max_bytes)
    return len(body).to_bytes(HEADER_BYTES, "little") + body


def _frame_of_pieces(parts: list[Part], max_bytes: int) -> bytes:
    """Return a frame, made of its parts at once: a packer would copy a big text twice more."""
    packer = Packer()
    pieces: list[bytes] = [packer.pack_array_header(len(parts))]
    for part in parts:
        if type(part) is bytes and len(part) > _COPIED_BYTES:
            pieces += (_BIG_BYTES.to_bytes() + len(part).to_bytes(4, "big"), part)
        else:
            pieces.append(packer.pack(part))
    size = sum(map(len, pieces))
    if size > max_bytes:
        raise FrameTooBig(size, max_bytes)
    return b"".join((size.to_bytes(HEADER_BYTES, "little"), *pieces))


def unpack(body: bytes | memoryview) -> list[Any]:
    """Return the parts of a frame's body: each None, a bool, a number, a str or bytes. Raises `FrameError` for anything else."""
    count, start = _array_header(body)
    if count > MAX_PARTS:
        raise FrameError(f"a frame of {count:,} parts, where at most {MAX_PARTS:,} are allowed")
    if count > len(body) - start:
        raise FrameError(f"a frame that claims {count:,} parts in {len(body):,} bytes")
    size = len(body) - start
    if not size:
        return []
    if size > _COPIED_BYTES * count and (pieces := _parts_of_pieces(memoryview(body)[start:], count)) is not None:
        return pieces
    try:
        if size < _SMALL_BYTES and count <= _FEW_PARTS:  # 1.4 µs faster, and most frames are such
            few: list[Any] = unpackb(body, max_array_len=_FEW_PARTS, max_map_len=0, max_ext_len=0)
            if not _SCALARS.issuperset(map(type, few)):
                raise FrameError("a frame that is not flat")
            return few
        unpacker = Unpacker(read_size=size, max_buffer_size=size, max_array_len=0, max_map_len=0, max_ext_len=0)
        unpacker.feed(memoryview(body)[start:])
        parts = _scalars(unpacker, count)
        read = unpacker.tell()
    except FrameError:
        raise
    except Exception as error:
        raise FrameError(f"a part that cannot be read ({type(error).__name__})") from error
    if len(parts) != count or read != size:
        raise FrameError("a frame whose length does not fit its parts")
    return parts


def unpack_trusted(body: bytes) -> list[Any]:
    """Return the parts of a frame's body in the agent's process, which trusts the host: twice as fast as with all checks."""
    parts: list[Any] = unpackb(body)
    return parts


def _parts_of_pieces(rest: memoryview, count: int) -> list[Any] | None:
    """Return the parts of a frame with big texts, each copied once; None where that needs another look.

    An unpacker would copy the whole frame first.
    """
    parts: list[Any] = []
    try:
        while rest and len(parts) < count:  # which is small
            if rest[0] == _BIG_BYTES:
                end = 5 + int.from_bytes(rest[1:5], "big")
                if end > len(rest):
                    return None
                parts.append(bytes(rest[5:end]))
            else:
                unpacker = Unpacker(max_array_len=0, max_map_len=0, max_ext_len=0)
                unpacker.feed(rest[:_COPIED_BYTES])
                parts.append(unpacker.unpack())
                end = unpacker.tell()
            rest = rest[end:]
    except Exception:  # whatever an unpacker may raise: a part that is cut off, longer, or none
        return None
    return parts if len(parts) == count and not rest and _SCALARS.issuperset(map(type, parts)) else None


def _scalars(unpacker: Any, count: int) -> list[Any]:
    """Return `count` parts, checked in small batches: a million empty arrays at once would cost 64 times their size."""
    parts: list[Any] = []
    while more := list(islice(unpacker, min(_LOOK_AFTER, count - len(parts)))):
        if not _SCALARS.issuperset(map(type, more)):
            raise FrameError("a frame that is not flat")
        if len(more) == count:
            return more
        parts += more
    return parts


def _array_header(body: bytes | memoryview) -> tuple[int, int]:
    """Return the number of parts that a body announces, and the offset of the first."""
    first = body[0] if len(body) else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F, 1
    if first == 0xDC and len(body) >= 3:
        return int.from_bytes(body[1:3], "big"), 3
    if first == 0xDD and len(body) >= 5:
        return int.from_bytes(body[1:5], "big"), 5
    raise FrameError("a frame that is not an array")


class FrameBuffer:
    """Assembles bytes from a socket into bodies of frames."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.received = bytearray()
        """The bytes of which no body was made yet."""
        self._size: int | None = None

    def feed(self, data: bytes) -> None:
        """Add bytes received from the socket."""
        self.received += data

    def next_body(self) -> bytes | None:
        """Return the next complete body, or None if more bytes are needed."""
        if self._size is None:
            if len(self.received) < HEADER_BYTES:
                return None
            size = int.from_bytes(self.received[:HEADER_BYTES], "little")
            if not 0 < size <= self.max_bytes:
                raise FrameError(f"a frame of {size:,} bytes, where at most {self.max_bytes:,} are allowed")
            self._size = size
        end = HEADER_BYTES + self._size
        if len(self.received) < end:
            return None
        with memoryview(self.received) as view:
            body = bytes(view[HEADER_BYTES:end])
        del self.received[:end]
        self._size = None
        return body


class Channel:
    """A blocking socket that carries frames in both directions.

    A signal handler may raise at any point of `send` and `receive`: the next call continues where it was interrupted. So one
    call of C moves bytes and records that (`extend` of `map`), and no call comes between assignments that belong together.
    """

    _spinning = False

    def __init__(self, sock: socket.socket, max_bytes: int, spin_us: int) -> None:
        self.socket = sock
        self.max_bytes = max_bytes
        self._spin_ns = spin_us * 1000
        self._buffer = FrameBuffer(max_bytes)
        self._arrived: list[bytes] = []
        """What was read from the socket last, until it is in the buffer."""
        self._frame: bytes = b""
        """The frame that is being sent."""
        self._sent: list[int] = []
        """The sizes of its parts that were sent."""
        self._spinner = Spinner()
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        self._poll = poller.poll

    def send(self, parts: list[Part], sent: list[int] | None = None) -> int:
        """Send one frame, and return its size; block until all of it is sent. `sent` gets the sizes of its parts that were."""
        frame = pack(parts, self.max_bytes)
        self.send_frame(frame, sent)
        return len(frame)

    def send_frame(self, frame: bytes, sent: list[int] | None = None) -> None:
        """Send a frame that is packed already. First, send the rest of one of which a part was sent."""
        if self._sent:
            self._send_rest()
        self._frame, self._sent = frame, [] if sent is None else sent
        self._send_rest()

    def _send_rest(self) -> None:
        frame = self._frame
        while (done := sum(self._sent)) < len(frame):
            self._sent.extend(map(self.socket.send, (memoryview(frame)[done:] if done else frame,)))
        self._frame, self._sent = b"", []

    def wait_for_end(self, timeout_s: float) -> None:
        """Wait until the socket is shut down, on either side, or the time is over."""
        poller = select.poll()
        poller.register(self.socket, getattr(select, "POLLRDHUP", 0))
        poller.poll(timeout_s * 1000)

    def receive(self) -> bytes | None:
        """Wait for one frame and return its body, or None if the peer has closed the socket."""
        while (body := self._buffer.next_body()) is None:
            if not self._arrived:
                self._wait()
                self._arrived.extend(map(self.socket.recv, (RECEIVE_BYTES,)))
            if not self._arrived[0]:
                return None
            self._buffer.received += self._arrived[0]
            self._arrived = []
        return body

    def _wait(self) -> None:
        """Poll the socket briefly before blocking on it, if that pays; only one thread of a process polls at a time."""
        if Channel._spinning or not self._spinner.worth_it():
            return
        Channel._spinning = True
        try:
            end = perf_counter_ns() + self._spin_ns
            while not self._poll(0):
                if perf_counter_ns() > end:
                    self._spinner.missed()
                    return
            self._spinner.paid()
        finally:
            Channel._spinning = False
