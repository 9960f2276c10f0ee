"""The zygote: a process with everything imported that forks a child for each run and never runs an agent's code itself.

    zygote ── fork ── middle: new namespaces ── fork ── agent: process 1 of its namespace, walls, `start.main`
                      reports its child to the zygote, which adopts it, and ends

Without namespaces the zygote's child is the agent. One child is kept ready for the next run, with the limits of the last one.
When the host closes its socket, or dies, the zygote ends. Every process of its namespace ends with it; without a namespace,
every process that it started.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sandbox.child import birth, refusals
from sandbox.child.scratch import remove_folder
from sandbox.child.walls import landlock, rlimits, seccomp, walls


@dataclass(slots=True)
class _Child:
    """A child from its fork to its end."""

    number: int
    scratch_bytes: int
    waiting: socket.socket | None
    """The socket on which it waits for its run; closed once it has a run and its pid is known."""
    pid: int | None = None
    birth: int | None = None
    """The run's socket to the host, once there is a run."""


class ZygoteLoop:
    """The server of one host. It ends when the host is gone, when it has been idle too long, or after its number of births."""

    def __init__(self, sock: socket.socket, settings: dict[str, Any], folders: dict[str, str]) -> None:
        self._socket = sock
        self._folders = folders
        self._idle_ms = int(settings["idle_s"] * 1000)
        self._births_left: int = settings["births"]
        self._retired = False
        self._count = 0
        self._last_scratch_bytes: int | None = None
        self._spare: _Child | None = None
        self._children: dict[int, _Child] = {}
        self._middles: dict[int, int] = {}
        """Number of the child, by process id of the intermediate process."""
        self._ended: dict[int, tuple[int, float]] = {}
        self._folders_on_disk: set[str] = set()
        """Scratch folders of runs that have none in memory. The host removes them as long as it is alive."""
        self._woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._adoption = birth.Adoption()
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        seccomp.prepared(settings["in_a_room"])
        version = landlock.abi()
        if not version and settings["landlock"] == "required":
            raise OSError("this kernel has no Landlock, or has it turned off")
        self._walls = walls.Walls(
            in_a_room=settings["in_a_room"],
            landlock=version,
            read_only=landlock.open_paths((*settings["read_only"], "/dev/urandom")),
            read_write=landlock.open_paths(("/dev/null", "/dev/zero")),
            memory_bytes=rlimits.memory_in_use(),
            left_out=frozenset(settings["left_out"]),
        )

    def serve(self) -> None:
        """Carry out requests until the host is gone or the zygote has retired."""
        poller = select.poll()
        for descriptor in (self._socket.fileno(), self._woken):
            poller.register(descriptor, select.POLLIN)
        while True:
            ready = dict(poller.poll(0))
            if not ready and self._make_spare():
                continue
            ready = ready or dict(poller.poll(self._idle_ms))
            if self._woken in ready:
                self._reap()
            elif not ready and not self._has_runs():
                self._retire()
            events = ready.get(self._socket.fileno(), 0)
            if events & select.POLLIN and not self._retired:
                if not self._receive():
                    return
            elif events & (select.POLLHUP | select.POLLERR):
                return
            if self._retired:
                poller.modify(self._socket, 0)  # the host's end is still reported
                if not self._has_runs():
                    return

    def end_all(self) -> None:
        """Kill the remaining children, and remove the folders that a killed host has left behind.

        If the zygote is process 1 of a namespace, the kernel does so itself.
        """
        for child in self._children.values():
            if child.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
        if self._folders_on_disk:
            with suppress(ChildProcessError):
                while True:
                    os.wait()
        for folder in self._folders_on_disk:
            with suppress(OSError):
                remove_folder(folder)

    def _has_runs(self) -> bool:
        return any(child.birth is not None for child in self._children.values())

    def _retire(self) -> None:
        """Stop taking requests: those already sent are carried out, and further sends by the host fail."""
        self._retired = True
        self._socket.shutdown(socket.SHUT_RD)
        while self._receive():
            pass

    def _receive(self) -> bool:
        """Carry out one request; return False if no more can come."""
        try:
            message, descriptors, _, _ = socket.recv_fds(
                self._socket, birth.MOST_REQUEST_BYTES, birth.DESCRIPTORS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return not self._retired
        if not message:
            return False
        try:
            self._bear(message, descriptors)
        finally:
            for descriptor in descriptors[:-1]:
                os.close(descriptor)
        self._births_left -= 1
        if self._births_left <= 0 and not self._retired:
            self._retire()
        return True

    def _bear(self, message: bytes, descriptors: list[int]) -> None:
        """Hand a run to the waiting child, or to a new one if there is none or its scratch size differs."""
        request = json.loads(message)
        scratch_bytes = self._last_scratch_bytes = request["limits"]["scratch_bytes"]
        if not self._walls.in_a_room:
            self._folders_on_disk = set(filter(os.path.exists, self._folders_on_disk)) | {request["scratch"]}
        child, self._spare = self._spare, None
        if child is not None and child.scratch_bytes != scratch_bytes:
            self._close_waiting(child)
            child = None
        try:
            child = child or self._make_child(scratch_bytes)
        except OSError as error:
            birth.say(descriptors[-1], failed=f"fork: {error.strerror}")
            os.close(descriptors[-1])
            return
        child.birth = descriptors[-1]
        assert child.waiting is not None
        with suppress(OSError):  # the child has failed; `_reap` finds out
            socket.send_fds(child.waiting, [message], descriptors)
        if child.pid is not None:
            self._close_waiting(child)

    def _make_spare(self) -> bool:
        """Make a child for the next run, unless there is one or there has been no run yet."""
        if self._spare is not None or self._last_scratch_bytes is None or self._retired:
            return False
        with suppress(OSError):
            self._spare = self._make_child(self._last_scratch_bytes)
        return self._spare is not None

    def _make_child(self, scratch_bytes: int) -> _Child:
        self._count += 1
        number = self._adoption.number = self._count
        waiting, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            pid = os.fork()
            if pid == 0:
                birth.be_born(theirs, self._walls, scratch_bytes, self._adoption, self._folders)
        child = self._children[number] = _Child(number, scratch_bytes, waiting)
        if self._walls.in_a_room:
            self._middles[pid] = number
        else:
            child.pid = pid
        return child

    def _close_waiting(self, child: _Child) -> None:
        if child.waiting is not None:
            child.waiting.close()
            child.waiting = None

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
        for pid in [pid for pid in self._ended if pid in self._middles]:
            del self._ended[pid]
            child = self._children.get(self._middles.pop(pid))
            if child is not None and child.pid is None:
                self._end(child, failed=self._reason(child))
        by_pid = {child.pid: child for child in self._children.values()}
        for pid in [pid for pid in self._ended if pid in by_pid]:
            status, cpu_s = self._ended.pop(pid)
            child = by_pid[pid]
            if child.waiting is not None and (reason := self._reason(child)):
                self._end(child, failed=reason)
            else:
                self._end(child, code=os.waitstatus_to_exitcode(status), cpu_s=cpu_s)

    def _learn_adoptions(self) -> None:
        """Record the reported children. An intermediate process reports before it ends, so before the zygote adopts its child."""
        for number, pid in self._adoption.heard():
            child = self._children[number]
            child.pid = pid
            if child.birth is not None:
                self._close_waiting(child)

    def _reason(self, child: _Child) -> str:
        """Return the reason that a waiting child gave for not becoming an agent."""
        for _ in range(2):  # the first `recv` may fail because the child ended without reading its run
            if child.waiting is not None:
                with suppress(OSError):
                    return child.waiting.recv(4096, socket.MSG_DONTWAIT).decode(errors="replace")
        return ""

    def _end(self, child: _Child, **what: Any) -> None:
        """Forget a child that has ended, and tell the host if it had a run."""
        del self._children[child.number]
        self._close_waiting(child)
        if child is self._spare:
            self._spare = None
            self._last_scratch_bytes = None  # do not retry forever if it cannot work
        if child.birth is not None:
            birth.say(child.birth, **what)
            os.close(child.birth)


def _check_room(shown: dict[str, list[str]]) -> None:
    """Raise `OSError` if a folder of the room shows anything else than it should."""
    for folder, names in shown.items():
        others = set(os.listdir(folder)).difference(names)  # noqa: PTH208
        if others:
            raise OSError(f"the room shows {sorted(others)[:3]} in {folder}, which should not be there")


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
    if not settings["in_a_room"]:
        import mimetypes

        mimetypes.knownfiles.clear()  # it reads the files that exist; these exist here, but may not be read
    _check_room(settings["shown"])
    if "seccomp" not in settings["left_out"]:
        refusals.explain()
    zygote = ZygoteLoop(sock, settings, folders)
    gc.collect()
    gc.freeze()
    pidfd = os.pidfd_open(os.getpid())
    birth.say(descriptor, pidfd, ready=True)
    os.close(pidfd)
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(0, stream)
    try:
        zygote.serve()
    finally:
        zygote.end_all()
        os._exit(0)
