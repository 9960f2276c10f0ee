"""The pages of users, namespaces and keys, and what can be done there: with names and values that are hard to show."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import redis

from redis_store import Client, connect
from redis_store.admin import Admin
from redis_store.values.rules import MAX_DEPTH
from tests.redis_store.admin.conftest import HARD_NAMES, HARD_USERS
from tests.support.in_process import InProcess
from tests.support.servers import Server, empty_database

HARD_KEYS = ("<script>alert(1)</script>", "a\nb\r\nc", "\u202eevil", "a/b:c", "%41 +&=#?", "\"'>", "é", "k" * 3000)


@pytest.fixture(scope="module")
def url(one_server: Server) -> Iterator[str]:
    """The url of an empty database."""
    with empty_database(one_server, 8) as url:
        yield url


@pytest.fixture
def raw(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as raw:
        raw.flushdb()
        yield raw


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pages count and read anew and wait for it, as on a machine that is not busy."""
    for name in ("snapshots.WAITED_S", "snapshots.ALWAYS_COUNTED_S", "key_lists.READING_WAITED_S"):
        monkeypatch.setattr(f"redis_store.console.{name}", 30.0)
    for name in ("key_lists.ALWAYS_READ_S", "searches.SEARCH_WAITED_S"):
        monkeypatch.setattr(f"redis_store.console.{name}", 30.0)


@pytest.fixture
def client(url: str, raw: redis.Redis) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def console(url: str, raw: redis.Redis) -> Iterator[InProcess]:
    with InProcess(url) as console:
        yield console


def links_of(page: str, path: str) -> list[dict[str, str]]:
    """Return the queries of a page's links to a path."""
    found = (urlsplit(link.replace("&amp;", "&")) for link in re.findall(r'href="([^"]*)"', page))
    return [{name: texts[0] for name, texts in parse_qs(one.query).items()} for one in found if one.path == path]


def test_empty_server_teaches(console: InProcess, raw: redis.Redis) -> None:
    text = console.text("/")
    assert 'data_store.set("greeting", "hello")' in text
    exec(text[text.index("import redis_store") : text.index("Then load")])
    assert "alice" in console.text("/")


def test_users_are_searched_and_sorted(console: InProcess, client: Client) -> None:
    for number, user in enumerate(("anna", "Berta", "bernd")):
        client.store(user=user).set_many({str(key): "x" * 100 for key in range(number + 1)})
        time.sleep(0.002)  # times of writes are in ms
    assert [one["user"] for one in links_of(console.get("/").text, "/user")] == ["Berta", "anna", "bernd"]
    assert [one["user"] for one in links_of(console.get("/", text="BER").text, "/user")] == ["Berta", "bernd"]
    for order in ("keys", "memory", "last-write"):
        found = [one["user"] for one in links_of(console.get("/", by=order).text, "/user")]
        assert found == ["bernd", "Berta", "anna"]


@pytest.mark.parametrize("user", HARD_USERS)
def test_hard_names_are_followed_from_page_to_page(console: InProcess, client: Client, user: str) -> None:
    names = [*HARD_NAMES, "<b>bold</b>"]
    for name in names:
        client.store(user=user, namespace=name).set_many(dict.fromkeys(HARD_KEYS, name))
    assert {"user": user} in links_of(console.get("/").text, "/user")
    page = console.get("/user", user=user).text
    assert [one["namespace"] for one in links_of(page, "/namespace")] == sorted(names)
    assert "<b>bold" not in page
    page = console.get("/namespace", user=user, namespace=names[0], flat=1).text
    assert [one["key"] for one in links_of(page, "/key")] == sorted(HARD_KEYS)
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert '<span class="escape">\\u202e</span>evil' in page
    page = console.get("/key", user=user, namespace=names[0], key=HARD_KEYS[0])
    assert page.status_code == 200
    assert "<script>alert" not in page.text


