"""The system call filter, run in a small interpreter of packet filter programs, for both architectures."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from sandbox.child.walls import seccomp, syscalls

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS, ENOTTY, ENOTSUP = (
    0x50000 | number for number in (errno.EPERM, errno.ENOSYS, errno.ENOTTY, errno.ENOTSUP)
)
IN_ROOMS = syscalls.IN_A_ROOM | syscalls.ATTRIBUTES | syscalls.ABOUT_PROCESSES
PID = 4711


def answer(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """Run the program on a call and return its verdict."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(one & 2**64 - 1 for one in (*arguments, *[0] * 6)[:6]))
    code = list(struct.iter_unpack("=HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x15:
            at += if_true if accumulator == value else if_false
        elif operation == 0x35:
            at += if_true if accumulator >= value else if_false
        else:
            assert operation == 0x06
            return value


@pytest.fixture(params=ARCHITECTURES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(machine: str, name: str, *arguments: int, in_a_room: bool = True) -> int:
    column, arch = ARCHITECTURES[machine]
    tables = syscalls.ALLOWED | IN_ROOMS | syscalls.UNKNOWN | syscalls.JUDGED
    number = tables[name][column]
    assert number is not None
    return answer(seccomp.program(machine, PID, in_a_room), arch, number, *arguments)


def test_every_number_gets_the_action_of_its_table(machine: str) -> None:
    column, arch = ARCHITECTURES[machine]
    for in_a_room in (True, False):
        program = seccomp.program(machine, PID, in_a_room)
        allowed = syscalls.ALLOWED | (IN_ROOMS if in_a_room else {})
        expected = {numbers[column]: ALLOW for numbers in allowed.values()}
        expected |= {numbers[column]: ENOSYS for numbers in syscalls.UNKNOWN.values()}
        if not in_a_room:
            expected |= {numbers[column]: ENOTSUP for numbers in syscalls.ATTRIBUTES.values()}
        about_arguments = syscalls.JUDGED | ({} if in_a_room else syscalls.ABOUT_PROCESSES)
        judged = {numbers[column] for numbers in about_arguments.values()}
        for number in set(range(600)) - judged:
            other = EPERM if number <= syscalls.LAST_KNOWN else ENOSYS
            assert answer(program, arch, number) == expected.get(number, other), number


def test_other_architectures_end_the_process(machine: str) -> None:
    program = seccomp.program(machine, PID, True)
    arch = ARCHITECTURES[machine][1]
    for other in {0xC000003E, 0xC00000B7, 0x40000003, 0x40000028} - {arch}:
        assert answer(program, other, 0) == KILL
    assert answer(program, arch, 0x40000000 | 39) == KILL


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", (0x3D0F00,), ALLOW),  # a thread, as glibc makes it
        ("clone", (17,), EPERM),  # a fork
        ("clone", (0x4111,), EPERM),  # a vfork
        ("clone", (0x3D0F00 | 0x10000000,), EPERM),
        ("clone", (0x3D0F00 | 0x20000,), EPERM),
        ("kill", (PID, 9), ALLOW),
        ("kill", (PID + 1, 9), EPERM),
        ("kill", (-1, 9), EPERM),
        ("kill", (0, 9), EPERM),
        ("tgkill", (PID, PID, 9), ALLOW),
        ("tgkill", (1, 1, 9), EPERM),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), ENOTTY),  # TIOCSTI
        ("ioctl", (0, 0x1_0000_5412), ENOTTY),
        ("ioctl", (0, 0x541C), ENOTTY),  # TIOCLINUX
        ("fcntl", (0, 1030), ALLOW),
        ("fcntl", (0, 8, 1), EPERM),  # F_SETOWN
        ("fcntl", (0, 10, 9), EPERM),  # F_SETSIG
        ("fcntl", (0, 1031), EPERM),  # F_SETPIPE_SZ
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (30, 1), EPERM),
        ("prctl", (15,), ALLOW),
        ("prctl", (1, 0), EPERM),  # PR_SET_PDEATHSIG
        ("prctl", (22, 1), EPERM),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (5, 7), EPERM),
        ("getsockopt", (3, 1, 3), ALLOW),
        ("getsockopt", (3, 1, 77), EPERM),  # SO_PEERPIDFD
        ("sendto", (3, 1, 1, 0, 0), ALLOW),
        ("sendto", (3, 1, 1, 0, 0x7FFF_0000_0000), EPERM),
        ("sendto", (3, 1, 1, 0, 5), EPERM),
        ("openat", (-100, 1, 0), ALLOW),
        ("openat", (-100, 1, 0o1001), ALLOW),
        ("openat", (-100, 1, 0o1000), EPERM),  # O_TRUNC for reading
        ("clone3", (), ENOSYS),
        ("clone", (0x3D0B00,), EPERM),  # a thread with its own descriptor table
        ("close_range", (3, 5, 0), ALLOW),
        ("close_range", (3, 5, 4), ALLOW),
        ("close_range", (3, 5, 2), EPERM),  # CLOSE_RANGE_UNSHARE
        ("close_range", (3, 5, 6), EPERM),
    ],
)
def test_arguments_are_checked(machine: str, name: str, arguments: tuple[int, ...], expected: int) -> None:
    assert ask(machine, name, *arguments) == expected


