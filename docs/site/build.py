"""`make docs`: the site of build/site, made of the Markdown of docs/.

The pages stay readable where they are. So the navigation is taken from docs/index.md, a link to something outside docs/ leads
to a page that is made of it, and the reference is made of the docstrings of all public names. Everything is put together in
build/pages, from where MkDocs makes the site. Then the site is checked.
"""

from __future__ import annotations

import ast
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docs.site.check import faults_of

HERE = Path(__file__).parent
DOCS = HERE.parent
ROOT = DOCS.parent
REFERENCE = {
    "redis_store": "The store, for threads.",
    "redis_store.aio": "The store, for asyncio. These names too are imported from `redis_store`.",
    "redis_store.errors": "The store's errors. [Troubleshooting](../troubleshooting.md) says what to do about each.",
    "redis_store.types": "Types of values, keys and changes.",
    "redis_store.admin": "Operations for operators and services, over all users of a server.",
    "redis_store.server": "The embedded server.",
    "redis_store.testing": "Fixtures of the pytest plugin.",
    "sandbox": "Running agents.",
    "sandbox.errors": "The sandbox's errors. [Troubleshooting](../troubleshooting.md) says what to do about each.",
    "sandbox.isolation": "Tiers of isolation.",
}
"""The public modules, each with the first sentence of its page."""

_CODE = re.compile(r"(^```.*?^```[ \t]*$|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#\s]+)")
_ROW = re.compile(r"^\| \[([^]]+)\]\(([^)]+)\)", re.MULTILINE)
_NESTED = re.compile(r"^(  )([-*] )", re.MULTILINE)
"""An item of a list in a list: Python-Markdown wants it indented by four."""


def main() -> None:
    """Build the site and check it."""
    build = ROOT / "build"
    shutil.rmtree(build / "pages", ignore_errors=True)
    Pages().write(build)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(build / "mkdocs.yml")]
    done = subprocess.run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    if done.returncode:
        sys.exit(done.returncode)
    if faults := list(faults_of(build / "site")):
        sys.exit("\n".join(faults))
    print("The site is in build/site: open build/site/index.html in a browser.")


class Pages:
    """All pages of the site."""

    def __init__(self) -> None:
        self.uris: dict[str, str] = {}
        """The page of the site for each path of the repository that has one."""
        for page in sorted(DOCS.rglob("*.md")):
            self._add(page.relative_to(ROOT).as_posix(), page.relative_to(DOCS).as_posix())

    def _add(self, path: str, uri: str) -> None:
        """Add a page, and what it links to outside docs/, and so on from there."""
        self.uris[path] = uri
        for linked in (_path(target, path) for target in _LINK.findall(_CODE.sub("", _text_of(path)))):
            is_ours = not linked.startswith(("..", "docs/")) and ":" not in linked and (ROOT / linked).exists()
            if is_ours and linked not in self.uris:
                self._add(linked, f"{linked.removesuffix('/README.md').removesuffix('.md')}.md")

    def write(self, folder: Path) -> None:
        """Write the pages and pictures, and the settings of MkDocs."""
        texts = {uri: self._linked(_text_of(path), path) for path, uri in self.uris.items()}
        texts |= {f"reference/{name}.md": _reference(name, text) for name, text in REFERENCE.items()}
        for uri, text in texts.items():
            target = folder / "pages" / uri
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        shutil.copytree(DOCS / "images", folder / "pages/images", ignore=shutil.ignore_patterns("*.dot"))
        for name in ("style.css", "iframe-worker.js"):
            shutil.copy(HERE / name, folder / "pages")
        settings = (HERE / "mkdocs.yml").read_text(encoding="utf-8").replace('"ROOT"', json.dumps(str(ROOT)))
        (folder / "mkdocs.yml").write_text(f"{settings}\nnav: {json.dumps(self.navigation())}\n", encoding="utf-8")

    def navigation(self) -> list[dict[str, Any]]:
        """Return the sections of docs/index.md, and the reference. A page that several sections name is in the first."""
        seen: set[str] = set()
        sections: list[dict[str, Any]] = [{"Home": "index.md"}]
        for section in re.split(r"^## ", _text_of("docs/index.md"), flags=re.MULTILINE)[1:]:
            pages = [(title, self.uris[_path(target, "docs/index.md")]) for title, target in _ROW.findall(section)]
            new = [{title: _with_children(uri)} for title, uri in pages if uri not in seen]
            seen.update(uri for _, uri in pages)
            sections.append({section.partition("\n")[0]: new})
        return [*sections, {"Reference": [f"reference/{name}.md" for name in REFERENCE]}]

    def _linked(self, markdown: str, path: str) -> str:
        """Return a page whose links to files outside docs/, and to folders, lead to their pages."""
        here = posixpath.dirname(self.uris[path])

        def led(link: re.Match[str]) -> str:
            uri = self.uris.get(_path(link[1], path))
            return link[0] if uri is None else f"]({posixpath.relpath(uri, here or '.')}"

        return _NESTED.sub(r"\1\1\2", _outside_code(markdown, lambda text: _LINK.sub(led, text)))


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Change the parts of a page that are not code."""
    return "".join(part if number % 2 else change(part) for number, part in enumerate(_CODE.split(markdown)))


def _path(target: str, here: str) -> str:
    """Return the path in the repository that a link on a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), target))


def _text_of(path: str) -> str:
    """Return the Markdown of a path: a page itself, the code of a file, or a folder's README or the code of its files."""
    found = ROOT / path
    if (found / "README.md").exists():
        found /= "README.md"
    if found.suffix == ".md":
        return found.read_text(encoding="utf-8")
    files = sorted(found.rglob("*.py")) if found.is_dir() else [found]
    return "\n".join([f"# {path}\n", *_code_of(files, with_titles=found.is_dir())])


def _code_of(files: list[Path], with_titles: bool) -> Iterator[str]:
    for file in files:
        if with_titles:
            yield f"## {file.name}\n"
        language = "python" if file.suffix == ".py" else "text"
        yield f"```{language}\n{file.read_text(encoding='utf-8')}```\n"


def _with_children(uri: str) -> Any:
    """Return a page, or the page of a folder of docs/ with those that its table names."""
    folder, name = posixpath.split(uri)
    if not folder or name != "index.md":
        return uri
    return [uri, *({title: f"{folder}/{target}"} for title, target in _ROW.findall(_text_of(f"docs/{uri}")))]


def _reference(name: str, text: str) -> str:
    """Return the page of a public module: what its `__all__` names."""
    module = "redis_store" if name == "redis_store.aio" else name
    names = public_names(module)
    if module == "redis_store":
        names = [each for each in names if ("async" in each.lower()) == (name == "redis_store.aio")]
    return "\n".join([f"# {name}\n", f"{text}\n", *(f"::: {module}.{each}\n" for each in names)])


def public_names(module: str) -> list[str]:
    """Return what the `__all__` of a module lists, without what it adds from other modules."""
    path = ROOT / module.replace(".", "/")
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value), key=lambda name: (name.isupper(), name.lower()))
    raise LookupError(f"{module} has no __all__")


if __name__ == "__main__":
    main()