@pytest.mark.parametrize("key", HARD_KEYS)
def test_hard_keys_are_edited_and_deleted_as_they_are(console: InProcess, client: Client, key: str) -> None:
    store = client.store(user="a\nb", namespace="n\r\nm")
    store.set_many({key: [1], f"{key}x": 2, "left": 3})
    fields = as_browser_sends(console.form("/edit", "/do/save", user="a\nb", namespace="n\r\nm", key=key))
    saved = console.post("/do/save", {**fields, "value": '{"a":\r\n 1}', "expiry": "keep"})
    assert saved.status_code == 303
    assert store.get(key) == {"a": 1}
    form = as_browser_sends(console.form("/key", "/do/delete", user="a\nb", namespace="n\r\nm", key=key))
    asked = console.post("/do/delete", form)
    assert asked.status_code == 200
    assert store.contains(key)
    sure = as_browser_sends(form_fields(asked.text))
    assert console.post("/do/delete", sure).status_code == 303
    assert store.list_keys() == sorted((f"{key}x", "left"))


def as_browser_sends(fields: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the fields with their line ends as a browser sends them."""
    return {name: [re.sub(r"\r\n|\r|\n", "\r\n", text) for text in texts] for name, texts in fields.items()}


def form_fields(page: str) -> dict[str, list[str]]:
    from html import unescape

    fields: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page):
        fields.setdefault(name, []).append(unescape(value))
    return fields


def test_namespace_with_line_ends_is_searched(console: InProcess, client: Client) -> None:
    client.store(user="a\nb", namespace="n\rm").set("report", "quarterly")
    page = console.get("/namespace", user="a\nb", namespace="n\rm").text
    [form] = re.findall(r'<form class="search".*?</form>', page, re.DOTALL)
    fields = {name: texts[0] for name, texts in as_browser_sends(form_fields(form)).items()}
    assert "quarterly" in console.text("/namespace", **fields, text="QUARTER")


def test_user_page_samples_writers_and_expiry(console: InProcess, client: Client) -> None:
    store = client.store(user="u", namespace="n", agent="ann")
    store.set_many({"a": 1, "b": 2}, ttl=1000)
    client.store(user="u", namespace="n", agent="<i>bob").set("c", 3)
    page = console.get("/user", user="u").text
    assert "&lt;i&gt;bob" in page
    assert "2 of 3" in console.text("/user", user="u")


def test_user_page_shows_hit_rates(console: InProcess, client: Client) -> None:
    cache = client.store(user="u", namespace="cache")
    for key in ("a", "a", "a", "b"):  # the computation of b reports the two hits of a
        cache.get_or_set(key, lambda: 1)
    client.store(user="u", namespace="other").set("a", 1)
    client.store(user="v", namespace="other").get_or_set("a", lambda: 1)
    page = console.get("/user", user="u").text
    assert page.count('title="2 hits, 2 computations">50%<') == 1
    assert page.count("%<") == 1


def test_keys_that_are_not_utf_8_are_listed(console: InProcess, raw: redis.Redis) -> None:
    raw.hset("user:u:ns:default", b"\xff<i>", "1")
    text = console.text("/namespace", user="u", namespace="default")
    assert "1 key" in text
    assert "\\xff<i>" in text
    assert "written by hand" in text


def test_first_page_tells_of_the_server(console: InProcess, client: Client) -> None:
    client.store(user="u").get("a")
    text = console.text("/")
    assert "clients" in text or "1 client" in text
    assert "hit rate" in text


def test_search_masks_what_it_did_not_search_for(console: InProcess, client: Client) -> None:
    store = client.store(user="u", namespace="n")
    store.set("one", {"a": "x" * 200, "password": "hunter2", "title": "the needle", "token": "t0ken"})
    store.set("prefix/two", "a needle in a text, sk-abcdefghijklmnopqrstuvwxyz")
    text = console.text("/namespace", user="u", namespace="n", text="needle")
    assert "the needle" in text
    assert "a needle in a text" in text
    for secret in ("hunter2", "t0ken", "sk-abc"):
        assert secret not in text
    only = console.text("/namespace", user="u", namespace="n", text="needle", prefix="prefix/")
    assert "1 key found" in only


def test_search_shows_no_more_of_a_text_whose_name_is_cut_off(console: InProcess, client: Client) -> None:
    client.store(user="u", namespace="n").set("one", {"password": "begin " + "hidden " * 50 + "needle"})
    text = console.text("/namespace", user="u", namespace="n", text="NEEDLE")
    assert "…NEEDLE…" in text
    assert "hidden" not in text


def test_search_masks_values_whose_key_is_a_secret(console: InProcess, client: Client) -> None:
    client.store(user="u").set_many({"api_token": "plain-words", "other": "plain-words"})
    found = console.get("/namespace", user="u", namespace="default", text="plain").text
    assert "api_token" in found
    assert found.count("plain-words") == 1


class TestValue:
    """A value on its page."""

    def shown(self, console: InProcess, client: Client, value: object, **query: object) -> str:
        client.store(user="u").set("k", value, {"source": "<web>"})
        return console.text("/key", user="u", namespace="default", key="k", **query)

    def test_facts_and_metadata(self, console: InProcess, client: Client) -> None:
        client.store(user="u", agent="ann", run="r-1").set("k", 1, {"source": "<web>"}, ttl=7300)
        text = console.text("/key", user="u", namespace="default", key="k")
        for fact in ("by ann", "r-1", "in 2 h", '"<web>"', str(client.store(user="u").info("k").version)):
            assert fact in text

    def test_secrets_are_masked(self, console: InProcess, client: Client) -> None:
        secrets = {
            "password": "hunter2",
            "credentials": {"name": "zoe", "pin": 4711},
            "note": "use sk-abcdefghijklmnopqrstuvwxyz now",
            "pem": "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
        }
        text = self.shown(console, client, secrets)
        for secret in ("hunter2", "zoe", "4711", "sk-abc", "\nabc"):
            assert secret not in text
        assert "use *** now" in text
        assert console.get("/value", user="u", namespace="default", key="k").json() == secrets
        client.store(user="u").set("api_key", ["s3cret"])
        assert "s3cret" not in console.text("/key", user="u", namespace="default", key="api_key")
        assert "s3cret" not in console.text("/key", user="u", namespace="default", key="api_key", at="[0]")

    def test_big_list_is_shown_in_parts(self, console: InProcess, client: Client) -> None:
        text = self.shown(console, client, {"rows": [f"row-{number}" for number in range(1000)]})
        assert "row-199" in text
        assert "row-200" not in text
        assert "800 more" in text
        part = self.shown(
            console, client, {"rows": [f"row-{number}" for number in range(1000)]}, at='["rows"]', begin=950
        )
        assert "row-999" in part
        assert "row-949" not in part

    def test_text_of_a_megabyte_is_shown_in_parts(self, console: InProcess, client: Client) -> None:
        words = " ".join(f"w{number}" for number in range(150_000))
        self.shown(console, client, words)
        found, begin = "", "0"
        for _ in range(100):
            page = console.get("/key", user="u", namespace="default", key="k", begin=begin).text
            assert len(page) < 100_000
            found += re.search(r'<pre class="wrap">(.*?)</pre>', page, re.DOTALL)[1]
            following = [one["begin"] for one in links_of(page, "/key") if int(one.get("begin", 0)) > int(begin)]
            if not following:
                break
            begin = following[0]
        assert found == words

    def test_secret_is_not_shown_in_two_halves(self, console: InProcess, client: Client) -> None:
        secret = "sk-" + "aB3" * 20
        value = "x " * (64 * 512 - 10) + secret + " y" * 1000
        for begin in (0, 64 * 1024):
            text = self.shown(console, client, value, begin=begin)
            assert "aB3aB3" not in text

    def test_huge_numbers_are_exact(self, console: InProcess, client: Client) -> None:
        assert str(10**400 + 1) in self.shown(console, client, [10**400 + 1])

    def test_deep_value(self, console: InProcess, client: Client) -> None:
        value: object = "deepest"
        for _ in range(MAX_DEPTH):
            value = [value]
        at: str | None = None
        for _ in range(20):
            self.shown(console, client, value, **({"at": at} if at else {}))
            page = console.get("/key", user="u", namespace="default", key="k", **({"at": at} if at else {})).text
            if "deepest" in page:
                break
            at = max((one["at"] for one in links_of(page, "/key") if "at" in one), key=len)
        assert "deepest" in page

    @pytest.mark.parametrize("text", [b"{not json", b"\xff\xfe<script>", b"", b"NaN", b'"\x01'])
    def test_what_was_written_by_hand_is_shown_and_mended(
        self, console: InProcess, client: Client, raw: redis.Redis, text: bytes
    ) -> None:
        raw.hset("user:u:ns:default", "k", text)
        page = console.get("/key", user="u", namespace="default", key="k")
        assert page.status_code == 200
        assert "not JSON" in page.text
        assert "<script>" not in page.text.partition("<main")[2]
        fields = console.form("/edit", "/do/save", user="u", namespace="default", key="k")
        assert console.post("/do/save", {**fields, "value": "[1]", "expiry": "keep"}).status_code == 303
        assert client.store(user="u").get("k") == [1]

    @pytest.mark.parametrize("at", ["x", "[5]", '["x"]', "{}", "[null]", "[[", '["0"]', "[-1]"])
    def test_parts_that_are_not_there(self, console: InProcess, client: Client, at: str) -> None:
        client.store(user="u").set("k", [1])
        assert console.get("/key", user="u", namespace="default", key="k", at=at).status_code == 404


class TestEdit:
    """Saving a value over the one that was shown."""

    where = {"user": "u", "namespace": "default", "key": "k"}  # noqa: RUF012

    def save(self, console: InProcess, fields: dict[str, list[str]], value: str, **more: str) -> int:
        self.answer = console.post("/do/save", {**fields, "value": value, "expiry": "keep", **more})
        return self.answer.status_code

    def test_new_key(self, console: InProcess, client: Client) -> None:
        fields = console.form("/edit", "/do/save", user="u", namespace="default")
        new = {"new_namespace": "n/m", "new_key": "a b"}
        assert self.save(console, fields, '"x"', **new, expiry="after", life="2h") == 303
        info = client.store(user="u", namespace="n/m").info("a b")
        assert 7100 < (info.expires_at - info.updated_at).total_seconds() < 7201
        assert self.save(console, fields, '"y"', **new) == 409
        assert client.store(user="u", namespace="n/m").get("a b") == "x"

    def test_expiry_and_metadata_stay(self, console: InProcess, client: Client) -> None:
        store = client.store(user="u")
        store.set("k", 1, {"m": 1}, ttl=1000)
        before = store.info("k")
        fields = console.form("/edit", "/do/save", **self.where)
        assert self.save(console, fields, "2") == 303
        after = store.info("k")
        assert (after.expires_at, after.metadata, after.created_at) == (before.expires_at, {"m": 1}, before.created_at)
        fields = console.form("/edit", "/do/save", **self.where)
        assert self.save(console, fields, "3", expiry="never") == 303
        assert store.info("k").expires_at is None

    @pytest.mark.parametrize("change", ["set", "same", "delete", "external", "again"])
    def test_nothing_is_saved_over_what_was_not_shown(
        self, console: InProcess, client: Client, raw: redis.Redis, change: str
    ) -> None:
        store = client.store(user="u", agent="<i>ann")
        store.set("k", {"a": 1})
        fields = console.form("/edit", "/do/save", **self.where)
        if change == "set":
            store.set("k", {"a": 2})
        elif change == "same":
            store.set("k", {"a": 1})
        elif change in ("delete", "again"):
            store.delete("k")
        if change == "again":
            store.set("k", {"a": 1})
        if change == "external":
            raw.hset("user:u:ns:default", "k", '{"a":2}')
        there = store.get("k")
        assert self.save(console, fields, '{"mine": 1}') == 409
        assert store.get("k") == there
        assert "mine" in self.answer.text
        assert "<i>ann" not in self.answer.text
        # Both are shown, and mine is saved over the one that is there now.
        assert there is None or "&#34;a&#34;: 2" in self.answer.text or change in ("same", "again")
        assert self.save(console, form_fields(self.answer.text), '{"mine": 1}') == 303
        assert store.get("k") == {"mine": 1}

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("{", "Line 1, column 2"),
            ('{"a":\n x}', "Line 2, column 2"),
            ("", "Line 1, column 1"),
            ("NaN", ""),
            ('"\\ud800"', ""),
            ("[" * 100_000, ""),
        ],
    )
    def test_wrong_json_is_not_saved(self, console: InProcess, client: Client, value: str, message: str) -> None:
        client.store(user="u").set("k", 1)
        fields = console.form("/edit", "/do/save", **self.where)
        assert self.save(console, fields, value) == 400
        assert message in self.answer.text
        assert client.store(user="u").get("k") == 1
        assert self.save(console, form_fields(self.answer.text), "2") == 303  # the form goes on from there

    @pytest.mark.parametrize("more", [{"expiry": "after", "life": "soon"}, {"expiry": "after", "life": ""}])
    def test_wrong_expiry_is_not_saved(self, console: InProcess, client: Client, more: dict[str, str]) -> None:
        client.store(user="u").set("k", 1)
        fields = console.form("/edit", "/do/save", **self.where)
        assert self.save(console, fields, "2", **more) == 400
        assert client.store(user="u").get("k") == 1

    def test_values_are_stored_as_agents_store_them(self, console: InProcess, client: Client, raw: redis.Redis) -> None:
        client.store(user="u").set("k", 1)
        fields = console.form("/edit", "/do/save", **self.where)
        big = 10**30
        assert self.save(console, fields, f'{{ "a" : [1.0, {big}, "ü"] }}') == 303
        assert raw.hget("user:u:ns:default", "k") == f'{{"a":[1.0,{big},"ü"]}}'.encode()


class TestDeleting:
    """Keys, groups, namespaces and users."""

    def test_selected_keys(self, console: InProcess, client: Client) -> None:
        store = client.store(user="u")
        store.set_many({f"k{number}": 1 for number in range(30)})
        fields = console.form("/namespace", "/do/delete", user="u", namespace="default")
        chosen = [f"k{number}" for number in range(25)]
        asked = console.post("/do/delete", {**fields, "key": chosen})
        assert "Delete 25 keys" in asked.text
        assert "and 5 more" in asked.text
        assert len(store) == 30
        assert console.post("/do/delete", form_fields(asked.text)).headers["location"].endswith("done=deleted&count=25")
        assert len(store) == 5
        assert console.post("/do/delete", fields).headers["location"].endswith("done=nothing&count=0")

    def test_group(self, console: InProcess, client: Client) -> None:
        store = client.store(user="u")
        store.set_many({"a/1": 1, "a/2": 1, "ab": 1, "a": 1})
        fields = console.form("/namespace", "/do/delete-subtree", user="u", namespace="default", prefix="a/")
        asked = console.post("/do/delete-subtree", fields)
        assert "Delete 2 keys" in asked.text
        assert console.post("/do/delete-subtree", form_fields(asked.text)).status_code == 303
        assert store.list_keys() == ["a", "ab"]
        assert "2 keys" in console.text("/namespace", user="u", namespace="default")

    def test_namespace_and_back(self, console: InProcess, client: Client) -> None:
        store = client.store(user="u")
        store.set_many({"a": 1, "b": 2}, {"m": 1})
        fields = console.form("/namespace", "/do/clear", user="u", namespace="default")
        asked = console.post("/do/clear", fields)
        assert len(store) == 2
        console.post("/do/clear", form_fields(asked.text))
        assert len(store) == 0
        back = console.form("/namespace", "/do/undo", user="u", namespace="default")
        assert console.post("/do/undo", back).headers["location"].endswith("done=undone&count=2")
        assert store.get_all() == {"a": 1, "b": 2}
        assert "2 keys brought back" in console.text(
            "/namespace", user="u", namespace="default", done="undone", count=2
        )

    def test_user_whose_name_is_typed(self, console: InProcess, client: Client) -> None:
        client.store(user="u").set("a", 1)
        client.store(user="v").set("a", 1)
        asked = console.post("/do/delete-user", console.form("/user", "/do/delete-user", user="u"))
        fields = form_fields(asked.text)
        wrong = console.post("/do/delete-user", {**fields, "typed": "v"})
        assert "this is not the name" in wrong.text
        assert client.store(user="u").get("a") == 1
        assert console.post("/do/delete-user", {**fields, "typed": "u"}).status_code == 303
        assert [one.user for one in Admin(client).list_users()] == ["v"]

    def test_every_change_is_in_the_audit(self, console: InProcess, client: Client) -> None:
        client.store(user="u").set_many({"a/b": 1, "c": 1})
        where = {"user": "u", "namespace": "default"}
        fields = console.form("/edit", "/do/save", **where, key="c")
        console.post("/do/save", {**fields, "value": "2", "expiry": "keep"})
        for what, more in (("delete", {"key": "c"}), ("delete-subtree", {"prefix": "a/"}), ("clear", {}), ("undo", {})):
            console.post(f"/do/{what}", {"csrf": fields["csrf"], **where, **more, "sure": "1"})
        done = [(one.by, one.what, one.count) for one in Admin(client).iter_audit() if one.outcome == "done"]
        assert [what for _, what, _ in done] == ["set", "delete", "delete --prefix", "clear", "undo"]
        assert {by for by, _, _ in done} == {"tester"}
        text = console.text("/audit")
        assert text.index("clear") < text.index("delete")
        assert "No change contains nobody" in console.text("/audit", text="nobody")


def test_many_keys_leave_two_entries_in_the_audit(
    console: InProcess, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_store.console.pages.namespace.KEYS_PER_DELETION", 10)
    client.store(user="u").set_many({f"a/{number}": 1 for number in range(25)})
    fields = console.form("/namespace", "/do/delete-subtree", user="u", namespace="default", prefix="a/")
    console.post("/do/delete-subtree", {**fields, "sure": "1"})
    found = [(one.what, one.outcome, one.key, one.count) for one in Admin(client).iter_audit()]
    assert found == [("delete --prefix", "begun", "a/", None), ("delete --prefix", "done", "a/", 25)]


def test_longest_names_leave_pages_that_a_browser_shows(console: InProcess, client: Client) -> None:
    store, long = client.store(user="u"), "k" * 60_000
    for number in range(6):
        store.set(f"{long}{number:02}", {f"{long}{at}": {"x": [{"y": long}] * 10} for at in range(3)})
    seen: set[str] = set()
    query: dict[str, str] = {}
    for _ in range(20):
        page = console.get("/namespace", user="u", namespace="default", flat=1, **query).text
        assert len(page) < 3_000_000
        seen |= {one["key"] for one in links_of(page, "/key")}
        [after] = [
            one["after"] for one in links_of(page, "/namespace") if one.get("after", "") > query.get("after", "")
        ] or [""]
        if not after:
            break
        query = {"after": after}
    assert len(seen) == 6
    page = console.get("/key", user="u", namespace="default", key=f"{long}00")
    assert page.status_code == 200
    assert len(page.text) < 3_000_000
    found = console.get("/namespace", user="u", namespace="default", text="k")
    assert len(found.text) < 3_000_000


def test_export_holds_what_begins_with_the_prefix(console: InProcess, client: Client) -> None:
    store = client.store(user="u")
    store.set_many({"a/1": 1, "a/2": {"x": None}, "b": 1})
    lines = console.get("/export", user="u", namespace="default", prefix="a/").text.splitlines()
    assert [json.loads(line)["key"] for line in lines[1:-1]] == ["a/1", "a/2"]
    assert json.loads(lines[-1])["end"]["keys"] == 2


def test_read_only_console_offers_no_changes(url: str, client: Client) -> None:
    client.store(user="u").set_many({"a/b": 1, "c": 1})
    with InProcess(url, read_only=True) as console:
        for path, query in (
            ("/", {}),
            ("/user", {"user": "u"}),
            ("/namespace", {"user": "u", "namespace": "default", "prefix": "a/"}),
            ("/key", {"user": "u", "namespace": "default", "key": "c"}),
        ):
            page = console.get(path, **query)
            assert page.status_code == 200
            assert 'method="post"' not in page.text
            assert "/edit" not in page.text
        assert console.get("/edit", user="u", namespace="default", key="c").status_code == 403
        fields = {"user": "u", "namespace": "default", "key": "c", "sure": "1"}
        assert console.post("/do/delete", fields).status_code == 403
    assert client.store(user="u").get("c") == 1


def test_user_of_the_proxy_is_in_the_audit(url: str, client: Client) -> None:
    from redis_store.console.settings import networks_of

    client.store(user="u").set("a", 1)
    with InProcess(url, address="10.0.0.1", auth="proxy", trusted=networks_of(["10.0.0.1"])) as console:
        zoe = {"x-forwarded-user": "zoe"}
        page = console.get("/namespace", zoe, user="u", namespace="default").text
        form_token = re.search(r'name="csrf" value="([^"]*)"', page)[1]
        fields = {"csrf": form_token, "user": "u", "namespace": "default", "key": "a", "sure": "1"}
        assert console.post("/do/delete", fields, zoe).status_code == 303
    assert [(one.by, one.what) for one in Admin(client).iter_audit()] == [("zoe", "delete")]


@pytest.mark.parametrize("path", ["/user", "/namespace", "/key", "/edit", "/export", "/value", "/nowhere"])
def test_incomplete_urls_are_told(console: InProcess, path: str) -> None:
    answer = console.get(path)
    assert answer.status_code == 404
    assert "Not found" in answer.text


@pytest.mark.parametrize("namespace", ["x" * 1025, "\ud800"])
def test_impossible_names_are_told(console: InProcess, namespace: str) -> None:
    query = f"user=u&namespace={'x' * 1025}" if len(namespace) > 1 else "user=u&namespace=%ED%A0%80"
    assert console.get(f"/namespace?{query}").status_code in (200, 400)


def test_page_that_fails_tells_no_more_than_that(
    console: InProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*given: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("redis_store.console.pages.users.in_order", fail)
    answer = console.get("/")
    assert answer.status_code == 500
    assert "a secret" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert "a secret" in caplog.text


def test_link_brings_no_text_of_its_own(console: InProcess) -> None:
    assert "pay here" not in console.get("/", done="pay here", notice="pay here").text


def test_ten_thousand_namespaces(console: InProcess, raw: redis.Redis) -> None:
    pipe = raw.pipeline(transaction=False)
    for number in range(10_000):
        pipe.hset(f"user:many:ns:n{number:05}", "k", "1")
    pipe.execute()
    page = console.get("/user", user="many")
    assert len(links_of(page.text, "/namespace")) == 100
    assert "of 10,000" in page.text
    assert "n09999" in console.get("/user", user="many", at=9900).text
    assert len(page.content) < 150_000


def test_server_that_goes_away_and_comes_back(start) -> None:
    server = start("valkey9")
    with connect(server.url, user="u") as store:
        store.set("a", 1)
    with InProcess(server.url, operator="x") as console:
        assert "u" in console.text("/")
        server.kill()
        gone = console.get("/namespace", user="u", namespace="default")
        assert gone.status_code == 503
        assert 'hx-trigger="every 3s"' in gone.text
        assert console.get("/").status_code == 503
        server.restart()
        for path, query in (("/", {}), ("/namespace", {"user": "u", "namespace": "default"})):
            assert console.get(path, **query).status_code == 200


@pytest.mark.parametrize("name", ["5", "null", '["u"]', '{"a": 1}', "[" * 100_000])
def test_forms_that_name_no_dead_letter_are_told(console: InProcess, name: str) -> None:
    token = re.search(r'name="csrf-token" content="([^"]+)"', console.get("/").text)
    assert token is not None
    answer = console.post("/do/dead-letters", {"csrf": token[1], "letter": quote(name), "how": "drop"})
    assert answer.status_code == 400
    assert "names no dead letter" in answer.text
