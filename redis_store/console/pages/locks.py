"""Locks, semaphores, rate limits, and values being computed: what holds callers up."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.console.rendering import form_of, forward, maybe_asked, page
from redis_store.console.shared import console_of


async def locks(request: Request) -> Response:
    """Show who holds what, and who waits."""
    admin, user = console_of(request).admin, maybe_asked(request, "user")
    held, limits = await admin.list_locks(user), await admin.list_rate_limits(user)
    computed = await admin.list_computations(user)
    now = datetime.now(UTC)
    return page(
        request,
        "locks.html",
        user=user,
        held=held,
        limits=[(one, now + timedelta(seconds=one.free_in_s) if one.free_in_s else None) for one in limits],
        computed=[(one, _told(one.error)) for one in computed],
    )


async def release(request: Request) -> Response:
    """Take a lock from its holder, for the next waiter."""
    admin, form = console_of(request).admin_of(request), await form_of(request)
    released = await admin.release_lock(form.name("owner"), form.name("name"), form.maybe_name("agent"))
    return forward("/locks", user=form.maybe_name("user"), done="released" if released else "not-held")


def _told(error: str | None) -> str | None:
    """Return the error of a computation in words; it is kept as JSON."""
    try:
        kept = json.loads(error or "")
        return f"{kept['type']}: {kept['message']}"
    except (ValueError, TypeError, KeyError):
        return error


routes = [Route("/locks", locks), Route("/do/release-lock", release, methods=["POST"])]
