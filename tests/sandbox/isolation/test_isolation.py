"""The choice of a tier, the error if there is none, and the detection of a missing wall."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox import isolation
from sandbox.isolation import doctor as isolation_doctor
from sandbox.isolation.advice import Surroundings, advice
from sandbox.isolation.recipes import recipes
from sandbox.isolation.zygote import Zygote, ZygoteFailed
from sandbox.isolation.zygotes import trial

ROOT = Path(sandbox.__file__).parent.parent
AGENT = "def run(): return {}\n"

# Takes layers of isolation away from a host: these system calls fail in the program that it starts.
JAIL = """
import os, struct, sys
from sandbox.child.walls import kernel
numbers = {"unshare": (272, 97), "landlock": (444, 444), "seccomp": (157, 167)}
column = 0 if kernel.machine() == "x86_64" else 1
def instruction(code, value, true=0, false=0): return struct.pack("=HBBI", code, true, false, value)
program = instruction(0x20, 0)
for name in sys.argv[1].split(","):
    if name == "seccomp":  # prctl(PR_SET_SECCOMP)
        program += instruction(0x15, numbers[name][column], 0, 4) + instruction(0x20, 16) + instruction(0x15, 22, 0, 1)
        program += instruction(6, 0x50001) + instruction(0x20, 0)
    else:
        program += instruction(0x15, numbers[name][column], 0, 1) + instruction(6, 0x50026)
