"""Layouts: the host files that an agent process can see, and their paths: the interpreter, its library and our modules.

A *room* is a mount namespace of its own that shows only these files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from sandbox.child import boot

CHILD = Path(boot.__file__).parent
PACKAGES = {name: Path(import_module(name).__file__ or "").parent for name in boot.FOLDERS_OF}
"""Folders of the packages that an agent process uses, in the order of the arguments of `boot.py`."""

_FLAGS = ("-I", "-S", "-B", "-u", "-X", "utf8")
_PYTHON, _MODULES, _EXTRA = "/python", "/modules", "/packages"
_SYSTEM = (
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/nix/store",
    "/etc/ld.so.cache",
    "/usr/share/zoneinfo",
)
START_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 1024 * 1024),
}
"""Environment in which the interpreter starts; agents get another.

One arena: each reserves 64 MiB, which the limit counts. Blocks under the first threshold come from the heap, and up to the second
of free memory stays there. Otherwise the batches that a call reads would be mapped anew by each call, at 2 ms for 2 MB.
"""
DEVICES = ("null", "zero", "urandom")
_ALWAYS_SHOWN = ("dev", "proc", "tmp")
_INSTALLED = ("site-packages", "dist-packages", "python*/site-packages", "python*/dist-packages")
_MOST_LIBRARIES = 100
"""Maximum number of shared libraries beside the interpreter shown one by one; if there are more, their folder is shown."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of files as an agent process sees them."""

    command: list[str]
    """Command that starts `boot.py`, without the arguments that select the role of the process."""
    environment: dict[str, str]
    read_only: list[str]
    """Paths that Landlock lets an agent read."""
    binds: tuple[Pair, ...] = ()
    """In a room: paths of the host, each with its path in the room."""
    links: tuple[Pair, ...] = ()
    """In a room: targets of symbolic links, each with the path of the link."""
    hidden: tuple[str, ...] = ()
    """In a room: folders that appear empty."""

    def folders(self) -> list[str]:
        """Return the parent folders of all files shown in a room, outer ones first."""
        inside = (path for _, path in (*self.binds, *self.links))
        return sorted({str(parent) for path in inside for parent in Path(path).parents} - {"/"})

    def shown(self) -> dict[str, list[str]]:
        """Return the names in each folder of a room that has been made for it, and in the hidden ones: everything it may show."""
        bound = [Path(path) for _, path in self.binds]
        made = [folder for folder in map(Path, ("/", *self.folders())) if not any(map(folder.is_relative_to, bound))]
        inside = [*bound, *(Path(path) for _, path in self.links), *made]
        names = {str(folder): sorted({path.name for path in inside if path.parent == folder} - {""}) for folder in made}
        names["/"] += _ALWAYS_SHOWN
        return names | {"/dev": list(DEVICES)} | {folder: [] for folder in self.hidden}


def in_place(packages: Sequence[Pair] = ()) -> Layout:
    """Return the layout without a room: every file has the path that it has on the host."""
    python = interpreter()
    read_only = [_library(), *_SYSTEM, *map(str, _libraries(python)), *map(str, _our_files())]
    read_only += [path for path, _ in packages]
    return Layout(_command(str(python), map(str, PACKAGES.values())), dict(START_ENVIRONMENT), read_only)


def in_a_room(packages: Sequence[Pair] = ()) -> Layout:
    """Return the layout of a room. The interpreter is in `/python`, so that its path on the host does not show."""
    python, library = interpreter(), Path(_library())
    libraries = _libraries(python)
    binds = [(str(python), f"{_PYTHON}/bin/{python.name}")]
    binds += [(str(one), f"{_PYTHON}/lib/{one.name}" if one.is_file() else f"{_PYTHON}/lib") for one in libraries]
    if library.parent not in libraries:
        binds.append((str(library), f"{_PYTHON}/{library.parent.name}/{library.name}"))
    links = [(os.readlink(path), path) for path in _SYSTEM if Path(path).is_symlink()]  # noqa: PTH115  # as it is written
    binds += [(path, path) for path in _SYSTEM if Path(path).exists() and not Path(path).is_symlink()]
    hidden = [
        f"{inside}/{found.relative_to(source)}"
        for source, inside in binds
        for pattern in _INSTALLED
        for found in Path(source).glob(pattern)
    ]
    binds += [(str(file), f"{_MODULES}/{_path_in_package(file)}") for file in _our_files()]
    binds += packages
    return Layout(
        command=_command(f"{_PYTHON}/bin/{python.name}", (f"{_MODULES}/{name}" for name in PACKAGES)),
        environment=START_ENVIRONMENT | ({"LD_LIBRARY_PATH": f"{_PYTHON}/lib"} if libraries else {}),
        read_only=[_PYTHON, _MODULES, _EXTRA, *_SYSTEM],
        binds=tuple(binds),
        links=tuple(links),
        hidden=tuple(hidden),
    )


def package_in_a_room(site: int, path: str) -> str:
    """Return the path in a room of an installed package's file or folder, given the number of the folder it is installed in."""
    return f"{_EXTRA}/{site}/{path}"


def interpreter() -> Path:
    """Return the path of the running Python interpreter itself, not of a virtual environment's link to it."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def _command(python: str, folders: Iterable[str]) -> list[str]:
    names = list(folders)
    return [python, *_FLAGS, f"{names[0]}/child/boot.py", *names]


def _library() -> str:
    return str(Path(os.__file__).resolve().parent)


def _libraries(python: Path) -> list[Path]:
    """Return the shared libraries beside the interpreter: its own and those of its modules."""
    folder = python.parent.parent / "lib"
    if folder == Path("/usr/lib"):
        return []
    found = [file for file in folder.glob("*.so*") if file.is_file()]
    return found if len(found) <= _MOST_LIBRARIES else [folder]


def _our_files() -> list[Path]:
    """Return the files and folders of the modules in `boot.SHARED`."""
    modules = [
        PACKAGES[top].joinpath(*below.split("."), f"{name}.py")
        for package, names in boot.SHARED.items()
        for top, _, below in (package.partition("."),)
        if top in ("redis_store", "sandbox") and not below.startswith("child")
        for name in names
    ]
    others = [find_spec(f"{package}.{name}") for package in boot.OF_OTHERS for name in boot.SHARED[package]]
    return [CHILD, *modules, *(Path(one.origin) for one in others if one is not None and one.origin)]


def _path_in_package(file: Path) -> str:
    package = next(name for name, folder in PACKAGES.items() if file.is_relative_to(folder))
    return str(Path(package) / file.relative_to(PACKAGES[package]))