def test_without_room_changes_by_path_are_refused(machine: str) -> None:
    assert ask(machine, "fchmodat") == ALLOW
    assert ask(machine, "fchmodat", in_a_room=False) == EPERM
    assert ask(machine, "utimensat", in_a_room=False) == EPERM
    assert ask(machine, "truncate", in_a_room=False) == EPERM


@pytest.mark.parametrize(
    ("name", "own", "others", "refusal"),
    [
        ("getpgid", (PID,), (PID + 1,), EPERM),
        ("getsid", (0,), (1,), EPERM),
        ("getpriority", (0, 0), (0, 1), EPERM),
        ("sched_getparam", (0,), (1,), EPERM),
        ("sched_getscheduler", (PID,), (1,), EPERM),
        ("sched_rr_get_interval", (0,), (1,), EPERM),
        ("sched_getaffinity", (0,), (1,), ENOSYS),
        ("clock_gettime", (3,), (~1 << 3 | 2,), EPERM),
        ("clock_getres", (1,), (~1 << 3 | 2,), EPERM),
        ("clock_nanosleep", (1,), (~1 << 3 | 2,), EPERM),
        ("timer_create", (1,), (~1 << 3 | 2,), EPERM),
    ],
)
def test_without_room_other_processes_are_hidden(
    machine: str, name: str, own: tuple[int, ...], others: tuple[int, ...], refusal: int
) -> None:
    assert ask(machine, name, *own, in_a_room=False) == ALLOW
    assert ask(machine, name, *others, in_a_room=False) == refusal
    assert ask(machine, name, *others) == ALLOW  # a room has no other processes


def test_tables_do_not_overlap() -> None:
    tables = (
        syscalls.ALLOWED,
        syscalls.IN_A_ROOM,
        syscalls.ATTRIBUTES,
        syscalls.ABOUT_PROCESSES,
        syscalls.UNKNOWN,
        syscalls.JUDGED,
    )
    for column in (0, 1):
        numbers = [entry[column] for table in tables for entry in table.values() if entry[column] is not None]
        assert len(numbers) == len(set(numbers))


def test_prepared_filter_equals_the_built_one() -> None:
    machine = os.uname().machine
    for in_a_room in (True, False):
        prepared = seccomp.prepared(in_a_room)
        marker = struct.pack("=I", seccomp._SOME_PID)
        for pid in (1, 4711, 2**22):
            assert prepared.replace(marker, struct.pack("=I", pid)) == seccomp.program(machine, pid, in_a_room)
