"""The page of changes as they happen, and what it does when there are many, and when the server is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from redis_store import Client
from tests.support.consoles import HOSTILE, REVERSED, ConsoleProcess, expect
from tests.support.screenshots import link
from tests.support.servers import Server

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

Visit = Callable[..., "Page"]

ROWS = "table.changes tbody tr"


def live(visit: Visit, path: str, **options: ConsoleProcess) -> tuple[Page, Locator]:
    """Open a page of changes, and return it with its rows once it sees every write."""
    page = visit(path, **options)
    expect(page.locator("#live-state")).to_have_text("Live")
    return page, page.locator(ROWS)


def test_changes_appear_as_they_are_written_masked_and_escaped(visit: Visit, client: Client, user: str) -> None:
    store = client.store(user=user, namespace="a/b:c", agent=REVERSED)
    store.set("first", 1)
    page, rows = live(visit, link("/changes", user=user, namespace="a/b:c"))
    store.set(HOSTILE, {"html": HOSTILE, "password": "hunter2hunter2"})
    expect(rows).to_have_count(1)
    assert rows.nth(0).locator("td").all_text_contents()[1:] == [
        "set",
        "a/b:c",
        HOSTILE,
        f'{{"html":"{HOSTILE}","password":"***"}}',
        "abc\\u202edcba\\u202c.txt",
    ]
    store.delete(HOSTILE)
    expect(rows).to_have_count(2)
    assert rows.nth(0).locator(".op").text_content() == "delete"  # the newest is the first
    assert page.title().startswith("Changes of ")
    expect(page.locator("#live-count")).to_have_text("2")


def test_a_filter_is_kept_in_the_url_and_a_pause_keeps_what_comes(visit: Visit, client: Client, user: str) -> None:
    store = client.store(user=user, agent="scout")
    store.set("first", 1)
    page, rows = live(visit, link("/changes", user=user, text="wanted"))
    store.set_many({"unwanted": 1, "other": 2, "x": {"deep": "WANTED"}})
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Pause").click()
    store.set("wanted", 3)
    expect(page.get_by_role("button", name="Resume (1 new)")).to_be_visible()
    assert rows.count() == 2
    page.get_by_role("button", name="Resume").click()
    expect(rows).to_have_count(3)
    page.get_by_role("searchbox").fill("oth")
    page.wait_for_url("**text=oth**")
    expect(rows).to_have_count(0)
    expect(page.locator("#live-state")).to_have_text("Live")
    store.set("other", 4)
    expect(rows).to_have_count(1)
    page.reload()
    assert page.get_by_role("searchbox").input_value() == "oth"


def test_a_page_stays_responsive_while_thousands_of_changes_come(visit: Visit, client: Client, user: str) -> None:
    store = client.store(user=user, namespace="busy")
    store.set("first", 1)
    page, rows = live(visit, link("/changes", user=user, namespace="busy"))
    page.evaluate("window.frames_drawn = 0; (function next() { frames_drawn++; requestAnimationFrame(next); })()")
    batches = [{f"{batch}-{number}": "x" * 100 for number in range(50)} for batch in range(60)]
    writer = threading.Thread(target=lambda: [store.set_many(each) for each in batches])
    writer.start()
    page.get_by_role("button", name="Pause").click()  # a reader can stop it under way
    page.get_by_role("button", name="Resume").click()
    writer.join()
    expect(page.locator("#live-count")).to_have_text("3,000")
    assert rows.count() == 200  # the newest, the others have gone
    assert rows.nth(0).locator("td").nth(3).text_content() == "59-49"
    assert page.evaluate("frames_drawn") > 5


def test_a_page_goes_on_when_the_server_comes_back(visit: Visit, start: Callable[..., Server], user: str) -> None:
    server = start("valkey9")
    console = ConsoleProcess(server.url)
    try:
        with Client(server.url) as client:
            client.store(user=user).set("k", 1)
        page, rows = live(visit, link("/changes", user=user), of=console)
        server.kill()
        expect(page.locator("#live-state")).to_contain_text("The server does not reply", timeout=20_000)
        server.restart()
        expect(page.locator("#live-state")).to_have_text("Live", timeout=20_000)
        with Client(server.url) as client:
            client.store(user=user).set("after", 2)
        expect(rows.filter(has_text="after")).to_have_count(1)  # beside the reset: the server came back empty
        assert console.stop() == 0  # with a live page open
    finally:
        console.stop()
