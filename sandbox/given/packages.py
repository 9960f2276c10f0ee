"""Installed packages of the host's environment that an agent may import."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sandbox.errors import InvalidInput, InvalidType
from sandbox.given.functions import check_name_is_str
from sandbox.isolation.layout import package_in_a_room

# `packaging` is imported where it is used: it takes 10 ms, and most runs have no packages.
if TYPE_CHECKING:
    from packaging.requirements import Requirement

_SUFFIXES = (".py", ".so", ".pyd")


@dataclass(frozen=True, slots=True)
class Packages:
    """The packages selected by `packages=`: importable names with their folders, and all paths that must be readable."""

    modules: dict[str, list[str]] = field(default_factory=dict)
    """File or folder of each top-level module or package; several folders for a namespace package."""
    metadata: list[str] = field(default_factory=list)
    """The ``*.dist-info`` folders, for `importlib.metadata`."""
    paths: list[str] = field(default_factory=list)
    """All files and folders of the packages, which the isolation makes readable."""

    def described(self, in_a_room: bool) -> bytes:
        """Return the paths as seen by the agent process, as JSON; in a room they differ from those of the host."""
        where = package_in_a_room if in_a_room else str
        modules = {name: list(dict.fromkeys(map(where, paths))) for name, paths in self.modules.items()}
        return json.dumps({"modules": modules, "metadata": list(map(where, self.metadata))}).encode()


def find_packages(names: object) -> Packages:
    """Return the installed packages of these names, with their installed dependencies."""
    if names is None:
        return Packages()
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise InvalidType(f"packages must be a list of names, not {type(names).__name__}: put a single one in a list.")
    found: dict[str, Distribution] = {}
    for name in names:
        check_name_is_str("package", name)
        asked = _requirement(name)
        if asked is None or asked.specifier or asked.marker or asked.url:
            raise InvalidInput(f"{name!r} is not a package name: write it as in 'numpy' or 'httpx[http2]'.")
        _collect(asked, found, is_optional=False)
    return _laid_out(found.values())


def _requirement(text: str) -> Requirement | None:
    from packaging.requirements import InvalidRequirement, Requirement

    with suppress(InvalidRequirement):
        return Requirement(text)
    return None


def _collect(asked: Requirement, found: dict[str, Distribution], *, is_optional: bool) -> None:
    """Add a distribution and its requirements. Skip a requirement that is not installed: this environment works without it."""
    key = f"{_normal(asked.name)}{sorted(asked.extras)}"
    if key in found:
        return
    try:
        known = distribution(asked.name)
    except PackageNotFoundError:
        if is_optional:
            return
        raise InvalidInput(
            f"The package {asked.name!r} is not installed in the host's environment: run `pip install {asked.name}`, or"
            " remove it from packages."
        ) from None
    found[key] = known
    for wanted in filter(None, map(_requirement, known.requires or ())):
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in asked.extras or {""}):
            _collect(wanted, found, is_optional=True)


def _laid_out(distributions: Iterable[Distribution]) -> Packages:
    packages = Packages()
    for known in distributions:
        for top, place in _tops(known).items():
            path = Path(place)
            packages.paths.append(str(path))
            if path.suffix == ".dist-info":
                packages.metadata.append(str(path))
            elif (module := _module_name(top)) is not None:
                paths = packages.modules.setdefault(module, [])
                if str(path) not in paths:
                    paths.append(str(path))
    packages.paths[:] = dict.fromkeys(packages.paths)
    packages.metadata[:] = dict.fromkeys(packages.metadata)
    return packages


def _tops(known: Distribution) -> dict[str, str]:
    """Return the top-level files and folders of a distribution, by name; for an editable install, the location of its code."""
    files = [PurePosixPath(str(file)) for file in known.files or ()]
    tops = {
        file.parts[0]: str(known.locate_file(file.parts[0]))
        for file in files
        if file.parts[0] not in ("..", "__pycache__") and not file.name.endswith(".pth")
    }
    if any(_module_name(top) is not None for top in tops if not top.startswith("__editable__")):
        return tops
    editable = {top: place for top, place in tops.items() if top.endswith(".dist-info")}
    for name in _top_level_names(known):
        spec = importlib.util.find_spec(name)
        for place in _places(spec):
            editable[Path(place).name] = place
    return editable


def _places(spec: ModuleSpec | None) -> list[str]:
    """Return the folders of a package, or the file of a module."""
    if spec is None:
        return []
    return list(spec.submodule_search_locations or ([spec.origin] if spec.origin else []))


def _top_level_names(known: Distribution) -> list[str]:
    listed = (known.read_text("top_level.txt") or "").split()
    return listed or [_normal(known.metadata["Name"]).replace("-", "_")]


def _module_name(top: str) -> str | None:
    """Return the import name of a file or folder in a package folder, or None if it cannot be imported."""
    name = top.partition(".")[0] if top.endswith(_SUFFIXES) else top
    return name if name.isidentifier() and not name.startswith("__editable__") else None


def _normal(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)
