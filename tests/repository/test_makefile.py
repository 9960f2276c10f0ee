"""The Makefile sets itself up once, with a Python that is new enough, and reports what is wrong if it cannot.

A shell script stands in for Python: it records its calls, and creates a .venv that contains itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE = shutil.which("make")

FAKE_PYTHON = """#!/bin/sh
case "$*" in
    "-c import sys; "*) exit {too_old} ;;
    "-V") echo "Python {version}" ;;
    "-m venv "*) for folder; do :; done; rm -rf "$folder" && mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python" ;;
esac
echo "$(basename "$0") $*" >> "$LOG"
"""

INTERPRETERS = ("python", "python3", *(f"python3.{minor}" for minor in range(9, 20)))

pytestmark = pytest.mark.skipif(MAKE is None and not os.environ.get("CI"), reason="make is not installed")


class Checkout:
    """A folder with the Makefile; fake Pythons precede the real ones on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a checkout"
        self.folder.mkdir()
        self.log = folder / "log"
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        for name in INTERPRETERS:
            self.add_program(name, "#!/bin/sh\nexit 127\n")

    def add_python(self, name: str, version: str = "3.12.1") -> Path:
        """Put an interpreter on the PATH."""
        too_old = int(tuple(map(int, version.split("."))) < (3, 11))
        return self.add_program(name, FAKE_PYTHON.format(version=version, too_old=too_old))

    def add_program(self, name: str, text: str) -> Path:
        """Put a program on the PATH."""
        program = self.programs / name
        program.write_text(text)
        program.chmod(0o755)
        return program

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run make in the folder."""
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))}
        path = os.pathsep.join([str(self.programs), os.environ["PATH"]])
        return subprocess.run(
            [MAKE or "make", *arguments],
            cwd=self.folder,
            env={**outer, "PATH": path, "LOG": str(self.log), **environment},
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[str]:
        """Return the interpreters' calls since the last time, without probes."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if not re.search(r" (-c|-V)( |$)", line)]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


INSTALL = "python -m pip install --quiet --disable-pip-version-check --editable "


def test_help_is_the_default_and_lists_every_target(checkout: Checkout) -> None:
    listed = checkout.make().stdout
    for target in (
        "help",
        "demo",
        "check",
        "test",
        "lint",
        "format",
        "coverage",
        "bench",
        "bench-quick",
        "docs",
        "clean",
        "distclean",
    ):
        assert re.search(rf"^  make {target} +\S", listed, re.MULTILINE)
    assert checkout.make("help").stdout == listed
    assert not (checkout.folder / ".venv").exists()


def test_demo_installs_once(checkout: Checkout) -> None:
    checkout.add_python("python3")
    done = checkout.make("demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert checkout.calls() == [
        "python3 -m venv --clear .venv",
        f"{INSTALL}.",
        "python examples/demo.py",
    ]
    checkout.make("demo", "ARGS=--files 3")
    assert checkout.calls() == ["python examples/demo.py --files 3"]


def test_demo_uses_the_test_installation(checkout: Checkout) -> None:
    checkout.add_python("python3")
    assert checkout.make("test").returncode == 0
    assert checkout.calls() == [
        "python3 -m venv --clear .venv",
        f"{INSTALL}.[test]",
        "python -m ruff check .",
        "python -m ruff format --check .",
        "python -m mypy",
        "python -m pytest -n 2 --dist loadfile --no-loadscope-reorder",
    ]
    checkout.make("demo")
    assert checkout.calls() == ["python examples/demo.py"]


def test_bench_installs_its_competitors(checkout: Checkout) -> None:
    checkout.add_python("python3")
    assert checkout.make("bench", "ARGS=--only rows").returncode == 0
    assert checkout.calls() == [
        "python3 -m venv --clear .venv",
        f"{INSTALL}.[bench]",
        "python -m benchmarks.full --only rows",
    ]
    checkout.make("bench")
    assert checkout.calls() == ["python -m benchmarks.full"]


def test_docs_installs_what_makes_the_site(checkout: Checkout) -> None:
    checkout.add_python("python3")
    (checkout.folder / "docs").mkdir()
    assert checkout.make("docs").returncode == 0
    assert checkout.calls() == ["python3 -m venv --clear .venv", f"{INSTALL}.[docs]", "python -m docs.site.build"]
    checkout.make("docs")
    assert checkout.calls() == ["python -m docs.site.build"]


