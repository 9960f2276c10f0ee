"""Which requests reach the console's pages: those of its own browser, and no others."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import Any

import httpx
import pytest

from redis_store.console import guard as guarding
from redis_store.console.guard import LARGEST_FORM_BYTES, Guard
from redis_store.console.sessions import SESSION_S
from redis_store.console.settings import ConsoleSettings, networks_of
from redis_store.errors import InvalidSettings

HERE = "http://127.0.0.1:8377"


class Guarded:
    """The guard before an application that says who reached it, and that echoes forms."""

    def __init__(self, address: str = "127.0.0.1", **settings: Any) -> None:
        self.now = 0.0
        self.settings = ConsoleSettings(**settings)
        self.guard = Guard(self._page, self.settings, self._refused, lambda: self.now)
        transport = httpx.ASGITransport(self.guard, client=(address, 1))
        self.client = httpx.AsyncClient(transport=transport, base_url=HERE)

    async def _page(self, scope: Any, receive: Any, send: Any) -> None:
        visitor = scope.get("state", {}).get("visitor")
        body = (await receive())["body"] if scope["method"] == "POST" else b""
        token = visitor.form_token if visitor else ""
        text = f"{token}|{visitor and visitor.operator}|".encode() + body
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": text})

    def _refused(self, scope: Any, refusal: Any) -> Any:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": refusal.status, "headers": []})
            await send({"type": "http.response.body", "body": refusal.title.encode()})

        return answer

    def ask(self, method: str, path: str = "/", **options: Any) -> httpx.Response:
        return asyncio.run(self.client.request(method, path, **options))

    def enter(self) -> str:
        """Let the browser in. Return the form token of a page."""
        assert self.ask("GET", f"/?token={self.settings.token}").status_code == 303
        return self.ask("GET").text.partition("|")[0]


def test_token_of_url_becomes_a_cookie() -> None:
    console = Guarded()
    answer = console.ask("GET", f"/key?user=a%2Fb&token={console.settings.token}&key=x")
    assert (answer.status_code, answer.headers["location"]) == (303, "/key?user=a%2Fb&key=x")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("redis-store-ui-8377=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert console.settings.token not in cookie
    assert console.ask("GET", "/key?user=a").status_code == 200


def test_redirection_never_leaves_the_console() -> None:
    console = Guarded()
    answer = console.ask("GET", f"{HERE}//evil.example/?token={console.settings.token}")
    assert answer.headers["location"] == "/evil.example/"


@pytest.mark.parametrize("path", ["/", "/?token=wrong", "/?token="])
def test_nobody_gets_in_without_the_token(path: str) -> None:
    assert Guarded().ask("GET", path).status_code == 401


@pytest.mark.parametrize("other", ['a={"b": 1}', 'a="x', "a b=c", "a[]=1", "redis-store-ui-8377=x"])
def test_cookies_of_other_programs_do_not_hide_the_session(other: str) -> None:
    console = Guarded()
    console.enter()
    session = console.client.cookies[console.guard.cookie]
    console.client.cookies.clear()
    assert console.ask("GET", headers={"cookie": f"{other}; {console.guard.cookie}={session}"}).status_code == 200


def test_sessions_end_when_they_lie_unused() -> None:
    console = Guarded()
    console.enter()
    for _ in range(3):
        console.now += SESSION_S - 1
        assert console.ask("GET").status_code == 200
    console.now += SESSION_S + 1
    answer = console.ask("GET")
    assert (answer.status_code, answer.text) == (401, "The session has ended")


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redis_store.console.sessions.MOST_SESSIONS", 2)
    console = Guarded()
    console.enter()
    other = Guarded()
    other.guard = console.guard
    for _ in range(2):
        console.guard._sessions.begin()  # two more browsers
    assert console.ask("GET").status_code == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8377", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8377.evil.example", "", "[::1"],
)
def test_foreign_hosts_are_refused(host: str) -> None:
    console = Guarded()
    form_token = console.enter()
    assert console.ask("GET", headers={"host": host}).status_code == 403
    assert console.ask("GET", "/static/console.css", headers={"host": host}).status_code == 403
    assert console.ask("POST", headers={"host": host}, data={"csrf": form_token}).status_code == 403


@pytest.mark.parametrize("host", ["localhost:8377", "LOCALHOST:8377", "[::1]:8377", "console.example", "other:81"])
def test_own_hosts_are_accepted(host: str) -> None:
    console = Guarded(allowed_hosts=("console.example", "other:81"))
    console.enter()
    assert console.ask("GET", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://127.0.0.1:8378"},
        {"origin": "http://localhost:8377"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": HERE, "sec-fetch-site": "cross-site"},
    ],
    ids=str,
)
def test_forms_of_other_sites_are_refused(headers: dict[str, str]) -> None:
    console = Guarded()
    form_token = console.enter()
    assert console.ask("POST", headers=headers, data={"csrf": form_token}).status_code == 403


def test_other_sites_load_nothing() -> None:
    console = Guarded()
    console.enter()
    loaded = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert console.ask("GET", headers=loaded).status_code == 403
    assert console.ask("GET", headers={**loaded, "sec-fetch-mode": "navigate"}).status_code == 200


def test_form_reaches_the_page_as_it_was_sent() -> None:
    console = Guarded()
    form_token = console.enter()
    answer = console.ask("POST", headers={"origin": HERE}, data={"csrf": form_token, "value": "ü\n&="})
    assert answer.text.partition("|")[2].endswith("&value=%C3%BC%0A%26%3D")
    assert console.ask("POST", headers={"x-csrf-token": form_token}, content=b"{}").text.endswith("{}")


@pytest.mark.parametrize("given", ["", "x", "0123456789abcdef.", None])
def test_forms_need_the_token_of_their_session(given: str | None) -> None:
    console = Guarded()
    console.enter()
    fields = {"value": "1"} if given is None else {"csrf": given, "value": "1"}
    assert console.ask("POST", data=fields).status_code == 403


def test_form_tokens_of_other_sessions_are_refused() -> None:
    console = Guarded()
    first = console.enter()
    console.client.cookies.clear()
    second = console.enter()
    assert console.ask("POST", data={"csrf": second}).status_code == 200
    assert console.ask("POST", data={"csrf": first}).status_code == 403


def test_form_tokens_differ_from_page_to_page() -> None:
    console = Guarded()
    first, second = console.enter(), console.ask("GET").text.partition("|")[0]
    assert first != second
    assert console.ask("POST", data={"csrf": first}).status_code == 200


def test_big_forms_are_refused() -> None:
    console = Guarded()
    form_token = console.enter()
    start = f"csrf={form_token}&value=".encode()
    assert console.ask("POST", content=start + b"x" * (LARGEST_FORM_BYTES - len(start))).status_code == 200
    assert console.ask("POST", content=start + b"x" * LARGEST_FORM_BYTES).status_code == 413


def test_read_only_console_changes_nothing() -> None:
    console = Guarded(read_only=True)
    form_token = console.enter()
    assert console.ask("GET").status_code == 200
    answer = console.ask("POST", data={"csrf": form_token})
    assert (answer.status_code, answer.text) == (403, "Read-only")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(method: str) -> None:
    console = Guarded()
    console.enter()
    assert console.ask(method).status_code == 405


class TestProxy:
    """Users whom a reverse proxy names."""

    def console(self, address: str = "10.1.2.3", **settings: Any) -> Guarded:
        trusted = networks_of(["10.0.0.0/8", "::1"])
        return Guarded(address, auth="proxy", trusted=trusted, allowed_hosts=("console.example",), **settings)

    def test_user_is_the_operator(self) -> None:
        answer = self.console().ask("GET", headers={"x-forwarded-user": "zoë".encode()})
        assert answer.text.split("|")[1] == "zoë"
        answer = self.console(header="X-Email").ask("GET", headers={"x-email": "a@b", "x-forwarded-user": "eve"})
        assert answer.text.split("|")[1] == "a@b"

    @pytest.mark.parametrize("address", ["127.0.0.1", "11.0.0.1", "::2", "not an address", ""])
    def test_header_from_elsewhere_is_not_believed(self, address: str) -> None:
        assert self.console(address).ask("GET", headers={"x-forwarded-user": "eve"}).status_code == 403

    @pytest.mark.parametrize("address", ["10.255.0.1", "::1", "::ffff:10.0.0.1"])
    def test_header_of_the_proxy_is_believed(self, address: str) -> None:
        assert self.console(address).ask("GET", headers={"x-forwarded-user": "eve"}).status_code == 200

    @pytest.mark.parametrize("named", [[], [""], [" "], ["alice", "bob"], ["x" * 257]], ids=len)
    def test_one_user_has_to_be_named(self, named: list[str]) -> None:
        headers = [("x-forwarded-user", name) for name in named]
        assert self.console().ask("GET", headers=headers).status_code == 401

    def test_token_of_the_url_lets_nobody_in(self) -> None:
        console = self.console()
        assert console.ask("GET", f"/?token={console.settings.token}").status_code == 401

    def test_forms_belong_to_their_user(self) -> None:
        console = self.console()
        alice, bob = {"x-forwarded-user": "alice"}, {"x-forwarded-user": "bob"}
        form_token = console.ask("GET", headers=alice).text.partition("|")[0]
        assert console.ask("POST", headers=alice, data={"csrf": form_token}).status_code == 200
        assert console.ask("POST", headers=bob, data={"csrf": form_token}).status_code == 403

    def test_proxies_have_to_be_named(self) -> None:
        with pytest.raises(InvalidSettings, match="--trust"):
            ConsoleSettings(auth="proxy")
        with pytest.raises(InvalidSettings, match="--auth proxy"):
            ConsoleSettings(trusted=(ip_network("10.0.0.0/8"),))
        with pytest.raises(InvalidSettings, match=r"'10\.0\.0\.1/8' is no address"):
            networks_of(["10.0.0.1/8"])


@pytest.mark.parametrize("path", ["/", "/?token=wrong", "/static/x.css"])
def test_every_answer_forbids_what_is_not_the_consoles_own(path: str) -> None:
    headers = Guarded().ask("GET", path).headers
    policy = headers["content-security-policy"]
    assert policy == guarding.POLICY
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_settings_tell_their_url_and_hide_their_token() -> None:
    settings = ConsoleSettings(host="::1", port=9)
    assert settings.url == f"http://[::1]:9/?token={settings.token}"
    assert settings.is_local
    assert settings.token not in repr(settings)
    assert not ConsoleSettings(host="0.0.0.0").is_local
    assert ConsoleSettings().token != settings.token