kernel.prctl(38, 1, "no_new_privs")
kernel.set_seccomp_filter(program + instruction(6, 0x7FFF0000))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def without(layers: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python as on a system that lacks layers of isolation."""
    command = [sys.executable, "-c", JAIL, layers, *arguments]
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=50, check=False)


def doctor(layers: str) -> dict[str, Any]:
    done = without(layers, "-c", "from sandbox.cli import main; main()", "doctor", "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (found["isolation"] == "none"), done.stderr
    return found


@pytest.mark.parametrize(
    ("layers", "tier", "missing"),
    [
        ("unshare", "restricted", {"user namespaces", "mount namespaces", "process namespaces", "network namespaces"}),
        ("landlock", "namespaces", {"Landlock"}),
        ("seccomp", "none", {"seccomp"}),
        ("unshare,landlock", "none", {"user namespaces", "Landlock"}),
    ],
)
def test_doctor_reports_missing_layers_and_advice(layers: str, tier: str, missing: set[str]) -> None:
    report = doctor(layers)
    assert report["isolation"] == tier
    assert missing <= {one["name"] for one in report["layers"] if not one["works"]}
    assert report["advice"]


def test_doctor_on_this_machine() -> None:
    report = isolation_doctor.examine()
    assert report.tier == isolation.available()
    assert f"Isolation: {report.tier}" in isolation_doctor.text(report)
    assert report.advice == [] or report.tier != "full"


def test_without_any_tier_agents_are_refused(server_url: str) -> None:
    code = (
        "import sandbox\n"
        f"for isolation in (None, 'full', 'unsafe-process'):\n"
        f"    try: print(sandbox.run({AGENT!r}, {{}}, user='u', url={server_url!r}, isolation=isolation).isolation)\n"
        "    except sandbox.IsolationUnavailable as error: print(sorted(error.reasons)[0], '|', error)\n"
    )
    done = without("unshare,landlock", "-c", code, SANDBOX_ISOLATION="")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("full (bubblewrap")
    assert "No isolation for agents is available" in lines[0]
    assert "Run `sandbox doctor` for details" in lines[0]
    assert "isolation='unsafe-process'" in lines[0]
    assert "No isolation 'full' is available" in lines[1]
    assert lines[2] == "unsafe-process"


@pytest.mark.parametrize("tier", isolation.TIERS)
def test_standard_library_works_in_every_tier(run: Any, tier: str) -> None:
    """Common modules work, and so do the replacements in `docs/sandbox.md` for those that do not."""
    result = run(
        """
        import mimetypes, pathlib, random, shutil, sqlite3, tarfile, tempfile, zipfile, zoneinfo
        from concurrent.futures import ThreadPoolExecutor

        def run():
            folder = pathlib.Path(tempfile.mkdtemp())
            one, other = folder / "one.txt", folder / "other.txt"
            one.write_text("text")
            shutil.copyfile(one, other)
            with zipfile.ZipFile(folder / "z.zip", "w") as archive:
                archive.write(one, "one.txt")
            with tarfile.open(folder / "t.tar.gz", "w:gz") as archive:
                archive.add(one, "one.txt")
            with tarfile.open(folder / "t.tar.gz") as archive:
                archive.extractall(folder / "unpacked", filter="data")
            with sqlite3.connect(folder / "db") as database:
                database.execute("create table t (a)")
                database.execute("insert into t values (1)")
            with ThreadPoolExecutor(4) as pool, open("/dev/urandom", "rb") as noise:
                return {
                    "type": mimetypes.guess_type("page.html")[0],
                    "as_uri": __import__("urllib.request").request.urlopen(one.as_uri()).read().decode(),
                    "copy": other.read_text() + (folder / "unpacked" / "one.txt").read_text(),
                    "zip": zipfile.ZipFile(folder / "z.zip").namelist(),
                    "rows": database.execute("select a from t").fetchall(),
                    "threads": sum(pool.map(len, ["a", "bb"])),
                    "noise": len(noise.read(4)),
                    "zone": str(zoneinfo.ZoneInfo("UTC")),
                }
        """,
        isolation=tier,
    )
    assert result.check() == {
        "type": "text/html",
        "as_uri": "text",
        "copy": "texttext",
        "zip": ["one.txt"],
        "rows": [[1]],
        "threads": 3,
        "noise": 4,
        "zone": "UTC",
    }


@pytest.mark.parametrize("tier", isolation.TIERS)
def test_tier_can_be_chosen(run: Any, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(AGENT, isolation=tier).isolation == tier
    monkeypatch.setenv(isolation.ENVIRONMENT, tier)
    assert run(AGENT).isolation == tier
    assert run(AGENT, isolation=isolation.UNSAFE).isolation == isolation.UNSAFE


@pytest.mark.parametrize("wrong", ["none", "FULL", "", 5, True, b"full"])
def test_wrong_tier_is_refused(run: Any, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(sandbox.InvalidInput, match="isolation"):
        run(AGENT, isolation=wrong)
    if wrong and isinstance(wrong, str):
        monkeypatch.setenv(isolation.ENVIRONMENT, wrong)
        with pytest.raises(sandbox.InvalidInput, match="isolation"):
            run(AGENT)


@pytest.mark.parametrize("tier", isolation.TIERS)
@pytest.mark.parametrize("wall", ["capabilities", "landlock", "seccomp"])
def test_missing_layer_is_detected_before_the_agent_starts(tier: str, wall: str) -> None:
    recipe = list(recipes(tier))[-1]
    zygote = Zygote(recipe, left_out=[wall])
    try:
        if wall == "capabilities" and tier == "restricted" and os.geteuid():
            trial(zygote)  # there are no capabilities to give up
        else:
            with pytest.raises(ZygoteFailed, match=f"is not isolated: {wall}.* failed its test"):
                trial(zygote)
    finally:
        zygote.supersede()
    assert zygote.is_closed


def test_failure_before_the_fork_reaches_the_host() -> None:
    class Impossible(sandbox.Limits):
        def for_the_kernel(self) -> dict[str, int]:
            return {**super().for_the_kernel(), "scratch_bytes": -1}

    zygote = Zygote(list(recipes("full"))[-1])
    try:
        with zygote.bear(Impossible()) as child:
            for _ in range(2):
                with pytest.raises(sandbox.StartFailed, match=r"full.*mount on /tmp"):
                    assert child.pidfd
        trial(zygote)
    finally:
        zygote.supersede()


@pytest.mark.parametrize(
    ("where", "works", "said"),
    [
        (Surroundings("darwin"), set(), "macOS"),
        (Surroundings("win32"), set(), "Linux only"),
        (
            Surroundings("linux", apparmor_restricts=True),
            {"Landlock", "seccomp"},
            "apparmor_restrict_unprivileged_userns=0",
        ),
        (Surroundings("linux", clone_forbidden=True), {"Landlock", "seccomp"}, "unprivileged_userns_clone=1"),
        (Surroundings("linux", no_user_namespaces=True), {"Landlock", "seccomp"}, "max_user_namespaces"),
        (Surroundings("linux", container="docker"), {"Landlock", "seccomp"}, "seccomp=unconfined"),
        (Surroundings("linux", container="kubernetes"), {"Landlock", "seccomp"}, "seccompProfile"),
        (Surroundings("linux", ("fedora",)), set(), "dnf install bubblewrap"),
        (Surroundings("linux", ("mint", "ubuntu")), set(), "apt-get install bubblewrap"),
    ],
)
def test_advice(where: Surroundings, works: set[str], said: str) -> None:
    assert said in " ".join(advice("none", works, where))
    assert advice("full", works, where) == []
