"""Distributions installed in the host's environment, with the files that their RECORD lists, found by name or by import name.

A RECORD comes with a wheel, and installers keep its rows as they are: what it says about other files is not believed. Of
several distributions that list one file, those own it whose row has the file's checksum: their authors knew what is in it.
"""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import importlib
import os
import stat
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, all_suffixes
from importlib.metadata import Distribution, distributions
from pathlib import Path

from sandbox.isolation.lacks import is_lack

_METADATA_FOLDERS = (".dist-info", ".egg-info")
_MOST_RECORDS_KEPT = 1024
_CHECKSUMS = ("sha256", "sha384", "sha512")
_MODULE_SUFFIXES = (".py", *EXTENSION_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed distribution."""

    name: str
    metadata: Distribution = field(compare=False)
    site: str
    """Real path of the folder that it is installed in."""
    info: str
    """Name of the folder of its metadata in `site`."""
    rows: Mapping[str, str] | None = field(compare=False)
    """Paths of its files below `site` with their checksums, without metadata and bytecode; None if it has no RECORD."""

    def place_of(self, module: str) -> str | None:
        """Return the folder or file of a module that is not among its rows, or None if it is no real module, or a link.

        Without a RECORD it is beside the metadata. For an editable install it is where the install's own files say: below a
        folder that its ``.pth`` file names, or in the mapping of its finder.
        """
        if self.rows is None:
            return _module_in(self.site, module)
        for row in sorted(self.rows):
            if "/" not in row and row.endswith(".pth"):
                found = next(filter(None, (_module_in(folder, module) for folder in _folders_of(self.site, row))), None)
            elif "/" not in row and row.startswith("__editable__") and row.endswith("_finder.py"):
                folder, name = os.path.split(_mapping_of(f"{self.site}/{row}").get(module, ""))
                found = _module_in(folder, name.removesuffix(".py")) if name else None
            else:
                continue
            if found is not None:
                return found
        return None

    def provides(self, module: str) -> bool:
        """Whether it lists a file of a module."""
        path = module.replace(".", "/")
        files = {path + suffix for suffix in all_suffixes()}
        return any(row in files or row.startswith(f"{path}/") for row in self.rows or ())

    def owns(self, row: str, listed_by_others: Container[str]) -> bool:
        """Whether it owns a file that it lists: no other one lists it, or its own row has the checksum."""
        if row not in listed_by_others:
            return True
        algorithm, _, digest = (self.rows or {}).get(row, "").partition("=")
        return algorithm in _CHECKSUMS and digest == _checksum(f"{self.site}/{row}", algorithm)


def list_installed() -> list[Installed]:
    """Return the distributions that the host can import, in the order of its `sys.path`.

    Raises `OSError` if no descriptor is left, which the search itself takes for an empty folder.
    """
    try:
        os.close(os.open("/", os.O_RDONLY))
    except OSError:
        importlib.invalidate_caches()  # they keep what an earlier search found until the folder changes
        raise
    return list(filter(None, map(_installed, distributions())))


def named(name: str, known: Iterable[Installed]) -> Installed | None:
    """Return the first distribution of this name."""
    wanted = normal(name)
    return next((one for one in known if normal(one.name) == wanted), None)


def providers(module: str, known: Iterable[Installed]) -> list[Installed]:
    """Return the distributions that have a module of this import name, one of each name.

    If only one owns the module's own file, that is it: others may list the file as well, or have files in its folder.
    """
    found: dict[str, Installed] = {}
    for one in known:
        listed = (one.metadata.read_text("top_level.txt") or "").split() if not one.rows else ()
        if one.provides(module) or module in listed:
            found.setdefault(normal(one.name), one)
    several = list(found.values())
    path = module.replace(".", "/")
    files = {start + suffix for start in (path, f"{path}/__init__") for suffix in all_suffixes()}
    owners = []
    for one in several:
        others = listed_by((other for other in several if other is not one), one.site)
        if any(one.owns(row, others) for row in files.intersection(one.rows or ())):
            owners.append(one)
    return owners if len(owners) == 1 else several


def listed_by(known: Iterable[Installed], site: str) -> frozenset[str]:
    """Return the files in a folder that distributions list."""
    return frozenset().union(*(one.rows or () for one in known if one.site == site))


def normal(name: str) -> str:
    """Return the normalized form of a distribution's name."""
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def _installed(known: Distribution) -> Installed | None:
    folder = getattr(known, "_path", None)  # every distribution in a folder has it
    if not isinstance(folder, Path) or not folder.name.endswith(_METADATA_FOLDERS):
        return None
    name, _, _ = folder.name.removesuffix(".dist-info").removesuffix(".egg-info").partition("-")
    site, info = os.path.split(os.path.realpath(folder))
    return Installed(name, known, site, info, _rows(f"{site}/{info}/RECORD"))


def _module_in(folder: str, name: str) -> str | None:
    """Return the folder or file of a module in a folder that is not the root of the file system."""
    folder = os.path.realpath(folder)
    if folder == os.sep:
        return None
    for place, file in (
        (f"{folder}/{name}", f"{folder}/{name}/__init__.py"),
        *((f"{folder}/{name}{suffix}",) * 2 for suffix in _MODULE_SUFFIXES),
    ):
        if Path(file).is_file() and not Path(file).is_symlink() and not Path(place).is_symlink():
            return place
    return None


def _folders_of(site: str, row: str) -> list[str]:
    """Return the folders that a ``.pth`` file names."""
    try:
        text = Path(site, row).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if is_lack(error):
            raise
        return []
    lines = [line.strip() for line in text.splitlines()]
    return [
        str(Path(site, line)) for line in lines if line and "\0" not in line and not line.startswith(("#", "import"))
    ]


def _mapping_of(file: str) -> dict[str, str]:
    """Return the modules and their places that a finder of setuptools has, as literals of its source."""
    with suppress(OSError, SyntaxError, ValueError, RecursionError):
        for one in ast.parse(Path(file).read_bytes()).body:
            target = one.target if isinstance(one, ast.AnnAssign) else None
            if isinstance(target, ast.Name) and target.id == "MAPPING" and isinstance(one, ast.AnnAssign) and one.value:
                found = ast.literal_eval(one.value)
                if isinstance(found, dict):
                    return {name: at for name, at in found.items() if isinstance(name, str) and isinstance(at, str)}
    return {}


def _rows(record: str) -> Mapping[str, str] | None:
    try:
        found = os.stat(record)  # noqa: PTH116
    except OSError:
        return None
    return _parsed(record, found.st_mtime_ns, found.st_size)


@lru_cache(_MOST_RECORDS_KEPT)
def _parsed(record: str, mtime_ns: int, size: int) -> Mapping[str, str] | None:
    try:
        with suppress(csv.Error), open(record, encoding="utf-8", errors="replace", newline="") as file:  # noqa: PTH123
            return dict(_files(csv.reader(file)))
    except OSError as error:
        if is_lack(error):
            raise  # not kept, unlike what is returned
    return None


def _files(rows: Iterable[list[str]]) -> Iterator[tuple[str, str]]:
    """Yield the relative paths that stay below the folder, with their checksums."""
    for row in rows:
        path = row[0] if row else ""
        parts = path.split("/")
        if "" in parts or "." in parts or ".." in parts or "__pycache__" in parts or "\0" in path:
            continue  # absolute, or not as installers write it
        if not parts[0].endswith(_METADATA_FOLDERS):
            yield path, row[1] if len(row) > 1 else ""


def _checksum(path: str, algorithm: str) -> str | None:
    """Return the checksum of a file as a RECORD has it, or None if it is no file that can be read."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return _computed(path, algorithm, found.st_mtime_ns, found.st_size) if stat.S_ISREG(found.st_mode) else None


@lru_cache(_MOST_RECORDS_KEPT)
def _computed(path: str, algorithm: str, mtime_ns: int, size: int) -> str | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            digest = hashlib.file_digest(file, algorithm).digest()
    except OSError as error:
        if is_lack(error):
            raise  # not kept, unlike what is returned
        return None
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
