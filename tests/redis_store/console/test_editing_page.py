"""Editing in browsers: two of them on one key, by keyboard, and what is selected in a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from redis_store import Client
from tests.support.consoles import HOSTILE, expect
from tests.support.screenshots import link

if TYPE_CHECKING:
    from playwright.sync_api import Page

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
