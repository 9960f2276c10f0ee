"""Locks, semaphores, rate limits, and values being computed: what holds callers up."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.console.rendering import forward, page
from redis_store.console.shared import console_of
from redis_store.values.printable import one_line


async def locks(request: Request) -> Response:
    """Show who holds what, and who waits."""
    admin, user = console_of(request).admin, request.query_params.get("user") or None
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
    admin, form = console_of(request).admin_of(request), await request.form()
    user, name, agent = (str(form.get(each, "")) for each in ("owner", "name", "agent"))
    released = await admin.release_lock(user, name, agent or None)
    said = (
        f"The lock {one_line(name)} was released." if released else f"Nobody held the lock {one_line(name)} any more."
    )
    return forward("/locks", user=form.get("user") or None, notice=said)


def _told(error: str | None) -> str | None:
    """Return the error of a computation in words; it is kept as JSON."""
    try:
        kept = json.loads(error or "")
        return f"{kept['type']}: {kept['message']}"
    except (ValueError, TypeError, KeyError):
        return error


routes = [Route("/locks", locks), Route("/do/release-lock", release, methods=["POST"])]
