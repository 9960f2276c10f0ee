"""What holds for every page: it can be used without eyes, mouse or a wide window, and nothing stored in it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.support.consoles import NARROW, WIDE
from tests.support.screenshots import PAGES

if TYPE_CHECKING:
    from playwright.sync_api import Page

Visit = Callable[..., "Page"]

FIRST_PAGE_BYTES = 150 * 1024
"""What the first page takes over the wire with all that it loads, at most."""


def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong on a page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_barrier_in_either_theme_and_fits_a_narrow_window(name: str, visit: Visit) -> None:
    page = visit(PAGES[name], color_scheme="light")
    assert page.locator("h1").count() == 1
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
    page.wait_for_function(
        f"document.documentElement.scrollWidth <= {NARROW[0]}"
    )  # the tables become lists a moment later
    assert violations(page) == []
    assert page.title().endswith(" · redis-store")  # a script of the data would have set another
    assert page.locator("script:not([src]), [onerror]").count() == 0


def test_the_first_page_is_small(visit: Visit) -> None:
    page = visit("/")
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    taken: list[float] = []
    session.on("Network.loadingFinished", lambda event: taken.append(event["encodedDataLength"]))
    page.reload(wait_until="networkidle")
    assert len(taken) >= 4  # the page, its style, its scripts
    assert sum(taken) <= FIRST_PAGE_BYTES


def test_a_theme_is_chosen_and_kept(visit: Visit) -> None:
    page = visit("/", color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark
    assert page.get_by_role("button", name="Dark").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Auto").click()
    page.reload()
    assert page.evaluate(background) == light


def test_a_page_is_used_by_keyboard_alone(visit: Visit) -> None:
    page = visit("/", WIDE)
    focused = "document.activeElement.textContent.trim()"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.type("bob")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=bob**")
    page.get_by_role("link", name="bob@example.com").focus()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/user?**")
