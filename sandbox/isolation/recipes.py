"""Recipes: the ways to start a zygote of each tier, best first."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from sandbox.isolation import layout as isolation_layout
from sandbox.isolation.layout import Layout, Pair

UNPRIVILEGED = 65534
"""User and group id of agents in a room; also outside of one if the host is root and can drop its privileges."""

IDLE_S = 300.0
"""Time without a run after which a zygote ends, in seconds; the next run starts another."""
BIRTHS = 200
"""Number of runs after which a zygote is replaced: its runs share its memory layout and hash seed."""

_HEARING_OF_CHILDREN = (
    str(isolation_layout.interpreter()),
    *("-I", "-S", "-c"),
    "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
)
"""Beginning of a command line where the host ignores SIGCHLD: bubblewrap would inherit that, and not end with its child."""

Wrap: TypeAlias = Callable[[Layout, list[str], int], tuple[list[str], dict[str, str]]]
"""A function of a layout, the zygote's command in it and its socket; returns the command line and its environment."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to start a zygote."""

    tier: str
    way: str
    """Description of this way, for `sandbox doctor`."""
    wrap: Wrap
    as_root: bool
    """Whether the zygote is started as root and gives up its rights itself."""
    counts_threads: bool
    """Whether the kernel limits the threads of a run: not for the system's root, and not outside of a user namespace."""
    in_a_room: bool = True

    @property
    def folder_of(self) -> int:
        """User id of the owner of a run's folder on disk, outside of a room."""
        return UNPRIVILEGED if self.as_root else os.geteuid()

    def command(
        self, descriptor: int, packages: tuple[Pair, ...], more: dict[str, Any]
    ) -> tuple[list[str], dict[str, str]]:
        """Return the command line and the environment of a zygote with this socket, for these paths of packages."""
        layout = isolation_layout.in_a_room(packages) if self.in_a_room else isolation_layout.in_place(packages)
        settings = {
            "in_a_room": self.in_a_room,
            "landlock": "wanted" if self.tier == "namespaces" else "required",
            "read_only": layout.read_only,
            "shown": layout.shown() if self.in_a_room else {},
            "uid": UNPRIVILEGED if self.as_root else None,
            "idle_s": IDLE_S,
            "births": BIRTHS,
            "left_out": [],
        }
        zygote = [*layout.command, "zygote", str(descriptor), json.dumps(settings | more)]
        command, environment = self.wrap(layout, zygote, descriptor)
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            command = [*_HEARING_OF_CHILDREN, *command]
        return command, environment


def recipes(tier: str) -> Iterator[Recipe]:
    """Yield the ways to start a zygote of a tier on this system, best first."""
    if not sys.platform.startswith("linux"):
        return
    root = os.geteuid() == 0
    if tier == "full":
        if bwrap := shutil.which("bwrap"):
            if root:
                yield Recipe(
                    "full", "bubblewrap as root, agents as the user nobody", _bubblewrap(bwrap, True), True, True
                )
            yield Recipe("full", "bubblewrap", _bubblewrap(bwrap, False), False, not root)
    elif tier == "namespaces":
        if root:
            yield Recipe("namespaces", "as root, agents as the user nobody", _room(True), True, True)
        yield Recipe("namespaces", "in a user namespace", _room(False), False, not root)
    elif tier == "restricted":
        if root:
            yield Recipe("restricted", "agents as the user nobody", _in_place, True, False, in_a_room=False)
        yield Recipe("restricted", "agents as the host's user", _in_place, False, False, in_a_room=False)


def _bubblewrap(bwrap: str, as_root: bool) -> Wrap:
    def wrap(layout: Layout, zygote: list[str], descriptor: int) -> tuple[list[str], dict[str, str]]:
        arguments = [bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        arguments += ["--new-session", "--as-pid-1", "--clearenv", "--hostname", "agent", "--cap-drop", "ALL"]
        if as_root:
            arguments += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            arguments += ["--unshare-user", "--uid", str(UNPRIVILEGED), "--gid", str(UNPRIVILEGED)]
        for name, value in layout.environment.items():
            arguments += ["--setenv", name, value]
        for folder in layout.folders():
            arguments += ["--dir", folder]  # folders that bubblewrap creates itself are readable only by their owner
        for source, inside in layout.binds:
            arguments += ["--ro-bind", source, inside]
        for text, inside in layout.links:
            arguments += ["--symlink", text, inside]
        for inside in layout.hidden:
            arguments += ["--size", "4096", "--tmpfs", inside, "--remount-ro", inside]
        arguments += ["--proc", "/proc", "--size", "65536", "--tmpfs", "/dev"]
        for name in isolation_layout.DEVICES:
            arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
        arguments += ["--size", "65536", "--tmpfs", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/", "--"]
        return arguments + zygote, {}

    return wrap


def _room(as_root: bool) -> Wrap:
    def wrap(layout: Layout, zygote: list[str], descriptor: int) -> tuple[list[str], dict[str, str]]:
        room = {
            "binds": layout.binds,
            "links": layout.links,
            "hidden": layout.hidden,
            "as_root": as_root,
            "uid": UNPRIVILEGED,
            "descriptor": descriptor,
            "command": zygote,
            "environment": layout.environment,
        }
        return [*isolation_layout.in_place().command, "room", json.dumps(room)], isolation_layout.START_ENVIRONMENT

    return wrap


def _in_place(layout: Layout, zygote: list[str], descriptor: int) -> tuple[list[str], dict[str, str]]:
    return zygote, layout.environment
