"""The first page: all users, with what they have and when they last wrote."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.admin import AsyncAdmin, ServerStats, UserUsage
from redis_store.console.rendering import asked_number, forward, page
from redis_store.console.shared import console_of
from redis_store.console.snapshots import ORDERS_OF_SIZES, in_order
from redis_store.errors import PermissionDenied, ServerRefused

USERS_PER_PAGE = 200
"""Users on one page."""


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
    at = asked_number(request, "at")
    return page(
        request,
        "users.html",
        snapshot=snapshot,
        servers=await _servers(console.admin),
        users=found[at : at + USERS_PER_PAGE],
        found=len(found),
        by=by if by in ORDERS_OF_SIZES else "name",
        text=text,
        at=at,
        per_page=USERS_PER_PAGE,
    )


async def _servers(admin: AsyncAdmin) -> list[ServerStats]:
    """Return what each server counts; nothing where the login may not ask."""
    try:
        return await admin.server_stats()
    except (PermissionDenied, ServerRefused):
        return []


def _chosen(users: list[UserUsage], text: str, by: str) -> list[UserUsage]:
    wanted = text.casefold()
    found = [one for one in users if wanted in one.user.casefold()] if wanted else list(users)
    return in_order(found, by, "user")


routes = [Route("/", users)]
