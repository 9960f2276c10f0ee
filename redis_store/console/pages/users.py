"""The first page: all users, with what they have and when they last wrote."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.admin import UserUsage
from redis_store.connections.address import without_secrets
from redis_store.console.rendering import forward, page
from redis_store.console.shared import console_of

USERS_PER_PAGE = 200
"""Users on one page."""

_SORTS = {
    "name": lambda one: one.user,
    "memory": lambda one: (-(one.bytes or 0), one.user),
    "keys": lambda one: (-one.keys, one.user),
    "last-write": lambda one: (-(one.last_write.timestamp() if one.last_write else 0), one.user),
}
"""The sort keys of the orders: the biggest and the newest first."""


async def users(request: Request) -> Response:
    """Show the users of a page: those whose names contain a text, in an order."""
    console, query = console_of(request), request.query_params
    if query.get("again"):
        console.snapshots.begin_again()
        return forward("/", text=query.get("text") or None, by=query.get("by"))
    snapshot = await console.snapshots.latest()
    by = query.get("by", "name")
    text = query.get("text", "")
    found = _chosen(snapshot.users, text, by)
    at = _number(query.get("at"))
    return page(
        request,
        "users.html",
        snapshot=snapshot,
        users=found[at : at + USERS_PER_PAGE],
        found=len(found),
        by=by if by in _SORTS else "name",
        text=text,
        at=at,
        per_page=USERS_PER_PAGE,
        server=repr(without_secrets(console.admin.client.url)),
    )


def _chosen(users: list[UserUsage], text: str, by: str) -> list[UserUsage]:
    wanted = text.casefold()
    found = [one for one in users if wanted in one.user.casefold()] if wanted else list(users)
    return sorted(found, key=_SORTS.get(by, _SORTS["name"]))


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 10 else 0


routes = [Route("/", users)]
