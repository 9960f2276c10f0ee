"""seccomp: a filter of the system calls that an agent's process may make, as a program for the kernel's packet filter.

A call of another architecture kills the process. Calls in the tables of `walls/syscalls.py` are allowed, some only with
certain arguments. Calls newer than the tables return ENOSYS, so that libraries fall back; all others return EPERM.
"""

from __future__ import annotations

import errno
import struct
from functools import cache
from typing import NamedTuple

from sandbox.child.walls import kernel, syscalls

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16

_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_EPERM, _ENOSYS, _ENOTTY, _ENOTSUP = (
    _ERRNO | number for number in (errno.EPERM, errno.ENOSYS, errno.ENOTTY, errno.ENOTSUP)
)

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32_BIT = 0x40000000

_CLONE_THREAD_AND_FILES = 0x00010400
"""Flags that `clone` must have: a thread with its own descriptor table could open the full limit of descriptors again."""
_CLONE_NEW_ANYTHING = 0x7E020080
_O_ACCMODE_AND_TRUNC, _O_TRUNC = 0o1003, 0o1000
_OTHERS_CLOCK = 0x8000_0000
"""Sign bit of a clock id. A negative id is the clock of a process or a thread, which the number encodes."""
_CLOSE_RANGE_CLOEXEC = 4
_AF_UNIX = 1

_SOME_PID = 0x7F5A_A5F1
"""Placeholder for the process id. No process has an id this high, and no other instruction contains these bytes."""
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS and TIOCGWINSZ (`isatty`), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_FCNTLS = (*range(8), 36, 37, 38, 1030, 1032)
"""Duplicates, flags, locks, pipe sizes. Not F_SETOWN and F_SETSIG, which make the kernel send signals to other processes."""
_PRCTLS = (3, 15, 16, 23, 39, 0x53564D41)
"""The names of threads and of memory areas; reading dumpable, the bounding set and no_new_privs."""
_SOCKET_OPTIONS = (3, 4, 7, 8, 38, 39)
"""SO_TYPE, SO_ERROR, buffer sizes, SO_PROTOCOL, SO_DOMAIN. Not SO_PEERPIDFD, which returns a descriptor of the host."""


class _Instruction(NamedTuple):
    code: int
    value: int
    if_true: int = 0
    if_false: int = 0


def install(pid: int, in_a_room: bool) -> None:
    """Filter all further calls of this process. Signals may be sent only to `pid`, its own."""
    kernel.set_seccomp_filter(prepared(in_a_room).replace(_pid_bytes(_SOME_PID), _pid_bytes(pid)))


@cache
def prepared(in_a_room: bool) -> bytes:
    """Return the filter of this machine with `_SOME_PID` as the process id. Cached, because building it takes a millisecond."""
    return program(kernel.machine(), _SOME_PID, in_a_room)


def _pid_bytes(pid: int) -> bytes:
    return struct.pack("=I", pid)


def program(machine: str, pid: int, in_a_room: bool) -> bytes:
    """Return the filter's instructions for an architecture."""
    column, arch = _ARCHITECTURES[machine]
    code = [
        _Instruction(_LOAD, _ARCH_OFFSET),
        _Instruction(_EQUAL, arch, 1, 0),
        _Instruction(_RETURN, _KILL_PROCESS),
        _Instruction(_LOAD, _NUMBER_OFFSET),
        _Instruction(_AT_LEAST, _X32_BIT, 0, 1),
        _Instruction(_RETURN, _KILL_PROCESS),
    ]
    judged = _judgements(pid)
    for name, numbers in (syscalls.JUDGED | ({} if in_a_room else syscalls.ABOUT_PROCESSES)).items():
        if (number := numbers[column]) is not None:
            body = judged[name]
            code += [_Instruction(_EQUAL, number, 0, len(body)), *body]
    code += _by_ranges(_answers(column, in_a_room))
    return b"".join(struct.pack("=HBBI", one.code, one.if_true, one.if_false, one.value) for one in code)


def _answers(column: int, in_a_room: bool) -> list[int]:
    """Return the action for each call number in the tables' range, and for the first number beyond it."""
    answers = [_EPERM] * (syscalls.LAST_KNOWN + 1) + [_ENOSYS]
    in_rooms = syscalls.IN_A_ROOM | syscalls.ATTRIBUTES | syscalls.ABOUT_PROCESSES
    allowed = syscalls.ALLOWED | (in_rooms if in_a_room else {})
    attributes = {} if in_a_room else syscalls.ATTRIBUTES
    for table, answer in ((allowed, _ALLOW), (syscalls.UNKNOWN, _ENOSYS), (attributes, _ENOTSUP)):
        for numbers in table.values():
            if (number := numbers[column]) is not None:
                answers[number] = answer
    return answers


