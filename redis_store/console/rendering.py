"""Pages from templates: the environment, links, redirections, and what every page knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from redis_store.connections.address import without_secrets
from redis_store.console import shown
from redis_store.console.guard import FORM_FIELD, Visitor

NAVIGATION = (
    ("Data", (("/", "Users", ("/user", "/namespace", "/key", "/edit")), ("/changes", "Changes", ()))),
    ("Work", (("/consumers", "Consumers", ("/dead-letter",)), ("/locks", "Locks", ()), ("/runs", "Runs", ("/run",)))),
    ("Tools", (("/see-as", "See as", ()), ("/doctor", "Doctor", ()), ("/audit", "Audit", ()))),
)
"""The links on each page, in groups: a path, its text, and the paths of other pages that belong to it."""

STATIC_FOLDER = Path(__file__).parent / "static"

THEME_COOKIE = "redis-store-ui-theme"
"""The cookie of the theme that a reader has chosen: ``dark`` or ``light``; none for that of the system."""


def url(path: str, /, **query: object) -> str:
    """Return a link: a path and its state in the query. A state that is None is left out."""
    pairs = [(name, str(text)) for name, text in query.items() if text is not None]
    return f"{path}?{urlencode(pairs, errors='replace')}" if pairs else path


def page(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """Return a page, or a part of one, made of a template."""
    text = _environment().get_template(template).render(**_common(request), **context)
    return HTMLResponse(text, status)


def forward(path: str, /, **query: object) -> Response:
    """Return the answer to a form that was carried out: the page to be shown now."""
    return RedirectResponse(url(path, **query), 303)


def asked(request: Request, name: str) -> str:
    """Return a text that the url must have, or raise the page that says so."""
    text = request.query_params.get(name, "")
    if not text:
        raise HTTPException(404, f"The url names no {name}.")
    return text


def fragment(template: str, macro: str) -> Callable[..., str]:
    """Return a macro of a template, which makes a part of a page."""
    made: Callable[..., str] = getattr(_environment().get_template(template).module, macro)
    return made


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("redis_store.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(url=url, static=static, FORM_FIELD=FORM_FIELD)
    made.filters.update(shown.FILTERS)
    return made


def static(name: str) -> str:
    """Return the link of a file in ``static/``. It changes with the file, so that browsers may keep it."""
    return url(f"/static/{name}", v=_digest(name))


@lru_cache(maxsize=64)
def _digest(name: str) -> str:
    return blake2b((STATIC_FOLDER / name).read_bytes(), digest_size=6).hexdigest()


def _common(request: Request) -> dict[str, Any]:
    visitor: Visitor | None = request.scope.get("state", {}).get("visitor")
    theme = request.cookies.get(THEME_COOKIE)
    known = {getattr(route, "path", None) for route in request.app.routes}
    return {
        "request": request,
        "navigation": [(group, [link for link in links if link[0] in known]) for group, links in NAVIGATION],
        "server_name": without_secrets(request.app.state.console.admin.client.url) if visitor else None,
        "now_ms": time.time_ns() // 1_000_000,
        "here": request.url.path,
        "form_token": visitor.form_token if visitor else "",
        "is_visitor": visitor is not None,
        "read_only": request.app.state.console.settings.read_only,
        "theme": theme if theme in ("dark", "light") else None,
        "notice": request.query_params.get("notice"),
    }
