"""Pages from templates: the environment, links, redirections, and what every page knows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from redis_store.connections.address import without_secrets
from redis_store.console import shown
from redis_store.console.guard import FORM_FIELD, Visitor
from redis_store.values.quantities import counted

NAVIGATION = (
    ("Data", (("/", "Users", ("/user", "/namespace", "/key", "/edit")), ("/changes", "Changes", ()))),
    ("Work", (("/consumers", "Consumers", ("/dead-letter",)), ("/locks", "Locks", ()), ("/runs", "Runs", ("/run",)))),
    ("Tools", (("/see-as", "See as", ()), ("/doctor", "Doctor", ()), ("/audit", "Audit", ()))),
)
"""The links on each page, in groups: a path, its text, and the paths of other pages that belong to it."""

PAGES_OF_USERS = ("/changes", "/consumers", "/locks", "/runs", "/see-as")
"""Those of them that also show one user, whom the url names."""

STATIC_FOLDER = Path(__file__).parent / "static"

THEME_COOKIE = "redis-store-ui-theme"
"""The cookie of the theme that a reader has chosen: ``dark`` or ``light``; none for that of the system."""


def url(path: str, /, **query: object) -> str:
    """Return a link: a path and its state in the query. A state that is None is left out."""
    pairs = [(name, str(text)) for name, text in query.items() if text is not None]
    return f"{path}?{urlencode(pairs, errors='replace')}" if pairs else path


def and_key(link: str, key: str) -> str:
    """Return a link with a key in its query: as `url` does, for a thousand links that differ in the key."""
    return f"{link}&key={quote_plus(key, errors='replace')}"


def page(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """Return a page, or a part of one, made of a template."""
    text = _environment().get_template(template).render(**_common(request), **context)
    return HTMLResponse(text, status)


def forward(path: str, /, **query: object) -> Response:
    """Return the answer to a form that was carried out: the page to be shown now."""
    return RedirectResponse(url(path, **query), 303)


def asked(request: Request, name: str) -> str:
    """Return a text that the url must have, or raise the page that says so."""
    text = maybe_asked(request, name)
    if text is None:
        raise HTTPException(404, f"The url names no {name}.")
    return text


def fragment(template: str, macro: str) -> Callable[..., str]:
    """Return a macro of a template, which makes a part of a page."""
    made: Callable[..., str] = getattr(_environment().get_template(template).module, macro)
    return made


def maybe_asked(request: Request, name: str) -> str | None:
    """Return a text of the url; None if it is missing or empty. The search forms quote names with line ends, see `quoted`."""
    query = request.query_params
    text = query.get(name, "")
    return (unquote(text) if name in query.get("quoted", "").split() else text) or None


def asked_number(request: Request, name: str) -> int:
    """Return a number of the url; 0 if it has none."""
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else 0


def query_of(request: Request, *names: str) -> dict[str, str | None]:
    """Return parts of the url's query, for links that keep them. An empty text is none."""
    return {name: maybe_asked(request, name) for name in names}


def quoted(text: object) -> str:
    """Return a text for a field that no person fills in. Browsers change the line ends of all fields, those of names too."""
    return quote(str(text), safe=" /:", errors="replace")


class SentForm:
    """The fields of a form that was sent."""

    def __init__(self, fields: FormData) -> None:
        self._fields = fields

    def name(self, field: str) -> str:
        """Return a field that the page filled in, with the macro `hidden`, or raise if it is missing."""
        found = self.maybe_name(field)
        if found is None:
            raise HTTPException(400, f"Nothing was changed: the form has no {field}.")
        return found

    def maybe_name(self, field: str) -> str | None:
        """Return a field that the page filled in, or None if it is missing or empty."""
        return unquote(self.typed(field)) or None

    def names(self, field: str) -> list[str]:
        """Return all fields of one kind that the page filled in."""
        return [unquote(text) for text in self._fields.getlist(field) if isinstance(text, str)]

    def typed(self, field: str) -> str:
        """Return a field that a person filled in; an empty text if it is missing."""
        found = self._fields.get(field)
        return found if isinstance(found, str) else ""


