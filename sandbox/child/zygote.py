"""A process that waits with everything imported, and is forked for each run; it never runs an agent's code itself.

A request of the host carries the limits of a run and four descriptors: data, control, output, birth. Over *birth*, which
the agent never holds, the host gets a pidfd of the agent's process, or why there is none, and at the end its exit status.

    zygote ── fork ── middle: new namespaces ── fork ── agent: process 1 of its own, walls, `start.main`
                      sends the pidfd, tells the zygote whose child it adopts, ends

Where there are no namespaces the zygote's child is the agent. When the host closes its socket, or dies, the zygote ends and
with it every process of its namespace; where there is none, those that it started.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, NoReturn

from sandbox.child import kernel, landlock, namespaces, rlimits, start, walls

_MOST_REQUEST_BYTES = 64 * 1024
_DESCRIPTORS = 4
_FAILED = 70
_ADOPTION = struct.Struct("=II")


class Zygote:
    """Serves one host until it is gone, nobody asks any more, or it has been forked often enough."""

    def __init__(self, sock: socket.socket, settings: dict[str, Any], folders: dict[str, str]) -> None:
        self._socket = sock
        self._pid = os.getpid()
        self._folders = folders
        self._in_a_room: bool = settings["in_a_room"]
        self._idle_ms = int(settings["idle_s"] * 1000)
        self._births_left: int = settings["births"]
        self._retired = False
        self._count = 0
        self._births: dict[int, int] = {}
        """Number of a run to its birth socket, until the agent's process is known."""
        self._agents: dict[int, int] = {}
        """Process of an agent to its birth socket, until it has ended."""
        self._middles: dict[int, int] = {}
        """Process between us and an agent to the number of the run."""
        self._ended: dict[int, tuple[int, float]] = {}
        self._woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._adopted, self._adopt = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        version = landlock.abi()
        if not version and settings["landlock"] == "required":
            raise OSError("this kernel has no Landlock, or has it turned off")
        self._walls = walls.Walls(
            in_a_room=self._in_a_room,
            landlock=version,
            read_only=landlock.open_paths(settings["read_only"]),
            read_write=landlock.open_paths(("/dev/null", "/dev/zero")),
            memory_bytes=rlimits.memory_in_use(),
            left_out=frozenset(settings["left_out"]),
        )

    def serve(self) -> None:
        """Answer requests until the end."""
        poller = select.poll()
        for descriptor in (self._socket.fileno(), self._woken):
            poller.register(descriptor, select.POLLIN)
        while True:
            ready = dict(poller.poll(self._idle_ms))
            if self._woken in ready:
                self._reap()
            elif not ready and not self._agents and not self._births:
                self._retire()
            events = ready.get(self._socket.fileno(), 0)
            if events & select.POLLIN and not self._retired:
                if not self._receive():
                    return
            elif events & (select.POLLHUP | select.POLLERR):
                return
            if self._retired:
                poller.modify(self._socket, 0)  # the end of the host is reported all the same
                if not self._agents and not self._births:
                    return

    def end_all(self) -> None:
        """End what is still there; where we are process 1 of a namespace the kernel does so by itself."""
        for pid in self._agents:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _retire(self) -> None:
        """Take no more requests, but those that have been sent already: from now on the host's sending fails."""
        self._retired = True
        self._socket.shutdown(socket.SHUT_RD)
        while self._receive():
            pass

    def _receive(self) -> bool:
        """Carry out one request; False where there is none to come."""
        try:
            message, descriptors, _, _ = socket.recv_fds(
                self._socket, _MOST_REQUEST_BYTES, _DESCRIPTORS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return not self._retired
        if not message:
            return False
        try:
            self._bear(json.loads(message), descriptors)
        finally:
            for descriptor in descriptors[:-1]:
                os.close(descriptor)
        self._births_left -= 1
        if self._births_left <= 0 and not self._retired:
            self._retire()
        return True

    def _bear(self, request: dict[str, Any], descriptors: list[int]) -> None:
        self._count += 1
        birth = descriptors[-1]
        try:
            pid = os.fork()
        except OSError as error:
            _say(birth, failed=f"fork: {error.strerror}")
            os.close(birth)
            return
        if pid == 0:
            self._in_child(request, descriptors)
        if self._in_a_room:
            self._births[self._count] = birth
            self._middles[pid] = self._count
        else:
            self._agents[pid] = birth
            _send_pidfd(birth, pid)

    def _in_child(self, request: dict[str, Any], descriptors: list[int]) -> NoReturn:
        birth = descriptors[-1]
        try:
            if self._in_a_room:
                namespaces.enter(request["limits"]["scratch_bytes"])
                pid = os.fork()
                if pid:
                    _send_pidfd(birth, pid)
                    os.write(self._adopt, _ADOPTION.pack(self._count, pid))
                    os._exit(0)
            else:
                _die_with(self._pid)
            self._become_agent(request, descriptors)
        except BaseException as error:
            reason = str(error) if isinstance(error, (OSError, walls.WallMissing)) else repr(error)
            _say(birth, failed=reason)  # from the process in the middle
            with suppress(OSError):
                os.write(2, reason.encode())  # from the agent's process, whose output that is
        os._exit(_FAILED)

    def _become_agent(self, request: dict[str, Any], descriptors: list[int]) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        data, control, output, _ = descriptors
        rlimits.place(data, control, output)
        scratch = request["scratch"]
        os.environ.update(HOME=scratch, TMPDIR=scratch)
        os.chdir(scratch)
        walls.put_up(self._walls, request["limits"], scratch)
        if request["trial"]:
            os.write(1, b"ok")
            os._exit(0)
        start.main(rlimits.DATA, rlimits.CONTROL, self._folders)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)
        with suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    break
                self._ended[pid] = status, usage.ru_utime + usage.ru_stime
        self._learn_adoptions()
        for pid in [pid for pid in self._ended if pid in self._agents]:
            status, cpu_s = self._ended.pop(pid)
            birth = self._agents.pop(pid)
            _say(birth, code=os.waitstatus_to_exitcode(status), cpu_s=cpu_s)
            os.close(birth)
        for pid in [pid for pid in self._ended if pid in self._middles]:
            del self._ended[pid]
            birth = self._births.pop(self._middles.pop(pid), -1)
            if birth >= 0:  # it ended before there was an agent
                os.close(birth)

    def _learn_adoptions(self) -> None:
        """A process in the middle writes before it ends, so that this is known when its child has become ours."""
        with suppress(BlockingIOError):
            while True:
                number, pid = _ADOPTION.unpack(os.read(self._adopted, _ADOPTION.size))
                self._agents[pid] = self._births.pop(number)


def _die_with(parent: int) -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL, "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os._exit(_FAILED)


def _send_pidfd(birth: int, pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    _say(birth, pidfd, born=True)
    os.close(pidfd)


def _say(birth: int, *descriptors: int, **what: Any) -> None:
    """Tell the host something about one run; it may have gone."""
    with suppress(OSError), socket.socket(fileno=os.dup(birth)) as sock:
        socket.send_fds(sock, [json.dumps(what).encode()], descriptors)


def main(descriptor: int, settings: dict[str, Any], folders: dict[str, str]) -> None:
    """Serve the host at the other end of a descriptor."""
    sock = socket.socket(fileno=descriptor)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, rlimits.MOST_DESCRIPTORS) if hard != resource.RLIM_INFINITY else rlimits.MOST_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uid = settings["uid"]
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.environ.clear()
    os.environ["LANG"] = "C.UTF-8"
    zygote = Zygote(sock, settings, folders)
    gc.collect()
    gc.freeze()
    pidfd = os.pidfd_open(os.getpid())
    _say(descriptor, pidfd, ready=True)
    os.close(pidfd)
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(0, stream)
    try:
        zygote.serve()
    finally:
        zygote.end_all()
        os._exit(0)
