"""`sandbox doctor`: test which layers and tiers of isolation this system offers, and report them."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field

from sandbox.isolation import layout as isolation_layout
from sandbox.isolation import zygotes
from sandbox.isolation.advice import advice, surroundings
from sandbox.isolation.recipes import recipes
from sandbox.isolation.tiers import TIERS
from sandbox.isolation.zygote import ZygoteFailed

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The test of one layer, or of one way to start a tier: whether it works, and the evidence."""

    name: str
    works: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Report:
    """The report of `sandbox doctor`."""

    system: str
    layers: list[Finding] = field(default_factory=list)
    tiers: list[Finding] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    @property
    def tier(self) -> str:
        """The tier that runs get on this system, or ``none``."""
        return next((tier for tier in TIERS if any(one.works for one in self.tiers if one.name == tier)), "none")


def examine() -> Report:
    """Test every layer and tier, which takes about a second, and return the report."""
    layers = [*_layers(), _bubblewrap()]
    tiers = [finding for tier in TIERS for finding in _tier(tier)]
    found = Report(f"{platform.system()} {platform.release()} {platform.machine()}", layers, tiers)
    works = {one.name for one in layers if one.works}
    found.advice.extend(advice(found.tier, works, surroundings()))
    return found


def text(report: Report) -> str:
    """Return the report as text."""
    lines = [f"Isolation: {report.tier}  ({report.system})", "", "Layers, each tested separately:"]
    lines += [_line(one) for one in report.layers]
    lines += ["", "Tiers, each tested with a trial run that checks every layer:"]
    lines += [_line(one) for one in report.tiers]
    if report.advice:
        lines += ["", "To get a better tier:", *(f"  - {one}" for one in report.advice)]
    return "\n".join(lines) + "\n"


def as_json(report: Report) -> str:
    """Return the report as JSON."""
    return json.dumps({"isolation": report.tier, **asdict(report)}) + "\n"


def _line(one: Finding) -> str:
    return f"  {'yes' if one.works else 'no ':3}  {one.name:20} {one.seen}"


def _layers() -> list[Finding]:
    if not sys.platform.startswith("linux"):
        return []
    layout = isolation_layout.in_place()
    done = subprocess.run(
        [*layout.command, "probe"], env=layout.environment, capture_output=True, timeout=_TIMEOUT_S, check=False
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode(errors="replace").strip()
        return [Finding("layers", False, said.splitlines()[-1] if said else f"the test ended with {done.returncode}")]
    return [Finding(name, works, seen) for name, (works, seen) in found.items()]


def _bubblewrap() -> Finding:
    path = shutil.which("bwrap")
    if not path:
        return Finding("bubblewrap", False, "bwrap is not on the PATH")
    command = [path, "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "true"]
    done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode == 0:
        return Finding("bubblewrap", True, f"{path} started a process in new namespaces")
    said = done.stderr.decode(errors="replace").strip()
    return Finding("bubblewrap", False, said.splitlines()[-1] if said else f"{path} ended with code {done.returncode}")


def _tier(tier: str) -> list[Finding]:
    """Try the ways to start a tier until one works."""
    found = []
    for recipe in recipes(tier):
        try:
            zygotes.try_out(recipe)
        except ZygoteFailed as error:
            found.append(Finding(tier, False, f"{recipe.way}: {error}"))
        else:
            return [*found, Finding(tier, True, recipe.way)]
    return found or [Finding(tier, False, "not available on this system")]
