"""Installed packages of the host's environment that an agent may import: which of their files it can see.

An agent sees files that a named distribution owns: those that it lists and no other one does, or that it lists with their
checksum. It sees nothing else that is beside them. They are shown as whole folders where a folder holds nothing else, else one
by one.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.errors import InvalidInput, InvalidType
from sandbox.given.distributions import Installed, list_installed, listed_by, named, normal, providers
from sandbox.given.functions import check_name_is_str
from sandbox.isolation.layout import Pair, package_in_a_room

# `packaging` is imported where it is used: it takes 10 ms, and most runs have no packages.
if TYPE_CHECKING:
    from packaging.requirements import Requirement

MOST_PATHS = 300
"""Maximum number of files and folders of all packages of a run; an isolation takes time and a descriptor for each."""

_SHOWN_METADATA = ("METADATA", "PKG-INFO", "entry_points.txt", "top_level.txt")
"""Not RECORD and `direct_url.json`, which tell about the host."""
_SUFFIXES = (".py", *EXTENSION_SUFFIXES)


_OURS = ("redis_store", "sandbox")
"""Our own packages, parts of which every agent has."""


@dataclass(slots=True)
class ModuleFiles:
    """The file of a module, and the folders of a package; a namespace package has no file."""

    file: Pair | None = None
    folders: list[Pair] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Packages:
    """The packages selected by `packages=`. Each path is that of the host and that in a room."""

    modules: dict[str, ModuleFiles] = field(default_factory=dict)
    """The modules that are not found through the folder of their package, by their full name."""
    metadata: list[Pair] = field(default_factory=list)
    """The ``*.dist-info`` folders, for `importlib.metadata`."""
    paths: list[Pair] = field(default_factory=list)
    """All files and folders of the packages, which the isolation makes readable."""

    def described(self, in_a_room: bool) -> bytes:
        """Return the modules and metadata as seen by the agent process, as JSON; in a room the paths differ from the host's."""
        seen = int(in_a_room)
        modules = {
            name: [None if one.file is None else one.file[seen], [folder[seen] for folder in one.folders]]
            for name, one in self.modules.items()
        }
        return json.dumps({"modules": modules, "metadata": [pair[seen] for pair in self.metadata]}).encode()


def find_packages(names: object) -> Packages:
    """Return the installed packages of these names, with their installed dependencies."""
    if names is None:
        return Packages()
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise InvalidType(f"packages must be a list of names, not {type(names).__name__}: put a single one in a list.")
    known = list_installed()
    found: dict[str, Installed] = {}
    asked = []
    for name in names:
        check_name_is_str("package", name)
        wanted = _requirement(name)
        if wanted is None and all(part.isidentifier() for part in name.split(".")):
            extras: set[str] = set()  # a module whose name no package can have, such as '_pytest'
            asked.append(one := _imported(name, known, is_module=True))
        elif wanted is None or wanted.specifier or wanted.marker or wanted.url:
            raise InvalidInput(f"{name!r} is not a package name: write it as in 'numpy' or 'httpx[http2]'.")
        else:
            extras = wanted.extras
            asked.append(one := named(wanted.name, known) or _imported(wanted.name, known))
        _collect(extras, one, found, known)
    chosen = list(dict.fromkeys(found.values()))
    for one in chosen:
        _check_is_there(one)
    packages = _Layer(chosen, known).packages()
    for one in asked:
        _check_not_only_others(one, chosen, known, packages)
    if len(packages.paths) > MOST_PATHS:
        raise InvalidInput(
            f"The packages have {len(packages.paths):,} files and folders among those of others, and at most"
            f" {MOST_PATHS:,} can be shown one by one: install them into an environment of their own."
        )
    return packages


def _requirement(text: str) -> Requirement | None:
    from packaging.requirements import InvalidRequirement, Requirement

    with suppress(InvalidRequirement):
        return Requirement(text)
    return None


