"""The documentation site has every page and every public name, and what is wrong with a built site is found.

`make docs` builds the site itself, which takes packages that the tests do not need.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from docs.site.build import REFERENCE, ROOT, Pages, public_names
from docs.site.check import faults_of
from docs.site.recordings import DOCS, RECORDINGS, session_in
from tests.repository.test_docs import blocks_of, check_output, commands_in


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    Pages().write(folder)
    return folder


def pages_in(part: Any) -> set[str]:
    """Return the pages of a part of the navigation."""
    if isinstance(part, str):
        return {part}
    return {page for one in (part.values() if isinstance(part, dict) else part) for page in pages_in(one)}


def test_navigation_has_every_page_of_docs(site: Path) -> None:
    navigation = json.loads((site / "mkdocs.yml").read_text(encoding="utf-8").rpartition("\nnav: ")[2])
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert not pages - pages_in(navigation)
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "examples.md"} <= pages_in(navigation)
    assert all((site / "pages" / page).exists() for page in pages_in(navigation))


def test_links_between_pages_of_the_site_resolve(site: Path) -> None:
    pages = sorted((site / "pages").rglob("*.md"))
    assert len(pages) > 60
    for page in pages:
        text = re.sub(r"(?s)^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            assert re.match("[a-z]+:", target) or (page.parent / target).is_file(), f"{page.name}: {target}"


def test_link_to_code_leads_to_a_page_of_it(site: Path) -> None:
    examples = (site / "pages/examples.md").read_text(encoding="utf-8")
    assert "(examples/search.py.md)" in examples
    assert "(examples/pipeline.md)" in examples
    assert (ROOT / "examples/search.py").read_text() in (site / "pages/examples/search.py.md").read_text()
    assert (ROOT / "examples/pipeline/index.py").read_text() in (site / "pages/examples/pipeline.md").read_text()


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_has_every_public_name(name: str, site: Path) -> None:
    module = importlib.import_module("redis_store" if name == "redis_store.aio" else name)
    errors = getattr(module, "errors", None)
    names = set(module.__all__) - set(errors.__all__ if errors else ())
    assert set(public_names(module.__name__)) == names
    shown = set(
        re.findall(r"^::: (\S+)$", (site / f"pages/reference/{name}.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    if module.__name__ == "redis_store":
        names = {each for each in names if ("async" in each.lower()) == (name == "redis_store.aio")}
    assert shown == {f"{module.__name__}.{each}" for each in names}


@pytest.mark.parametrize("name", RECORDINGS)
def test_recording_is_what_its_page_says(name: str) -> None:
    page, wanted = RECORDINGS[name]
    texts = [block.text for block in blocks_of(DOCS / page) if block.language == "console"]
    said = [part for text in texts for part in commands_in(text)]
    session = session_in((DOCS / "images" / name).read_text(encoding="utf-8"))
    assert [command for command, _ in session] == [
        next(command for command, _ in said if command.startswith(begin)) for begin in wanted
    ]
    for command, output in session:  # test_docs.py holds that the page says what the commands really print
        check_output(
            f"docs/images/{name} is old, run `make recordings`", command, dict(reversed(said))[command], output
        )


def test_faults_of_a_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<h2 id="here">A</h2> <a href="#here">1</a> <a href="a.html?x#there">2</a> <a href="https://example.org">3</a>'
    )
    (tmp_path / "a.html").write_text('<p id="there"> <img src="a.svg"> <link href="a.css"> <a href="index.html">')
    (tmp_path / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "a.css").write_text("p { background: url(a.svg) }")
    assert list(faults_of(tmp_path)) == []
    (tmp_path / "a.html").write_text(
        '<a href="index.html#gone"></a> <a href="b.html"></a> <img src="c.png"> <script src="//example.org/a.js"></script>'
        '<link href="https://example.org/a.css"> <p style="background: url(http://example.org/a.png)">'
    )
    (tmp_path / "a.css").write_text('@import "https://example.org/b.css"; p { src: url("https://example.org/a.woff") }')
    (tmp_path / "alone.html").write_text("")
    assert list(faults_of(tmp_path)) == [
        "index.html: a.html?x#there names no anchor there.",
        "a.html: index.html#gone names no anchor there.",
        "a.html: b.html leads nowhere.",
        "a.html: c.png leads nowhere.",
        "a.css loads https://example.org/b.css.",
        "a.css loads https://example.org/a.woff.",
        "a.html loads //example.org/a.js.",
        "a.html loads https://example.org/a.css.",
        "a.html loads http://example.org/a.png.",
        "alone.html: no page leads to it.",
    ]
