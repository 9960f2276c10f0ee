"""The log of operators' changes, the newest first."""

from __future__ import annotations

from collections import deque

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.admin import AuditEntry
from redis_store.console.rendering import asked_number, page
from redis_store.console.shared import console_of

ENTRIES_ON_PAGE = 200
"""Entries on one page."""

MOST_AUDITED = 10_000
"""Entries that are looked at, at most: the newest."""


async def audit(request: Request) -> Response:
    """Show the changes of operators, all or those that concern a text."""
    text, at = request.query_params.get("text", ""), asked_number(request, "at")
    entries = deque([one async for one in console_of(request).admin.iter_audit()], MOST_AUDITED)
    found = [one for one in reversed(entries) if not text or _concerns(one, text.casefold())]
    return page(
        request,
        "audit.html",
        entries=found[at : at + ENTRIES_ON_PAGE],
        found=len(found),
        is_empty=not entries,
        text=text,
        at=at,
        per_page=ENTRIES_ON_PAGE,
    )


def _concerns(one: AuditEntry, text: str) -> bool:
    return any(text in (fact or "").casefold() for fact in (one.by, one.what, one.user, one.namespace, one.key))


routes = [Route("/audit", audit)]
