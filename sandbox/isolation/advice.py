"""Advice on what to install or allow for a better tier of isolation."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NAMESPACES = frozenset({"user namespaces", "mount namespaces", "process namespaces", "network namespaces"})

_INSTALL = {
    "debian": "apt-get install bubblewrap",
    "ubuntu": "apt-get install bubblewrap",
    "fedora": "dnf install bubblewrap",
    "rhel": "dnf install bubblewrap",
    "alpine": "apk add bubblewrap",
    "arch": "pacman -S bubblewrap",
    "suse": "zypper install bubblewrap",
}
_APPARMOR = (
    "AppArmor allows user namespaces only to programs with a profile (Ubuntu 23.10 and later): set"
    " `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or give bwrap and Python profiles that allow `userns`."
)
_DOCKER = (
    "Docker's default profile forbids new namespaces: run with `--security-opt seccomp=unconfined --security-opt"
    " apparmor=unconfined --security-opt systempaths=unconfined`, or stay with the tier `restricted`. These options isolate"
    " agents better, but the container itself less; `restricted` needs no options."
)
_KUBERNETES = (
    "The pod's profile forbids new namespaces: set `securityContext: {seccompProfile: {type: Unconfined},"
    " appArmorProfile: {type: Unconfined}, procMount: Unmasked}` with `hostUsers: false` in the pod, or stay with the tier"
    " `restricted`, which needs no settings."
)
_MACOS = (
    "macOS offers nothing that contains hostile code: no namespaces, no Landlock and no seccomp. Run your"
    " host in a Linux container or virtual machine (Docker Desktop, Lima, OrbStack: tier `restricted` or better), or pass"
    ' isolation="unsafe-process" for agents that you trust as much as your own code.'
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Facts about the system on which the advice depends."""

    platform: str
    distributions: tuple[str, ...] = ()
    container: str = ""
    """``docker``, ``kubernetes`` or empty."""
    has_bubblewrap: bool = False
    apparmor_restricts: bool = False
    clone_forbidden: bool = False
    no_user_namespaces: bool = False


def surroundings() -> Surroundings:
    """Return the facts about this system."""
    container = "docker" if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() else ""
    return Surroundings(
        platform=sys.platform,
        distributions=_distributions(),
        container="kubernetes" if os.environ.get("KUBERNETES_SERVICE_HOST") else container,
        has_bubblewrap=shutil.which("bwrap") is not None,
        apparmor_restricts=_sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1",
        clone_forbidden=_sysctl("kernel/unprivileged_userns_clone") == "0",
        no_user_namespaces=_sysctl("user/max_user_namespaces") == "0",
    )


def advice(tier: str, works: set[str], where: Surroundings) -> list[str]:
    """Return what to do to get a better tier, one text for each measure; empty for the tier `full`."""
    if tier == "full":
        return []
    if where.platform == "darwin":
        return [_MACOS]
    if not where.platform.startswith("linux"):
        return ["Agents can be isolated on Linux only: run your host in a Linux virtual machine or container."]
    said = []
    if not works >= _NAMESPACES:
        said += _about_namespaces(where)
    if not where.has_bubblewrap:
        said.append(f"Install bubblewrap for the tier `full`: `{_install(where)}`.")
    if "Landlock" not in works:
        said.append("Landlock is missing: it needs Linux 5.13 or later and `landlock` in the kernel parameter `lsm=`.")
    if "seccomp" not in works:
        said.append("seccomp is missing: it needs a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64.")
    return said


def _about_namespaces(where: Surroundings) -> list[str]:
    said = []
    if where.apparmor_restricts:
        said.append(_APPARMOR)
    if where.clone_forbidden:
        said.append("Only root may create user namespaces here: set `sysctl kernel.unprivileged_userns_clone=1`.")
    if where.no_user_namespaces:
        said.append("User namespaces are turned off: set `sysctl user.max_user_namespaces=15000`.")
    if where.container:
        said.append(_KUBERNETES if where.container == "kubernetes" else _DOCKER)
    return said or ["New namespaces are forbidden here by the profile of a container or a service, or by the kernel."]


def _install(where: Surroundings) -> str:
    return next((_INSTALL[name] for name in where.distributions if name in _INSTALL), "apt-get install bubblewrap")


def _distributions() -> tuple[str, ...]:
    """Return the ids of this distribution and of those that it derives from."""
    found: dict[str, str] = {}
    with suppress(OSError):
        found = platform.freedesktop_os_release()
    return tuple(f"{found.get('ID', '')} {found.get('ID_LIKE', '')}".split())


def _sysctl(name: str) -> str:
    with suppress(OSError):
        return Path("/proc/sys", name).read_text().strip()
    return ""
