"""Decides which requests reach the pages: by host, origin, session or proxy, form token, and read-only mode.

A web page that an operator visits elsewhere can send requests here. It cannot read the answers, unless it makes its own name
point to this machine (DNS rebinding), which the check of ``Host`` stops. It cannot change anything, as its origin is another, its
requests carry no cookie (``SameSite=Strict``), and it does not know the form token. The answers forbid scripts, styles and
requests that are not the console's own, so that a name or value that escaped escaping would still do nothing.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis_store.admin.audit import LONGEST_OPERATOR
from redis_store.console.sessions import Sessions
from redis_store.console.settings import ConsoleSettings

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

FORM_FIELD = "csrf"
"""The field of each form with its form token; the first one."""

FORM_HEADER = "x-csrf-token"
"""The header with the form token, of requests that scripts send."""

LARGEST_FORM_BYTES = 32 * 1024 * 1024
"""Size of a form that is accepted, at most."""

LONGEST_FORM_TOKEN = 256
"""Size of the first field of a form with its name, in bytes, at most."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self';"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer, browsers send "Origin: null" with a form
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NOT_KEPT = (b"cache-control", b"no-store")
_SAFE_METHODS = ("GET", "HEAD")
STATIC = "/static/"
"""The beginning of the paths of styles and scripts, which hold no data and need no session."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """The sender of a request that was let through. Pages find it in ``request.state.visitor``."""

    form_token: str
    operator: str | None
    """The user whom a reverse proxy names, for the log of changes; None for the operator who started the console."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that does not reach the pages, and the page that says so."""

    status: int
    title: str
    text: str


