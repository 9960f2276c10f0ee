"""What holds agents up and what they could not do: consumers, dead letters, locks, limits; what an operator does about it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import redis

from redis_store import Client, LockLost
from redis_store.admin import Admin, KeptOperation, KeptRun
from redis_store.brokers.kept_runs import keep
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
        limit = page.get_by_role("row", name="calls")
        expect(limit).to_contain_text("2 in 3600 s")  # waits until they are gathered
        assert limit.locator("td").all_text_contents()[:3] == ["2 in 3600 s", "2", "0"]
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


def test_a_run_leads_to_a_key_and_back_and_is_dropped(visit: Visit, client: Client, admin: Admin, user: str) -> None:
    began = datetime.now(UTC)
    store = client.store(user=user, agent="a", run="wrote-it")
    store.set("k/1", 1)
    done = KeptOperation(began, "a", "set", "default", "k/1", 1, None, 1, 0.2, None, "wrote-it")
    for run in ("wrote-it", "other"):
        kept = KeptRun(run, f"agent {run}", began, 0.5, "full", "default", "{}", "{}", operations=(done,))
        keep(store, kept, 10, 2**20, 60_000)
    page = visit(link("/key", user=user, namespace="default", key="k/1"))
    page.get_by_role("link", name="wrote-it").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("agent wrote-it")
    page.get_by_role("link", name="k/1").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("k/1")
    page.goto(page.url.partition("/key")[0] + link("/runs", user=user))
    page.get_by_role("checkbox", name="Select run wrote-it").check()
    page.get_by_text("Drop …").click()
    page.get_by_role("button", name="Drop the records").click()
    expect(page.get_by_role("status")).to_have_text("1 record dropped.")
    assert [one.run for one in admin.list_runs(user)] == ["other"]


def test_permissions_are_tried_by_keyboard_and_kept_in_the_url(visit: Visit, client: Client, user: str) -> None:
    for name in ("files:a", "files:b", "secret"):
        client.store(user=user, namespace=name).set("k", 1)
    page = visit(link("/see-as", user=user))
    page.get_by_label("Reads", exact=True).fill("files:*\n")
    page.get_by_label("Ask about a namespace").focus()
    page.keyboard.type("secret")
    page.keyboard.press("Enter")
    page.wait_for_url("**ask=secret**")
    expect(page.get_by_role("rowheader")).to_have_text(["files:a", "files:b"])
    expect(page.get_by_text("AccessDenied: Reading")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Reads", exact=True)).to_have_value("files:*\n")


def test_the_doctor_mends_at_the_press_of_a_button(visit: Visit, seeded: Server, admin: Admin, user: str) -> None:
    with redis.Redis.from_url(seeded.url) as raw:
        raw.hset(f"user:{user}:info:gone", "k", "{}")
        page = visit("/doctor?again=1")
        page.get_by_text("Mend 1 finding …").click()
        page.get_by_role("button", name="Mend them").click()
        wait_until(lambda: not raw.exists(f"user:{user}:info:gone"), "the info was removed")
    expect(page.get_by_text("mended", exact=True)).to_be_visible()
    assert [one.by for one in admin.iter_audit() if one.what == "doctor --repair"] == ["tester", "tester"]