def _by_ranges(answers: list[int]) -> list[_Instruction]:
    """Return comparisons of the call number with the end of each range of equal actions, lowest first."""
    code = []
    for number, answer in enumerate(answers[:-1]):
        if answer != answers[number + 1]:
            code += [_Instruction(_AT_LEAST, number + 1, 1, 0), _Instruction(_RETURN, answer)]
    return [*code, _Instruction(_RETURN, answers[-1])]


def _judgements(pid: int) -> dict[str, list[_Instruction]]:
    """Return the checks of the calls that depend on arguments. Except for pointers, the kernel reads those as 32 bits."""
    own_pid = _one_of(0, (pid,), _EPERM)
    own_or_none = _one_of(0, (0, pid), _EPERM)
    own_clock = _not_masked(0, _OTHERS_CLOCK, _OTHERS_CLOCK)
    return {
        "open": _not_masked(1, _O_ACCMODE_AND_TRUNC, _O_TRUNC),
        "openat": _not_masked(2, _O_ACCMODE_AND_TRUNC, _O_TRUNC),
        "clone": [
            _argument(0),
            _Instruction(_AND, _CLONE_THREAD_AND_FILES | _CLONE_NEW_ANYTHING),
            _Instruction(_EQUAL, _CLONE_THREAD_AND_FILES, 0, 1),
            _Instruction(_RETURN, _ALLOW),
            _Instruction(_RETURN, _EPERM),
        ],
        "kill": own_pid,
        "tgkill": own_pid,
        "ioctl": _one_of(1, _IOCTLS, _ENOTTY),
        "fcntl": _one_of(1, _FCNTLS, _EPERM),
        "socketpair": _one_of(0, (_AF_UNIX,), _EPERM),
        "prctl": _one_of(0, _PRCTLS, _EPERM),
        "prlimit64": _one_of(0, (0,), _EPERM),
        "getsockopt": _one_of(2, _SOCKET_OPTIONS, _EPERM),
        "close_range": _one_of(2, (0, _CLOSE_RANGE_CLOEXEC), _EPERM),  # not CLOSE_RANGE_UNSHARE: see clone
        "getpgid": own_or_none,
        "getsid": own_or_none,
        "getpriority": _one_of(1, (0, pid), _EPERM),
        "sched_getparam": own_or_none,
        "sched_getscheduler": own_or_none,
        "sched_rr_get_interval": own_or_none,
        "sched_getaffinity": _one_of(0, (0, pid), _ENOSYS),  # glibc asks about threads, and handles ENOSYS
        "timer_create": own_clock,
        "clock_gettime": own_clock,
        "clock_getres": own_clock,
        "clock_nanosleep": own_clock,
        "sendto": _no_pointer(4),  # no address: one end of a datagram socketpair could send to the host's by name
    }


def _argument(index: int) -> _Instruction:
    """Return a load of the lower half of an argument (both architectures are little-endian)."""
    return _Instruction(_LOAD, _ARGUMENTS_OFFSET + 8 * index)


def _one_of(index: int, values: tuple[int, ...], otherwise: int) -> list[_Instruction]:
    compare = [_Instruction(_EQUAL, value, len(values) - at, 0) for at, value in enumerate(values)]
    return [_argument(index), *compare, _Instruction(_RETURN, otherwise), _Instruction(_RETURN, _ALLOW)]


def _no_pointer(index: int) -> list[_Instruction]:
    return [
        _argument(index),
        _Instruction(_EQUAL, 0, 0, 3),
        _Instruction(_LOAD, _ARGUMENTS_OFFSET + 8 * index + 4),
        _Instruction(_EQUAL, 0, 0, 1),
        _Instruction(_RETURN, _ALLOW),
        _Instruction(_RETURN, _EPERM),
    ]


def _not_masked(index: int, mask: int, refused: int) -> list[_Instruction]:
    """Return a check that refuses one value of the masked bits.

    For example, the flags that truncate a file opened for reading, which old Landlock versions permit.
    """
    return [
        _argument(index),
        _Instruction(_AND, mask),
        _Instruction(_EQUAL, refused, 0, 1),
        _Instruction(_RETURN, _EPERM),
        _Instruction(_RETURN, _ALLOW),
    ]
