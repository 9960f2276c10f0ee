"""Locks, semaphores, rate limits, and values being computed: what holds callers up."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.admin import ComputedValue, HeldLock, RateLimitState
from redis_store.console.rendering import form_of, forward, maybe_asked, page
from redis_store.console.shared import console_of

GATHERED_LOCKS = "locks"
"""What is gathered for the page."""

_Held: TypeAlias = tuple[
    list[HeldLock], list[tuple[RateLimitState, datetime | None]], list[tuple[ComputedValue, str | None]]
]


async def locks(request: Request) -> Response:
    """Show who holds what, and who waits."""
    console, user = console_of(request), maybe_asked(request, "user")
    admin = console.admin

    async def gather() -> _Held:
        now = datetime.now(UTC)
        held, limits = await admin.list_locks(user), await admin.list_rate_limits(user)
        computed = await admin.list_computations(user)
        free = [(one, now + timedelta(seconds=one.free_in_s) if one.free_in_s else None) for one in limits]
        return held, free, [(one, _told(one.error)) for one in computed]

    gathered = await console.gatherings.latest(GATHERED_LOCKS, user, gather)
    held, limits, computed = gathered.found or ([], [], [])
    return page(
        request,
        "locks.html",
        user=user,
        gathered=gathered,
        held=held,
        limits=limits,
        computed=computed,
    )


async def release(request: Request) -> Response:
    """Take a lock from its holder, for the next waiter."""
    admin, form = console_of(request).admin_of(request), await form_of(request)
    released = await admin.release_lock(form.name("owner"), form.name("name"), form.maybe_name("agent"))
    await console_of(request).gatherings.forget(GATHERED_LOCKS)
    return forward("/locks", user=form.maybe_name("user"), done="released" if released else "not-held")


def _told(error: str | None) -> str | None:
    """Return the error of a computation in words; it is kept as JSON."""
    try:
        kept = json.loads(error or "")
        return f"{kept['type']}: {kept['message']}"
    except (ValueError, TypeError, KeyError):
        return error


routes = [Route("/locks", locks), Route("/do/release-lock", release, methods=["POST"])]
