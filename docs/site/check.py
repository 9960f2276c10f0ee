"""What must hold of a built site: links have targets, each page is reached from the first, and no other host is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

_FOREIGN = re.compile(r"(?:[a-z]+:)?//", re.IGNORECASE)
_IN_STYLE = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:[a-z]+:)?//[^"')\s]*)""", re.IGNORECASE)
_LOADED = {"src", "srcset", "poster", "data", "href", "xlink:href", "action"}


class Links(HTMLParser):
    """The links, the anchors and the loaded files of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.loaded: list[str] = []
        text = page.read_text(encoding="utf-8")
        self.loaded.extend(_IN_STYLE.findall(text) if page.suffix in (".css", ".svg") else ())
        if page.suffix in (".html", ".svg"):
            self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what a tag leads to, loads, and is called."""
        for name, value in attributes:
            if name in ("id", "name") and value and tag != "meta":
                self.anchors.add(value)
            elif name == "style":
                self.loaded.extend(_IN_STYLE.findall(value or ""))
            elif name in _LOADED and value and not value.startswith(("data:", "mailto:")):
                (self.links if tag == "a" else self.loaded).append(value)


def faults_of(site: Path) -> Iterator[str]:
    """Yield in a sentence each what is wrong with a site."""
    pages = {path: Links(path) for path in sorted(site.rglob("*")) if path.suffix in (".html", ".css", ".svg")}
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in [*pages[page].links, *pages[page].loaded]:
            if not _FOREIGN.match(link):
                path, _, anchor = unquote(link).partition("#")
                target = (page.parent / path.partition("?")[0]).resolve() if path else page
                if not target.is_file():
                    yield f"{page.relative_to(site)}: {link} leads nowhere."
                elif target in pages:
                    waiting.append(target)
                    if target.suffix == ".html" and anchor not in pages[target].anchors:
                        yield f"{page.relative_to(site)}: {link} names no anchor there."
    for page, found in pages.items():
        yield from (f"{page.relative_to(site)} loads {url}." for url in found.loaded if _FOREIGN.match(url))
        if page.suffix == ".html" and page not in reached and page.name != "404.html":
            yield f"{page.relative_to(site)}: no page leads to it."