@pytest.mark.parametrize("uv", [True, False])
def test_frameworks_have_environments_of_their_own(checkout: Checkout, uv: bool) -> None:
    """They are installed by uv; where that fails, as without the mirror that only pip knows, by pip."""
    checkout.add_python("python3")
    checkout.make("demo")
    for extra in ("integrations", "adk"):
        programs = checkout.folder / ".venv" / extra / "bin"
        programs.mkdir(parents=True)
        shutil.copy(checkout.folder / ".venv/bin/python", programs)
        (programs / "uv").write_text(f'#!/bin/sh\necho "uv $*" >> "$LOG"\nexit {int(not uv)}\n')
        (programs / "uv").chmod(0o755)
    checkout.calls()
    assert checkout.make("test-integrations", "PINNED=1").returncode == 0
    installed = {
        extra: f"--quiet --editable .[{extra},test] --constraint tests/integrations/{extra}.pinned.txt"
        for extra in ("integrations", "adk")
    }
    by_pip = "python -m pip install --disable-pip-version-check"
    others = "--ignore=tests/integrations/test_adk.py -n 2 --dist loadfile"
    assert checkout.calls() == [
        f"uv pip install {installed['integrations']}",
        *([] if uv else [f"{by_pip} {installed['integrations']}"]),
        f"python -m pytest tests/integrations {others}",
        f"uv pip install {installed['adk']}",
        *([] if uv else [f"{by_pip} {installed['adk']}"]),
        "python -m pytest tests/integrations/test_adk.py",
    ]
    checkout.make("test-integrations", "ARGS=-k name")
    calls = checkout.calls()
    assert "uv pip install --quiet --editable .[adk,test] --upgrade" in calls
    assert calls[-1] == "python -m pytest tests/integrations/test_adk.py -k name"


def test_changed_requirements_are_installed(checkout: Checkout) -> None:
    checkout.add_python("python3")
    checkout.make("demo")
    checkout.calls()
    later = (checkout.folder / ".venv/.demo").stat().st_mtime + 10
    os.utime(checkout.folder / "pyproject.toml", (later, later))
    checkout.make("demo")
    assert checkout.calls() == [f"{INSTALL}.", "python examples/demo.py"]


def test_moved_checkout_is_set_up_again(checkout: Checkout) -> None:
    checkout.add_python("python3")
    checkout.make("demo")
    checkout.calls()
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved"))
    checkout.make("demo")
    assert len(checkout.calls()) == 3
    checkout.make("demo")
    assert len(checkout.calls()) == 1


def test_venv_without_its_python_is_recreated(checkout: Checkout) -> None:
    checkout.add_python("python3")
    checkout.make("demo")
    checkout.calls()
    (checkout.folder / ".venv/bin/python").unlink()
    assert checkout.make("demo").returncode == 0
    assert len(checkout.calls()) == 3


def test_packages_of_another_place_are_replaced(checkout: Checkout) -> None:
    checkout.add_python("python3")
    checkout.make("demo")
    checkout.calls()
    python = checkout.folder / ".venv/bin/python"
    found_here = python.read_text()
    python.write_text(found_here.replace('case "$*" in', 'case "$*" in\n    "-I -c import importlib"*) exit 1 ;;'))
    checkout.make("demo")
    assert checkout.calls() == [f"{INSTALL}.", "python examples/demo.py"]
    python.write_text(found_here)
    checkout.make("demo")
    assert checkout.calls() == ["python examples/demo.py"]


def test_environment_that_the_reader_made_is_kept(checkout: Checkout) -> None:
    checkout.add_python("python3")
    checkout.make("demo")
    (checkout.folder / ".venv/.made").unlink()
    mine = checkout.folder / ".venv/pyvenv.cfg"
    mine.write_text("mine")
    checkout.calls()
    assert "Using the .venv that is here, with Python 3.12.1" in checkout.make("demo").stdout
    assert checkout.calls() == ["python -m pip --version", f"{INSTALL}.", "python examples/demo.py"]
    checkout.make("demo")
    assert checkout.calls() == ["python examples/demo.py"]

    (checkout.folder / ".venv/.made").unlink()
    shutil.copy(checkout.add_python("old", "3.9.2"), checkout.folder / ".venv/bin/python")
    done = checkout.make("demo")
    assert "cannot use it: move it away" in done.stderr
    assert mine.read_text() == "mine"