def _imported(name: str, known: list[Installed], *, is_module: bool = False) -> Installed:
    """Return the only distribution that has a module of this name; `is_module` tells that no distribution has the name."""
    if name in sys.stdlib_module_names:
        raise InvalidInput(f"{name!r} is a module of the standard library, which agents have: remove it from packages.")
    if name in _OURS:
        raise InvalidInput(
            f"{name!r} is there in every agent, with what agents may use of it: remove it from packages."
        )
    found = providers(name, known)
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(sorted(repr(normal(one.name)) for one in found)[:10])
        raise InvalidInput(
            f"The module {name!r} is in {len(found)} packages of the host's environment: name the one that is meant:"
            f" {several}."
        )
    if is_module:
        raise InvalidInput(
            f"No package in the host's environment has a module {name!r}: install the one that has it, or remove it from"
            " packages."
        )
    near = difflib.get_close_matches(normal(name), sorted({normal(one.name) for one in known}), n=3)
    meant = f"did you mean {' or '.join(map(repr, near))}? If not, " if near else ""
    raise InvalidInput(
        f"The package {name!r} is not installed in the host's environment, by its name in the package index or by the name"
        f" of a module: {meant}run `pip install {name}`, or remove it from packages."
    )


def _collect(extras: set[str], one: Installed, found: dict[str, Installed], known: list[Installed]) -> None:
    """Add a distribution and its requirements. Skip a requirement that is not installed: this environment works without it."""
    key = f"{normal(one.name)}{sorted(extras)}"
    if key in found:
        return
    found[key] = one
    for wanted in filter(None, map(_requirement, one.metadata.requires or ())):
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            needed = named(wanted.name, known)
            if needed is not None:
                _collect(wanted.extras, needed, found, known)


def _check_is_there(one: Installed) -> None:
    """Raise `InvalidInput` if none of the modules that a package lists is there, as while it is being upgraded."""
    modules = [row for row in one.rows or () if row.endswith(_SUFFIXES)]
    if modules and not any(os.path.lexists(f"{one.site}/{row}") for row in modules):
        raise InvalidInput(
            f"The package {one.name!r} is installed without its files, such as {modules[0]!r}: run"
            f" `pip install --force-reinstall {one.name}`."
        )


def _check_not_only_others(one: Installed, chosen: list[Installed], known: list[Installed], packages: Packages) -> None:
    """Raise `InvalidInput` if a package would be empty because every module that it lists is listed by another package too."""
    tops = {row.partition("/")[0].partition(".")[0] for row in one.rows or () if row.endswith(_SUFFIXES)}
    if not tops or tops & {name.partition(".")[0] for name in packages.modules}:
        return
    others = sorted(
        {normal(other.name) for other in _others(chosen, known) if set(other.rows or ()) & set(one.rows or ())}
    )
    if others:
        raise InvalidInput(
            f"The package {one.name!r} lists only files that {' and '.join(map(repr, others[:5]))} list as well, so that"
            " it is unknown to whom they belong: name these packages too, or uninstall one."
        )


def _others(chosen: Iterable[Installed], known: Iterable[Installed]) -> Iterator[Installed]:
    names = {normal(one.name) for one in chosen}
    return (one for one in known if normal(one.name) not in names)


