"""A probe of each layer of isolation, in a process of its own; prints the results on stdout."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable

from sandbox.child.walls import kernel, landlock, namespaces, seccomp

_NOBODY = 65534


def _users() -> str:
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    namespaces.map_ids(_NOBODY, _NOBODY, uid, gid)
    if os.getuid() != _NOBODY:
        raise OSError("the user is the same in a new user namespace")
    return f"became user {_NOBODY} of a new one"


def _mounts() -> str:
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    kernel.mount("tmpfs", "/tmp", "tmpfs", 0, "size=4k")
    if os.listdir("/tmp"):  # noqa: PTH208
        raise OSError("the mounted folder is not visible")
    return "mounted an empty folder over /tmp in a new one"


def _processes() -> str:
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if os.getpid() == 1 else 1)
    if os.waitpid(pid, 0)[1]:
        raise OSError("a child in a new process namespace is not its process 1")
    return "a child in a new one was its process 1"


def _network() -> str:
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET)
    if [name for _, name in socket.if_nameindex()] not in ([], ["lo"]):
        raise OSError("a new network namespace has interfaces")
    return "a new one had no interface but its own lo"


def _landlock() -> str:
    version = landlock.abi()
    if not version:
        raise OSError("this kernel has no Landlock, or has it turned off")
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    landlock.restrict(version, [], [])
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
        os.listdir("/")  # noqa: PTH208
    except PermissionError:
        return f"opening a folder was refused (version {version})"
    raise OSError("a folder could be opened that was not allowed")


def _seccomp() -> str:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
    seccomp.install(os.getpid(), in_a_room=True)
    try:
        socket.socket().close()
    except PermissionError:
        return "making a socket was refused"
    raise OSError("a socket could be made that was not allowed")


def _pidfd() -> str:
    os.close(os.pidfd_open(os.getpid()))
    return "a descriptor of a process could be opened"


_LAYERS: dict[str, Callable[[], str]] = {
    "user namespaces": _users,
    "mount namespaces": _mounts,
    "process namespaces": _processes,
    "network namespaces": _network,
    "Landlock": _landlock,
    "seccomp": _seccomp,
    "pidfd": _pidfd,
}


def main() -> None:
    """Print a JSON object: for each layer, whether it works and what the probe observed."""
    print(json.dumps({name: _in_a_process(test) for name, test in _LAYERS.items()}))


def _in_a_process(test: Callable[[], str]) -> list[object]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            found: list[object] = [True, test()]
        except BaseException as error:
            found = [False, str(error) or type(error).__name__]
        os.write(write, json.dumps(found).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    _, status = os.waitpid(pid, 0)
    return list(json.loads(said)) if said else [False, f"the test ended with status {status}"]