class Guard:
    """The outermost part of the console, as ASGI middleware. `refused` makes the page of a refusal."""

    def __init__(
        self,
        app: Application,
        settings: ConsoleSettings,
        refused: Callable[[Scope, Refusal], Application],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._settings = settings
        self._refused = refused
        self._sessions = Sessions(clock)

    @property
    def cookie(self) -> str:
        """The name of the cookie. Browsers keep cookies by host, not by port, so it names the port."""
        return f"redis-store-ui-{self._settings.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with a refusal."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            send = _with_headers(scope, send)
            try:
                answer, receive = await self._decide(scope, receive)
            except _Disconnected:
                return
            if isinstance(answer, Refusal):
                answer = self._refused(scope, answer)
            await answer(scope, receive, send)
        else:  # no page uses a websocket
            await send({"type": "websocket.close", "code": 1008})

    async def _decide(self, scope: Scope, receive: Receive) -> tuple[Application | Refusal, Receive]:
        headers = _Headers(scope)
        refusal = self._wrong_place(scope, headers)
        if refusal is not None:
            return refusal, receive
        if scope["method"] in _SAFE_METHODS and scope["path"].startswith(STATIC):
            return self._app, receive
        who, operator = None, None
        if self._settings.auth == "proxy":
            named = self._named_user(scope, headers)
            if isinstance(named, Refusal):
                return named, receive
            who, operator = f"user:{named}", named
        else:
            given = _token_in(scope)
            if given is not None and scope["method"] in _SAFE_METHODS:
                return self._enter(scope, given), receive
            session = headers.cookie(self.cookie)
            if session is None or not self._sessions.use(session):
                return _ENDED if session else _NO_SESSION, receive
            who = f"session:{session}"
        scope.setdefault("state", {})["visitor"] = Visitor(self._sessions.form_token(who), operator)
        if scope["method"] in _SAFE_METHODS:
            return self._app, receive
        if self._settings.read_only:
            return _READ_ONLY, receive
        return await self._check_form(who, headers, receive)

    def _wrong_place(self, scope: Scope, headers: _Headers) -> Refusal | None:
        """Refuse names of other hosts, and requests from other sites."""
        hosts = headers.all("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._settings.hosts:
            return _FOREIGN_HOST
        if scope["method"] not in (*_SAFE_METHODS, "POST"):
            return _METHOD
        site = headers.one("sec-fetch-site")
        if scope["method"] in _SAFE_METHODS:
            is_visit = headers.one("sec-fetch-mode") in (None, "navigate")
            return None if site in (None, "same-origin", "none") or is_visit else _FOREIGN_ORIGIN
        origin = headers.one("origin")
        if origin is not None and _host_of(origin) != hosts[0].lower():
            return _FOREIGN_ORIGIN
        return None if site in (None, "same-origin", "none") else _FOREIGN_ORIGIN

    def _named_user(self, scope: Scope, headers: _Headers) -> str | Refusal:
        address = (scope.get("client") or ("",))[0]
        if not self._settings.is_trusted(address):
            return _UNTRUSTED
        named = headers.all(self._settings.header.lower())
        name = _text_of(named[0]) if len(named) == 1 else ""
        return name if 0 < len(name) <= LONGEST_OPERATOR else _NOT_NAMED

    def _enter(self, scope: Scope, given: str) -> Application | Refusal:
        """Exchange the token of the printed url for a cookie, and ask for the same url without it."""
        if not hmac.compare_digest(given.encode(errors="replace"), self._settings.token.encode()):
            return _WRONG_TOKEN
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        left = urlencode([(name, text) for name, text in query if name != "token"])
        path = scope.get("raw_path") or b"/"
        # A path that begins with two slashes would name another host.
        target = "/" + path.decode("latin-1").partition("?")[0].lstrip("/\\") + (f"?{left}" if left else "")
        cookie = f"{self.cookie}={self._sessions.begin()}; HttpOnly; SameSite=Strict; Path=/"
        return _redirection(target, cookie)

    async def _check_form(self, who: str, headers: _Headers, receive: Receive) -> tuple[Application | Refusal, Receive]:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            body += message.get("body", b"")
            if len(body) > LARGEST_FORM_BYTES:
                return _TOO_LARGE, receive
            if not message.get("more_body"):
                break
        given = headers.one(FORM_HEADER)
        if given is None:
            name, _, text = bytes(body[:LONGEST_FORM_TOKEN]).partition(b"&")[0].partition(b"=")
            given = text.decode("latin-1") if name == FORM_FIELD.encode() else ""
        if not self._sessions.is_form_token(who, given):
            return _NO_FORM_TOKEN, receive
        return self._app, _again(bytes(body), receive)


class _Disconnected(Exception):
    """The browser went away while it sent a form."""


class _Headers:
    """The headers of a request, by names in lower case."""

    def __init__(self, scope: Scope) -> None:
        self._pairs = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in scope["headers"]]

    def all(self, name: str) -> list[str]:
        return [text for each, text in self._pairs if each == name]

    def one(self, name: str) -> str | None:
        """Return a header; if there are several, all of them in a line, which is none that a browser sends."""
        found = self.all(name)
        return ", ".join(found) if found else None

    def cookie(self, name: str) -> str | None:
        """Return a cookie. Those of other programs on this host come along, and may be anything."""
        for text in self.all("cookie"):
            for pair in reversed(text.split(";")):  # those of longer paths come first, and ours is that of /
                each, _, value = pair.strip().partition("=")
                if each == name:
                    return value
        return None


def _host_of(origin: str) -> str | None:
    """Return the host of an origin with its port; None for a text that is no url."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _text_of(header: str) -> str:
    """Return the text of a header that a proxy sent in UTF-8, or else in Latin-1."""
    try:
        return header.encode("latin-1").decode().strip()
    except UnicodeDecodeError:
        return header.strip()


def _token_in(scope: Scope) -> str | None:
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return next((text for name, text in query if name == "token"), None)


def _redirection(target: str, cookie: str) -> Application:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"location", target.encode("latin-1")), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return answer


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what a page receives after the guard has read the form: the same form, then what follows."""
    left = [body]

    async def received() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return received


def _with_headers(scope: Scope, send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            known = {name.lower() for name, _ in headers}
            wanted = _HEADERS if b"cache-control" in known else (*_HEADERS, _NOT_KEPT)
            message = {**message, "headers": [*headers, *(pair for pair in wanted if pair[0] not in known)]}
        await send(message)

    return sent


_FOREIGN_HOST = Refusal(
    403,
    "Not the console's address",
    "The request names a host that is not the console's. Open the url that redis-store ui printed, or allow the name with"
    " --allow-host.",
)
_FOREIGN_ORIGIN = Refusal(403, "From another site", "The request came from another web site, so nothing was done.")
_METHOD = Refusal(405, "Unknown method", "The console answers GET, HEAD and POST.")
_UNTRUSTED = Refusal(
    403,
    "Not from a trusted proxy",
    "The console believes the reverse proxies that --trust names, and this request came from another address.",
)
_NOT_NAMED = Refusal(
    401,
    "No user",
    "The reverse proxy named no user of 1 to 256 characters: let it set one header, the one that --auth-header names.",
)
_WRONG_TOKEN = Refusal(
    401, "Wrong token", "The token in this url is not the console's. Open the url that redis-store ui printed last."
)
_NO_SESSION = Refusal(
    401,
    "Not signed in",
    "This browser has no session. Open the url that redis-store ui printed: its token lets you in.",
)
_ENDED = Refusal(
    401,
    "The session has ended",
    "The session was unused for 12 hours, or the console was started again. Open the url that redis-store ui printed last.",
)
_READ_ONLY = Refusal(
    403, "Read-only", "Nothing was changed: the console was started with --read-only. Start it without, to change data."
)
_NO_FORM_TOKEN = Refusal(
    403, "Not from this page", "Nothing was changed: the form does not belong to this session. Load the page again."
)
_TOO_LARGE = Refusal(413, "Too large", "Nothing was changed: the form has more than 32 MiB. Use redis-store set.")
