"""Changes of a user or namespace: live, as they are written, and those of the last minutes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from redis_store.console.live import ShownChange, events
from redis_store.console.rendering import asked, fragment, maybe_asked, page
from redis_store.console.shared import console_of
from redis_store.errors import InvalidInput
from redis_store.namespace.keys import DEFAULT_NAMESPACE
from redis_store.values.quantities import parse_age

LIVE_ROWS = 200
"""Changes that a live page shows, at most; older ones go."""

PAST_ROWS = 1000
"""Changes of the last minutes that a page shows, at most: the newest."""

USERS_OF_CHANGES = 100
"""Users that the page without a user offers, at most: those written last."""


async def changes(request: Request) -> Response:
    """Show the changes of a user: live; with `since`, those of the last minutes; without a user, whose there are."""
    query, console = request.query_params, console_of(request)
    user = maybe_asked(request, "user")
    if not user:
        snapshot = await console.snapshots.latest()
        written = [one for one in snapshot.users if one.last_write is not None]
        written.sort(key=lambda one: one.last_write or datetime.min, reverse=True)
        return page(request, "changes_users.html", users=written[:USERS_OF_CHANGES], snapshot=snapshot)
    namespace, text = maybe_asked(request, "namespace"), query.get("text", "")
    shown: dict[str, Any] = {"user": user, "namespace": namespace, "text": text}
    if since := query.get("since"):
        found = await console.admin.list_changes(datetime.now(UTC) - _age(since), user, namespace)
        needle = text.casefold()
        chosen = [one for one in found if needle in f"{one.op}\n{one.namespace}\n{one.key}\n{one.agent}".casefold()]
        newest = chosen[: -PAST_ROWS - 1 : -1]
        return page(request, "changes_past.html", since=since, found=newest, count=len(chosen), **shown)
    console.admin.store(user, namespace or DEFAULT_NAMESPACE)  # raises for names that are none
    return page(request, "changes.html", rows=LIVE_ROWS, **shown)


async def stream(request: Request) -> Response:
    """Answer with the changes as server-sent events until the page is closed."""
    console, query = console_of(request), request.query_params
    user, namespace = asked(request, "user"), maybe_asked(request, "namespace")
    store = console.admin.store(user, namespace or DEFAULT_NAMESPACE)
    row = fragment("_change_row.html", "row")

    def made(one: ShownChange) -> str:
        return row(one, one.change, user)

    async def body() -> AsyncIterator[str]:
        async for text in events(console, store, namespace, query.get("text", ""), made):
            yield text

    # A proxy that keeps answers until they are complete would never pass one on.
    return StreamingResponse(body(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _age(text: str) -> timedelta:
    try:
        return parse_age(text)
    except ValueError as error:
        raise InvalidInput(str(error)) from None


routes = [Route("/changes", changes), Route("/changes/stream", stream)]
