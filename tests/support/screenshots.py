"""`make screenshots`: pictures of every page of the console, in both themes, wide and narrow, from a server with data.

They go to a folder that is named, or to one under ``.bench``. Those that the documentation shows go to ``docs/images/console``.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from tests.support.consoles import HOSTILE, MEANT_AS_HTML, NARROW, REVERSED, WIDE, ConsoleProcess, browser, seed, stir
from tests.support.servers import start_server

if TYPE_CHECKING:
    from playwright.sync_api import Page

IN_DOCS = Path("docs/images/console")

DOCUMENTED = ("user", "key", "changes", "run")
"""Pages whose wide, light picture is in the documentation."""

THEMES = ("light", "dark")


def link(path: str, **query: str) -> str:
    """Return a path of the console with its state."""
    return f"{path}?{urlencode(query)}"


PAGES = {
    "users": "/",
    "user": link("/user", user="alice"),
    "namespace": link("/namespace", user="alice", namespace="files:my-repo"),
    "key": link("/key", user="alice", namespace="default", key="report"),
    "hostile-namespace": link("/namespace", user=HOSTILE, namespace=MEANT_AS_HTML),
    "hostile-key": link("/key", user=HOSTILE, namespace=MEANT_AS_HTML, key=REVERSED),
    "edit": link("/edit", user="alice", namespace="default", key="greeting"),
    "changes-users": "/changes",
    "changes": link("/changes", user="alice"),
    "changes-past": link("/changes", user="alice", since="1h"),
    "consumers": "/consumers",
    "dead-letter": link("/dead-letter", user="alice", consumer="index", id="mail-2@2"),
    "locks": "/locks",
    "runs-users": "/runs",
    "runs": link("/runs", user="alice"),
    "run": link("/run", user="alice", run="run-1"),
    "run-hostile": link("/run", user=HOSTILE, run="run-5"),
    "see-as": link(
        "/see-as", user="alice", read="files:*\ncache:{site}", write="inbox", input='{"site": "pages"}', ask="memory"
    ),
    "doctor": "/doctor",
    "audit": "/audit",
}
"""Every page with something to see: its name, and its path on the server of `seed`."""


def main(arguments: Sequence[str]) -> None:
    """Take the pictures, of all pages or of those that are named after the folder."""
    folder = Path(arguments[0] if arguments else ".bench/screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    server = start_server("valkey9", tcp=True)
    try:
        seed(server.url)
        console = ConsoleProcess(server.url)
        try:
            take(console, server.url, folder, arguments[1:] or list(PAGES))
        finally:
            console.stop()
    finally:
        server.stop()


def take(console: ConsoleProcess, redis_url: str, folder: Path, names: Sequence[str]) -> None:
    """Take the pictures of some pages."""
    with browser() as opened:
        for theme in THEMES:
            for size in (WIDE, NARROW):
                context = opened.new_context(
                    viewport={"width": size[0], "height": size[1]}, color_scheme=theme, reduced_motion="reduce"
                )
                page = context.new_page()
                page.goto(console.entry)
                for name in names:
                    page.goto(console.address + PAGES[name])
                    if page.locator("[data-live]").count():
                        page.wait_for_selector("[data-state=live]")
                        stir(redis_url)
                        page.wait_for_selector("[data-live] tbody tr")
                    (folder / f"{name}-{theme}-{size[0]}.png").write_bytes(page.screenshot(full_page=True))
                    if name in DOCUMENTED and theme == "light" and size == WIDE:
                        IN_DOCS.mkdir(parents=True, exist_ok=True)
                        (IN_DOCS / f"{name}.webp").write_bytes(_webp(page))
                context.close()


def _webp(page: Page) -> bytes:
    """Return a small picture of what the window shows."""
    session = page.context.new_cdp_session(page)
    taken = session.send("Page.captureScreenshot", {"format": "webp", "quality": 80})
    return base64.b64decode(taken["data"])


if __name__ == "__main__":
    main(sys.argv[1:])
