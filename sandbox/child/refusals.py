"""What the walls refuse, in words: the errors of refused calls say that agents cannot do this, and what to do."""

from __future__ import annotations

import _posixsubprocess
import errno
import functools
import os
import socket
import subprocess
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

_multiprocessing: Any = import_module("_multiprocessing")  # without types

NO_NETWORK = "agents have no network: give the agent a tool that fetches this in the host, with tools={'fetch': ...}"
NO_PROCESSES = (
    "agents start no programs and no processes: use concurrent.futures.ThreadPoolExecutor for work at the same time, or give"
    " the agent a tool that does this in the host"
)
_REFUSED = (PermissionError, FileNotFoundError, socket.gaierror)


def explain() -> None:
    """Put the explanations into the modules whose calls the walls refuse. Calls that succeed behave as before."""
    _explain(socket.socket, "__init__", NO_NETWORK)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"):
        _explain(socket, name, NO_NETWORK)
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "execv", "execve"):
        _explain(os, name, NO_PROCESSES)
    _explain(subprocess.Popen, "_execute_child", NO_PROCESSES)
    _explain(_posixsubprocess, "fork_exec", NO_PROCESSES)
    os.system = _system
    _multiprocessing.SemLock = _SemLock


def is_refusal(error: BaseException) -> bool:
    """Whether an error is one of those."""
    return isinstance(error, OSError) and error.strerror in (NO_NETWORK, NO_PROCESSES)


def _explain(owner: Any, name: str, text: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def explained(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except _REFUSED as error:
            refusal = type(error)(error.errno, text)
        raise refusal

    setattr(owner, name, explained)


def _system(command: Any) -> NoReturn:
    """Raise `PermissionError`: without it, a status such as 32512 would be returned, which few callers look at."""
    raise PermissionError(errno.EPERM, NO_PROCESSES)


class _SemLock(_multiprocessing.SemLock):  # type: ignore[misc]  # a class without types
    """The semaphore that most of `multiprocessing` needs, its `ThreadPool` too."""

    def __new__(cls, *args: Any) -> Any:
        try:
            return super().__new__(cls, *args)
        except OSError as error:
            refusal = type(error)(error.errno, NO_PROCESSES)
        raise refusal