def test_failed_installation_is_repeated(checkout: Checkout) -> None:
    failing = FAKE_PYTHON.replace("case", 'case "$*" in *pip*) echo "no network" >&2; exit 1 ;; esac\ncase', 1)
    checkout.add_program("python3", failing.format(version="3.12.1", too_old=0))
    done = checkout.make("demo")
    assert done.returncode != 0
    assert "no network" in done.stderr
    checkout.add_python("python3")
    shutil.copy(checkout.programs / "python3", checkout.folder / ".venv/bin/python")
    checkout.calls()
    assert checkout.make("demo").returncode == 0
    assert checkout.calls() == [f"{INSTALL}.", "python examples/demo.py"]


def test_finds_another_python_if_python3_is_too_old(checkout: Checkout) -> None:
    checkout.add_python("python3", "3.9.2")
    checkout.add_python("python3.11", "3.11.2")
    assert "Making .venv with Python 3.11.2" in checkout.make("demo").stdout


def test_python_can_be_chosen(checkout: Checkout) -> None:
    checkout.add_python("python3")
    checkout.make("demo")
    checkout.calls()
    other = checkout.add_python("python of mine", "3.13.0")
    assert "Making .venv with Python 3.13.0" in checkout.make("demo", f"PYTHON={other}").stdout
    checkout.calls()
    checkout.make("demo", f"PYTHON={other}")
    checkout.make("demo")
    assert checkout.calls() == ["python examples/demo.py"] * 2
    assert "Making .venv with Python 3.12.1" in checkout.make("demo", PYTHON="python3").stdout


@pytest.mark.parametrize(
    ("installed", "arguments", "sentence"),
    [
        (None, (), "Python 3.11 or later is needed, and none is on the PATH: install one, or "),
        ("3.9.2", (), "Python 3.11 or later is needed, and none is on the PATH (python3 is Python 3.9.2): install"),
        ("3.9.2", ("PYTHON=python3",), "PYTHON=python3 is Python 3.9.2, and Python 3.11 or later is needed."),
        ("3.12.1", ("PYTHON=/no/such",), "PYTHON=/no/such is no Python that can be run."),
    ],
)
def test_missing_python_is_one_message(
    checkout: Checkout, installed: str | None, arguments: tuple[str, ...], sentence: str
) -> None:
    if installed:
        checkout.add_python("python3", installed)
    done = checkout.make("demo", *arguments)
    assert done.returncode != 0
    ours, makes = done.stderr.splitlines()
    assert ours.startswith(sentence)
    assert makes.startswith("make: ***")
    assert not (checkout.folder / ".venv").exists()


def test_python_without_venv_is_reported(checkout: Checkout) -> None:
    text = FAKE_PYTHON.replace("for folder;", "echo 'no ensurepip'; exit 1; for folder;")
    checkout.add_program("python3", text.format(version="3.12.1", too_old=0))
    done = checkout.make("demo")
    assert done.returncode != 0
    assert "no ensurepip" in done.stdout
    assert "apt-get install python3-venv" in done.stderr


def test_only_distclean_removes_the_venv(checkout: Checkout) -> None:
    checkout.add_python("python3")
    checkout.make("demo")
    litter = [".demo", ".bench", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "a package/__pycache__"]
    kept = checkout.folder / ".venv/lib/__pycache__"
    for path in (*(checkout.folder / name for name in litter), kept):
        path.mkdir(parents=True)
    assert checkout.make("clean").returncode == 0
    assert not [name for name in litter if (checkout.folder / name).exists()]
    assert (checkout.folder / "a package").exists()
    assert kept.exists()
    assert checkout.make("distclean").returncode == 0
    assert not (checkout.folder / ".venv").exists()
    assert checkout.make("distclean").returncode == 0


def test_clean_stops_the_server_first(checkout: Checkout) -> None:
    checkout.add_python("python3")
    checkout.make("demo")
    (checkout.folder / ".demo").mkdir()
    checkout.add_program("redis-store", '#!/bin/sh\necho "redis-store $*" >> "$LOG"\nls -d .demo >> "$LOG"\nexit 1\n')
    (checkout.programs / "redis-store").rename(checkout.folder / ".venv/bin/redis-store")
    checkout.calls()
    assert checkout.make("clean").returncode == 0
    assert checkout.calls() == ["redis-store server destroy --data-dir .demo --yes --force", ".demo"]
    assert not (checkout.folder / ".demo").exists()
