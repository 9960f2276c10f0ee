"""What holds agents up and what they could not do: consumers, dead letters, locks, limits; what an operator does about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from redis_store import Client, LockLost
from redis_store.admin import Admin
from tests.support.consoles import HOSTILE, ConsoleProcess, expect
from tests.support.screenshots import link
from tests.support.servers import Server, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

Visit = Callable[..., "Page"]


def letter(namespace: str, key: str, op: str = "set") -> dict[str, object]:
    """Return a dead letter as a consumer leaves it."""
    change = {"namespace": namespace, "key": key, "op": op, "agent": "writer"}
    return {
        "change": change,
        "error": {"type": "ValueError", "message": HOSTILE, "traceback": f"a\n  {HOSTILE}\n"},
        "tries": 2,
    }


def test_dead_letters_are_retried_and_dropped_from_the_page(
    visit: Visit, client: Client, admin: Admin, user: str
) -> None:
    store = client.store(user=user, namespace="in/box")
    dead = store.use_namespace("dead-letter:a b")
    store.set_many({"one": 1, "two": 2})
    dead.set_many({f"{key}@1": letter("in/box", key) for key in ("one", "two", "gone")})
    page = visit(link("/consumers", user=user))
    retry = page.get_by_role("button", name="Retry")
    expect(retry).to_be_disabled()
    page.get_by_role("checkbox", name="Select one@1").check()
    page.get_by_role("checkbox", name="Select gone@1").check()
    expect(page.get_by_text("2 selected")).to_be_visible()
    with store.watch() as watch:
        retry.click()
        expect(page.get_by_role("status")).to_have_text(
            "1 dead letter retried, 1 not: the key was deleted, the change was no write, or somebody was faster."
        )
        assert [(one.key, one.value) for one in watch.take(timeout=10)] == [("one", 1)]
    page.get_by_role("checkbox", name="Select all dead letters").check()
    page.get_by_text("Drop …").click()
    page.get_by_role("button", name="Drop them").click()
    expect(page.get_by_role("status")).to_have_text("2 dead letters dropped.")
    assert dead.list_keys() == []
    noted = [(one.by, one.what, one.key) for one in admin.iter_audit() if one.user == user]
    assert noted[0] == ("tester", "dead-letters retry", "one@1")
    assert sorted(noted[1:]) == [("tester", "dead-letters drop", "gone@1"), ("tester", "dead-letters drop", "two@1")]


def test_a_dead_letter_shows_its_traceback_and_leads_to_its_key(visit: Visit, client: Client, user: str) -> None:
    store = client.store(user=user, namespace="in/box")
    store.set("k?&=#", 1)
    store.use_namespace("dead-letter:c").set_many(
        {"1": letter("in/box", "k?&=#"), "2": letter("in/box", "x", "delete")}
    )
    page = visit(link("/consumers", user=user))
    page.get_by_role("link", name="ValueError").first.click()
    expect(page.locator("pre")).to_have_text(f"a\n  {HOSTILE}\n")
    address = page.get_by_role("link", name="k?&=#").get_attribute("href")
    assert address == link("/key", user=user, namespace="in/box", key="k?&=#")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_have_text("1 dead letter retried.")
    page.get_by_role("link", name="ValueError").click()
    expect(page.get_by_role("button", name="Retry")).to_be_disabled()  # there is nothing to write
    page.get_by_text("Drop …").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Drop it")).to_be_hidden()


def test_a_consumer_that_falls_behind_is_drawn(visit: Visit, client: Client, user: str) -> None:
    store = client.store(user=user, namespace="inbox")
    with store.watch(consumer="index", initial=True) as watch:
        store.set("a", 1)
        watch.done(watch.next_change(timeout=10))
        page = visit(link("/consumers", user=user))
        page.clock.install()
        page.reload()
        expect(page.get_by_text("working")).to_be_visible()
        for number in range(5):
            store.set(str(number), number)
        drawing = page.get_by_role("img", name="0 to 5 behind in ")

        def is_drawn() -> int:
            page.clock.run_for(5000)  # the page looks again every 5 seconds
            return drawing.count()

        wait_until(is_drawn, "the line is drawn")
    page.reload()
    expect(page.get_by_text("nobody works")).to_be_visible()


def test_a_lock_is_taken_from_its_holder(visit: Visit, client: Client, admin: Admin, user: str) -> None:
    store = client.store(user=user, agent="scout")
    lock = store.lock(HOSTILE, ttl=60)
    lock.acquire()
    page = visit(link("/locks", user=user))
    assert page.title() == "Locks and limits · redis-store"
    page.get_by_text("Release …").click()
    page.get_by_role("button", name="Release the lock").click()
    expect(page.get_by_role("status")).to_have_text("The lock was released.")
    assert admin.list_locks(user) == []
    with pytest.raises(LockLost):
        lock.release()
    assert [(one.by, one.what) for one in admin.iter_audit() if one.user == user] == [("tester", "locks release")]


def test_limits_and_computations_are_shown(visit: Visit, client: Client, user: str) -> None:
    store = client.store(user=user)
    for _ in range(2):
        store.rate_limit("calls", 2, per=3600).try_acquire()

    def look() -> int:
        page = visit(link("/locks", user=user))
        assert page.get_by_role("row", name="calls").locator("td").all_text_contents()[:3] == ["2 in 3600 s", "2", "0"]
        expect(page.get_by_role("row", name="slow/value")).to_contain_text("computing")
        return 1

    store.get_or_set("slow/value", look)


def test_a_console_for_reading_offers_and_accepts_no_change(visit: Visit, seeded: Server, client: Client) -> None:
    console = ConsoleProcess(seeded.url, "--read-only")
    try:
        page = visit("/consumers", of=console)
        expect(page.get_by_text("read-only")).to_be_visible()
        assert page.get_by_role("button").all_text_contents() == ["Light", "Dark", "Auto"]
        token = page.locator("meta[name=csrf-token]").get_attribute("content")
        answer = page.request.post(f"{console.address}/do/dead-letters", headers={"x-csrf-token": token or ""})
        assert answer.status == 403
    finally:
        console.stop()
