"""Data that is looked at and changed in a browser: by two people at once, with hostile names, from elsewhere, too late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import redis

from redis_store import Client
from tests.support.consoles import HOSTILE, MEANT_AS_HTML, ConsoleProcess, expect
from tests.support.screenshots import link
from tests.support.servers import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Visit = Callable[..., "Page"]


def test_two_browsers_edit_the_same_key(visit: Visit, client: Client, user: str) -> None:
    store = client.store(user=user)
    store.set("k", {"text": HOSTILE})
    first, second = (visit(link("/edit", user=user, namespace="default", key="k")) for _ in range(2))
    first.get_by_label("Value, as JSON").fill('{"by": "first"}')
    first.get_by_role("button", name="Save").click()
    expect(first.get_by_role("status")).to_have_text("The value was saved.")
    second.get_by_label("Value, as JSON").fill('{"by": "second"}')
    second.get_by_role("button", name="Save").click()
    expect(second.get_by_role("alert")).to_contain_text("Nothing was saved.")
    assert '"first"' in second.get_by_label("The value now").input_value()
    assert store.get("k") == {"by": "first"}
    second.get_by_label("Your value").fill('{"by": "both"}')
    second.get_by_role("button", name="Save mine over it").click()
    expect(second.get_by_role("status")).to_have_text("The value was saved.")
    assert store.get("k") == {"by": "both"}


def test_keys_are_selected_and_deleted_by_keyboard(visit: Visit, client: Client, user: str) -> None:
    store = client.store(user=user, namespace="a\nb")
    store.set_many({"line\nend": 1, HOSTILE: 2, "left": 3})
    page = visit(link("/namespace", user=user, namespace="a\nb"))
    delete = page.get_by_role("button", name="Delete the selected")
    expect(delete).to_be_disabled()
    page.get_by_label("Select all keys on this page").press("Space")
    page.get_by_label("Select left").press("Space")
    delete.press("Enter")
    expect(page.get_by_role("heading", name="Delete 2 keys")).to_be_visible()
    page.get_by_role("button", name="Delete", exact=True).press("Enter")
    expect(page.get_by_role("status")).to_have_text("2 keys deleted.")
    assert store.list_keys() == ["left"]


def test_new_key_and_clear_with_its_way_back(visit: Visit, client: Client, user: str) -> None:
    client.store(user=user).set("old", 1)
    page = visit(link("/namespace", user=user, namespace="default"))
    page.get_by_role("link", name="New key").click()
    page.get_by_label("Key", exact=True).fill("new")
    page.get_by_label("Value, as JSON").fill("[1, 2]")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_have_text("The value was saved.")
    page.get_by_role("link", name="default").click()
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("status")).to_have_text("2 keys deleted.")
    page.get_by_role("button", name="Bring back").click()
    expect(page.get_by_role("status")).to_have_text("2 keys brought back.")
    assert client.store(user=user).get_all() == {"old": 1, "new": [1, 2]}


def test_a_value_that_is_no_json_is_not_saved_and_not_lost(visit: Visit, client: Client, user: str) -> None:
    store = client.store(user=user, namespace="docs")
    store.set("plan", 1)
    page = visit(link("/edit", user=user, namespace="docs", key="plan"))
    page.get_by_label("Value, as JSON").fill('{\n  "steps": 1,\n}')
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was saved. Line 3, column 1")
    assert page.get_by_label("Value, as JSON").input_value() == '{\n  "steps": 1,\n}'
    assert store.get("plan") == 1


def test_a_part_that_is_replaced_works_like_the_page(visit: Visit, client: Client, user: str) -> None:
    client.store(user=user).set("a", 1)
    page = visit(link("/namespace", user=user, namespace="default"))
    page.get_by_label("Select all keys on this page").check()
    delete = page.get_by_role("button", name="Delete the selected")
    expect(delete).to_be_enabled()
    page.evaluate("htmx.ajax('GET', location.href, {target: '#main', select: '#main', swap: 'outerHTML'})")
    expect(delete).to_be_disabled()
    page.get_by_label("Select all keys on this page").check()
    expect(delete).to_be_enabled()


def test_hostile_names_lead_from_page_to_page_and_run_nowhere(visit: Visit) -> None:
    page = visit("/")
    for name in (HOSTILE, MEANT_AS_HTML, "abc\\u202edcba\\u202c.txt"):
        page.get_by_role("link", name=name).last.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        assert page.title().endswith("redis-store")
    expect(page.locator(".json")).to_contain_text(f'"{MEANT_AS_HTML}"')
    page.get_by_role("link", name="Edit").click()
    assert "abc\\u202edcba" in page.get_by_label("Value, as JSON").input_value()


def test_a_megabyte_in_one_line_and_what_is_no_json(visit: Visit, client: Client, seeded: Server, user: str) -> None:
    store = client.store(user=user)
    store.set("long", "word " * 200_000)
    with seeded.client() as raw:
        _write_by_hand(raw, user)
    page = visit(link("/key", user=user, namespace="default", key="long"))
    page.get_by_role("link", name="Text after").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth")
    page = visit(link("/key", user=user, namespace="default", key="broken"))
    expect(page.get_by_role("alert")).to_contain_text("The value is not JSON")
    expect(page.get_by_text('{"open": ')).to_be_visible()


def _write_by_hand(raw: redis.Redis, user: str) -> None:
    raw.hset(f"user:{user}:ns:default", "broken", '{"open": ')


def test_a_page_of_another_site_changes_nothing(
    visit: Visit, console: ConsoleProcess, client: Client, user: str
) -> None:
    store = client.store(user=user, namespace="docs")
    store.set("plan", 1)
    with attacker(
        f'<form method="post" action="{console.address}/do/clear"><input name="user" value="{user}">'
    ) as site:
        page = visit("/")  # this browser is signed in
        foreign = page.context.new_page()
        foreign.goto(site)
        foreign.evaluate("document.forms[0].submit()")
        expect(foreign.get_by_role("heading", level=1)).to_have_text("From another site")
        foreign.goto(site)
        read = foreign.evaluate("url => fetch(url).then(() => 'read', () => 'refused')", console.address)
        assert read == "refused"
    assert store.get("plan") == 1


def test_a_session_that_ended_says_what_to_do(chromium: Browser, console: ConsoleProcess) -> None:
    context = chromium.new_context()
    try:
        page = context.new_page()
        page.goto(console.enter("/audit"))
        assert page.url == f"{console.address}/audit"  # the token has gone
        context.clear_cookies()
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("Not signed in")
        expect(page.get_by_role("main")).to_contain_text("Open the url that redis-store ui printed")
        assert page.get_by_role("link", name="Users").count() == 0
        page.goto(f"{console.address}/?token=wrong")
        expect(page.get_by_role("heading", level=1)).to_have_text("Wrong token")
    finally:
        context.close()


def test_everything_can_be_read_without_scripts(visit: Visit) -> None:
    page = visit("/", java_script_enabled=False)
    page.get_by_role("link", name="alice", exact=True).click()
    page.get_by_role("link", name="files:my-repo").click()
    page.get_by_role("link", name="docs/").click()
    page.get_by_role("link", name="docs/guide.md").click()
    expect(page.locator(".json")).to_contain_text('"path"')
    page.get_by_role("link", name="Changes").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Changes")


@contextmanager
def attacker(html: str) -> Iterator[str]:
    """Serve a page at another origin, and return its url."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