async def form_of(request: Request) -> SentForm:
    """Return the form of a request."""
    return SentForm(await request.form())


def confirm(
    request: Request,
    question: str,
    *,
    button: str,
    back: str,
    fields: Mapping[str, object],
    listed: Sequence[str] = (),
    more: int = 0,
    means: str = "",
    typed: str | None = None,
    wrong: bool = False,
) -> Response:
    """Return the page that asks before a change: the same form again, with the field ``sure``.

    `listed` are names that the change concerns, and `more` is the number of others. With `typed`, this text has to be typed;
    `wrong` says that another one was.
    """
    return page(
        request,
        "confirm.html",
        question=question,
        means=means,
        button=button,
        back=back,
        fields=fields,
        listed=listed,
        more=more,
        typed=typed,
        wrong=wrong,
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("redis_store.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(url=url, and_key=and_key, static=static, FORM_FIELD=FORM_FIELD)
    made.filters.update(shown.FILTERS, quoted=quoted)
    return made


def static(name: str) -> str:
    """Return the link of a file in ``static/``. It changes with the file, so that browsers may keep it."""
    return url(f"/static/{name}", v=_digest(name))


@lru_cache(maxsize=64)
def _digest(name: str) -> str:
    return blake2b((STATIC_FOLDER / name).read_bytes(), digest_size=6).hexdigest()


_NOTICES = {
    "saved": "The value was saved.",
    "deleted": "{keys} deleted.",
    "cleared": "{keys} deleted.",
    "nothing": "Nothing was deleted: there is no such key.",
    "undone": "{keys} brought back.",
    "nothing-back": "There is nothing to bring back.",
    "retried": "{letters} retried.",
    "retried-some": "{letters} retried, {left} not: the key was deleted, the change was no write, or somebody was faster.",
    "dropped": "{letters} dropped.",
    "released": "The lock was released.",
    "not-held": "Nothing was done: nobody held the lock any more.",
    "user-deleted": "The user is deleted, with {keys}. Nothing is left.",
    "runs-dropped": "{records} dropped.",
    "busy": "A check is under way: mend when it has ended.",
}
"""What a page says after a change, by the word in its url: a url brings no text of its own."""


def notice_of(request: Request) -> str | None:
    """Return what a page says of the change before it."""
    said = _NOTICES.get(request.query_params.get("done", ""))
    count, left = asked_number(request, "count"), asked_number(request, "left")
    things = {"keys": "key", "letters": "dead letter", "records": "record"}
    return said and said.format(left=f"{left:,}", **{name: counted(count, thing) for name, thing in things.items()})


def has_page(request: Request, path: str) -> bool:
    """Whether the console has a page."""
    return any(getattr(route, "path", None) == path for route in request.app.routes)


def links_of(request: Request) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the links of the navigation to pages that show one user, or all."""
    return [
        link for _, links in NAVIGATION for link in links if link[0] in PAGES_OF_USERS and has_page(request, link[0])
    ]


def _common(request: Request) -> dict[str, Any]:
    visitor: Visitor | None = request.scope.get("state", {}).get("visitor")
    theme = request.cookies.get(THEME_COOKIE)
    return {
        "request": request,
        "navigation": [(group, [link for link in links if has_page(request, link[0])]) for group, links in NAVIGATION],
        "links": links_of(request),
        "has_runs": has_page(request, "/run"),
        "server_name": without_secrets(request.app.state.console.admin.client.url) if visitor else None,
        "now_ms": time.time_ns() // 1_000_000,
        "here": request.url.path,
        "form_token": visitor.form_token if visitor else "",
        "is_visitor": visitor is not None,
        "read_only": request.app.state.console.settings.read_only,
        "theme": theme if theme in ("dark", "light") else None,
        "notice": notice_of(request),
        "server": repr(without_secrets(request.app.state.console.admin.client.url)),
    }
