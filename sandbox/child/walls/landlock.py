"""Landlock: limits the files that an agent's process may open, beyond the file permissions."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from sandbox.child.walls import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15

_FILES_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_NO_TCP_SINCE, _BIND_AND_CONNECT = 4, 0b11
_SCOPES_SINCE, _ABSTRACT_SOCKETS_AND_SIGNALS = 6, 0b11


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """Return the kernel's Landlock version, 0 if it has none or it is turned off."""
    with suppress(OSError):
        return kernel.syscall("landlock_create_ruleset", _CREATE_RULESET, None, 0, _VERSION)
    return 0


def open_paths(paths: Iterable[str]) -> list[int]:
    """Return descriptors of the paths that exist, for `restrict`."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append(os.open(path, os.O_PATH | os.O_CLOEXEC))
    return found


def restrict(version: int, read_only: Iterable[int], read_write: Iterable[int]) -> None:
    """Restrict this process, permanently, to reading beneath `read_only` and to reading and writing beneath `read_write`.

    Beneath `read_write`, execution, devices and sockets are still refused. Where the kernel's version supports it, TCP, and
    signals and abstract sockets to the outside, are refused too.
    """
    files = _FILES_BY_ABI[max(known for known in _FILES_BY_ABI if known <= version)]
    handled = [files]
    if version >= _NO_TCP_SINCE:
        handled.append(_BIND_AND_CONNECT)
    if version >= _SCOPES_SINCE:
        handled.append(_ABSTRACT_SOCKETS_AND_SIGNALS)
    attributes = (ctypes.c_uint64 * len(handled))(*handled)
    ruleset = kernel.syscall("landlock_create_ruleset", _CREATE_RULESET, attributes, 8 * len(handled), 0)
    try:
        for descriptor in read_only:
            _allow(ruleset, descriptor, _READ_FILE | _READ_DIR)
        writing = files & ~(_EXECUTE | _MAKE_CHAR | _MAKE_SOCK | _MAKE_BLOCK | _IOCTL_DEV)
        for descriptor in read_write:
            _allow(ruleset, descriptor, writing)
        kernel.syscall("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, descriptor: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
    rule = _PathBeneath(rights, descriptor)
    kernel.syscall("landlock_add_rule", _ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