class _Layer:
    """The files of chosen distributions among those of all."""

    def __init__(self, chosen: list[Installed], known: list[Installed]) -> None:
        self._chosen = chosen
        self._others = list(_others(chosen, known))
        self._sites: dict[str, int] = {}
        self._made = Packages()

    def packages(self) -> Packages:
        """Return the packages, laid out."""
        for site in dict.fromkeys(one.site for one in self._chosen):
            for path in _Folders(self._own(site)).pieces(site):
                self._add(site, path)
        for one in self._chosen:
            if not any(self._lists_a_module(one)):
                self._add_by_name(one)
            self._add_metadata(one)
        made = self._made
        made.paths[:] = dict.fromkeys(made.paths)
        return made

    def _own(self, site: str) -> set[str]:
        """Return the files in a folder that the chosen distributions own."""
        others = listed_by(self._others, site)
        return {row for one in self._chosen if one.site == site for row in one.rows or () if one.owns(row, others)}

    @staticmethod
    def _lists_a_module(one: Installed) -> Iterator[bool]:
        for row in one.rows or ():
            top = row.partition("/")[0]
            if row.endswith(_SUFFIXES) and not top.startswith("__editable__"):
                yield True

    def _pair(self, site: str, path: str) -> Pair:
        number = self._sites.setdefault(site, len(self._sites))
        return f"{site}/{path}", package_in_a_room(number, path)

    def _add(self, site: str, path: str) -> None:
        """Add a file or a folder that belongs to the chosen distributions alone."""
        pair = self._pair(site, path)
        self._made.paths.append(pair)
        *parents, last = path.split("/")
        is_folder = Path(pair[0]).is_dir()
        if is_folder:
            name, suffix = last, ""
        else:
            name, dot, suffix = last.partition(".")
            if dot + suffix not in _SUFFIXES:
                return
        if not all(part.isidentifier() for part in (*parents, name)) or name.startswith("__editable__"):
            return
        for depth in range(1, len(parents) + 1):
            self._package(site, parents[:depth])
        if is_folder:
            package = self._package(site, [*parents, name])
            for ending in _SUFFIXES:
                if package.file is None and Path(pair[0], f"__init__{ending}").is_file():
                    package.file = self._pair(site, f"{path}/__init__{ending}")
        elif name == "__init__" and parents:
            module = self._package(site, parents)
            module.file = module.file or pair
        else:
            module = self._made.modules.setdefault(".".join((*parents, name)), ModuleFiles())
            module.file = module.file or pair

    def _package(self, site: str, parts: list[str]) -> ModuleFiles:
        package = self._made.modules.setdefault(".".join(parts), ModuleFiles())
        folder = self._pair(site, "/".join(parts))
        if folder not in package.folders:
            package.folders.append(folder)
        return package

    def _add_by_name(self, one: Installed) -> None:
        """Add a distribution that lists no module: an editable install, or one without a RECORD."""
        listed = (one.metadata.read_text("top_level.txt") or "").split() or [normal(one.name).replace("-", "_")]
        for name in listed:
            if not name.isidentifier() or name in sys.stdlib_module_names:
                continue
            place = one.place_of(name)
            if place is None:
                continue
            site, last = os.path.split(place)
            if (site == one.site) == (one.rows is None) and not self._is_others(site, last):
                self._add(site, last)

    def _is_others(self, site: str, path: str) -> bool:
        return any(
            row == path or row.startswith(f"{path}/")
            for other in self._others
            if other.site == site
            for row in other.rows or ()
        )

    def _add_metadata(self, one: Installed) -> None:
        self._made.metadata.append(self._pair(one.site, one.info))
        for name in _SHOWN_METADATA:
            path = Path(one.site, one.info, name)
            if path.is_file() and not path.is_symlink():
                self._made.paths.append(self._pair(one.site, f"{one.info}/{name}"))


class _Folders:
    """The folders in which certain files are."""

    def __init__(self, files: set[str]) -> None:
        self._files = files
        self._folders: set[str] = set()
        for file in files:
            folder = file.rpartition("/")[0]
            while folder and folder not in self._folders:
                self._folders.add(folder)
                folder = folder.rpartition("/")[0]

    def pieces(self, site: str) -> list[str]:
        """Return the files and folders of a site that hold these files and nothing else; no link is followed."""
        found = []
        for top in sorted({file.partition("/")[0] for file in self._files}):
            path = Path(site, top)
            if path.is_symlink():
                continue
            if path.is_dir():
                found += self._inside(site, top)[1]
            elif path.is_file() and top in self._files and not top.endswith(".pth"):
                found.append(top)
        return found

    def _inside(self, site: str, folder: str) -> tuple[bool, list[str]]:
        """Return whether a folder holds only these files, and its pieces: then itself."""
        is_whole, found = True, []
        try:
            entries = sorted(os.scandir(f"{site}/{folder}"), key=lambda entry: entry.name)
        except OSError:
            return False, []
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if entry.is_file(follow_symlinks=False) and path in self._files:
                found.append(path)
            elif entry.is_dir(follow_symlinks=False) and path in self._folders:
                whole, pieces = self._inside(site, path)
                is_whole = is_whole and whole
                found += pieces
            elif entry.name != "__pycache__" or not _is_bytecode(entry.path):
                is_whole = False
        return is_whole, [folder] if is_whole and found else found


def _is_bytecode(folder: str) -> bool:
    """Whether a folder holds only compiled modules, which are on no list if they were compiled later."""
    with suppress(OSError), os.scandir(folder) as entries:
        return all(one.is_file(follow_symlinks=False) and one.name.endswith(".pyc") for one in entries)
    return False
