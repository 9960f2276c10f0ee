"""Recipes: the ways to start a zygote of each tier, best first."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sandbox.isolation import layout as isolation_layout
from sandbox.isolation.layout import Layout

UNPRIVILEGED = 65534
"""User and group id of agents in a room; also outside of one if the host is root and can drop its privileges."""

IDLE_S = 300.0
"""Time without a run after which a zygote ends, in seconds; the next run starts another."""
BIRTHS = 200
"""Number of runs after which a zygote is replaced: its runs share its memory layout and hash seed."""

_ROOM_FLAGS = ("-I", "-S", "-B", "-X", "utf8")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to start a zygote."""

    tier: str
    way: str
    """Description of this way, for `sandbox doctor`."""
    command: Callable[[int, tuple[str, ...], dict[str, Any]], tuple[list[str], dict[str, str]]]
    """Function of the zygote's socket, paths of packages and further settings; returns command line and environment."""
    counts_threads: bool
    """Whether the kernel limits the threads of a run: not for the system's root, and not outside of a user namespace."""
    in_a_room: bool = True
    folder_of: int | None = None
    """User id of the required owner of a run's folder on disk, outside of a room."""


def recipes(tier: str) -> Iterator[Recipe]:
    """Yield the ways to start a zygote of a tier on this system, best first."""
    if not sys.platform.startswith("linux"):
        return
    root = os.geteuid() == 0
    if tier == "full":
        bwrap = shutil.which("bwrap")
        if bwrap:
            if root:
                yield Recipe("full", "bubblewrap as root, agents as the user nobody", _bubblewrap(bwrap, True), True)
            yield Recipe("full", "bubblewrap", _bubblewrap(bwrap, False), not root)
    elif tier == "namespaces":
        if root:
            yield Recipe("namespaces", "as root, agents as the user nobody", _room(True), True)
        yield Recipe("namespaces", "in a user namespace", _room(False), not root)
    elif tier == "restricted":
        if root:
            yield Recipe("restricted", "agents as the user nobody", _in_place(UNPRIVILEGED), False, False, UNPRIVILEGED)
        yield Recipe("restricted", "agents as the host's user", _in_place(None), False, False, os.geteuid())


def _settings(layout: Layout, in_a_room: bool, landlock: str, uid: int | None, more: dict[str, Any]) -> str:
    settings = {
        "in_a_room": in_a_room,
        "landlock": landlock,
        "read_only": layout.read_only,
        "uid": uid,
        "idle_s": IDLE_S,
        "births": BIRTHS,
        "left_out": [],
    }
    return json.dumps(settings | more)


def _bubblewrap(bwrap: str, as_root: bool) -> Any:
    def command(descriptor: int, packages: tuple[str, ...], more: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
        layout = isolation_layout.in_a_room(packages)
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
        for name in ("null", "zero", "urandom"):
            arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
        arguments += ["--size", "65536", "--tmpfs", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/", "--"]
        uid = UNPRIVILEGED if as_root else None
        role = ["zygote", str(descriptor), _settings(layout, True, "required", uid, more)]
        return [*arguments, *layout.command, *role], {}

    return command


def _room(as_root: bool) -> Any:
    def command(descriptor: int, packages: tuple[str, ...], more: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
        layout = isolation_layout.in_a_room(packages)
        uid = UNPRIVILEGED if as_root else None
        role = ["zygote", str(descriptor), _settings(layout, True, "wanted", uid, more)]
        room = {
            "binds": layout.binds,
            "links": layout.links,
            "hidden": layout.hidden,
            "modules": str(isolation_layout.WALLS),
            "as_root": as_root,
            "uid": UNPRIVILEGED,
            "descriptors": [descriptor],
            "command": layout.command + role,
            "environment": layout.environment,
        }
        python, script = str(isolation_layout.interpreter()), str(isolation_layout.WALLS / "room.py")
        return [python, *_ROOM_FLAGS, script, json.dumps(room)], {"LANG": "C.UTF-8"}

    return command


def _in_place(uid: int | None) -> Any:
    def command(descriptor: int, packages: tuple[str, ...], more: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
        layout = isolation_layout.in_place(packages)
        role = ["zygote", str(descriptor), _settings(layout, False, "required", uid, more)]
        return [*layout.command, *role], layout.environment

    return command
