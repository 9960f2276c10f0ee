"""System calls that Python's standard library lacks; each error names its call."""

from __future__ import annotations

import ctypes
import os
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38

_CAPABILITY_VERSION_3 = 0x20080522
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def machine() -> str:
    """Return the processor's architecture, as the tables of system calls name it."""
    return os.uname().machine


def unshare(flags: int) -> None:
    _check("unshare", _libc.unshare(ctypes.c_int(flags)))


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    arguments = (None if text is None else os.fsencode(text) for text in (source, target, kind))
    data = None if options is None else options.encode()
    _check(f"mount on {target}", _libc.mount(*arguments, ctypes.c_ulong(flags), data))


def unmount(target: str) -> None:
    _check(f"umount of {target}", _libc.umount2(os.fsencode(target), MNT_DETACH))


def pivot_root(new: str, old: str) -> None:
    syscall("pivot_root", _SYS_PIVOT_ROOT[machine()], os.fsencode(new), os.fsencode(old))


def prctl(option: int, value: Any, name: str) -> None:
    zero = ctypes.c_ulong(0)
    given = ctypes.c_ulong(value) if isinstance(value, int) else value
    _check(name, _libc.prctl(ctypes.c_int(option), given, zero, zero, zero))


def set_seccomp_filter(program: bytes) -> None:
    """Install a BPF program of 8-byte instructions. It cannot be removed."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    prog = Program(len(program) // 8, program)
    arguments = (ctypes.c_ulong(2), ctypes.byref(prog), ctypes.c_ulong(0), ctypes.c_ulong(0))
    _check("prctl(PR_SET_SECCOMP)", _libc.prctl(ctypes.c_int(PR_SET_SECCOMP), *arguments))


def drop_capabilities() -> None:
    """Give up every capability; with no_new_privs none can be regained."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    syscall("capset", _SYS_CAPSET[machine()], header, (ctypes.c_uint32 * 6)())


def syscall(name: str, number: int, *arguments: Any) -> int:
    """Make a system call by its number; ints are passed as longs."""
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return _check(name, _libc.syscall(ctypes.c_long(number), *given))


def _check(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
