"""A user: its namespaces, with sizes, and with the writers and expiries of a sample of their keys; and deleting the user."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.admin import AsyncAdmin, CacheRate, NamespaceUsage
from redis_store.admin.activity import cache_rates_of
from redis_store.admin.aio import run_in
from redis_store.console.rendering import asked, asked_number, confirm, form_of, forward, page, query_of, url
from redis_store.console.shared import console_of
from redis_store.console.snapshots import ORDERS_OF_SIZES, in_order
from redis_store.errors import DataStoreError
from redis_store.namespace.keys import DEFAULT_NAMESPACE, decode_names
from redis_store.namespace.scope import Scope
from redis_store.ops.listing import START, names_page

NAMESPACES_PER_PAGE = 100
"""Namespaces on one page."""

SAMPLED_KEYS = 20
"""Keys of a namespace whose writers and expiries are looked at."""

LISTED_NAMES = 20
"""Names on the page that asks before something is deleted."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What some keys of a namespace tell about it."""

    keys: int
    """The number of keys that were looked at."""
    writers: list[str]
    """The agents that wrote them last, the one with most keys first."""
    expiring: int
    """The number of them that expire."""


async def user(request: Request) -> Response:
    """Show the namespaces of a user."""
    console, name, query = console_of(request), asked(request, "user"), request.query_params
    kept = query_of(request, "user", "text", "by")
    if query.get("again"):
        console.snapshots.begin_again()
        return forward("/user", **kept)
    snapshot = await console.snapshots.latest()
    known = snapshot.namespaces.get(name, [])
    text, by, at = query.get("text", ""), query.get("by", "name"), asked_number(request, "at")
    wanted = text.casefold()
    found = [one for one in known if wanted in one.namespace.casefold()] if wanted else known
    found = in_order(found, by, "namespace")
    shown = found[at : at + NAMESPACES_PER_PAGE]
    return page(
        request,
        "user.html",
        snapshot=snapshot,
        user=name,
        usage=next((one for one in snapshot.users if one.user == name), None),
        rows=list(zip(shown, await _samples(console.admin, shown), strict=True)),
        rates=await _rates(console.admin, name) if shown else {},
        has_namespaces=bool(known),
        found=len(found),
        text=text,
        by=by if by in ORDERS_OF_SIZES else "name",
        at=at,
        per_page=NAMESPACES_PER_PAGE,
        kept=kept,
    )


async def _rates(admin: AsyncAdmin, user: str) -> dict[str, CacheRate]:
    """Return how often cached functions found a value, by namespace; nothing of data that cannot be read."""
    try:
        found = await run_in(admin, user, DEFAULT_NAMESPACE, lambda scope: cache_rates_of(scope.user))
    except DataStoreError:
        return {}
    return {one.namespace: one for one in found}


async def _samples(admin: AsyncAdmin, namespaces: Sequence[NamespaceUsage]) -> list[Sample | None]:
    return await asyncio.gather(*(_sample(admin, one.user, one.namespace) for one in namespaces))


async def _sample(admin: AsyncAdmin, user: str, namespace: str) -> Sample | None:
    """Return a sample of a namespace; None if it cannot be read, as where its name is no text."""
    try:
        names = await run_in(admin, user, namespace, _some_keys)
        infos = list((await admin.store(user, namespace).infos(names)).values())
    except DataStoreError:
        return None
    writers = Counter(info.updated_by for info in infos if info.updated_by)
    return Sample(
        len(infos), [each for each, _ in writers.most_common()], sum(info.expires_at is not None for info in infos)
    )


async def _some_keys(scope: Scope) -> list[str]:
    _, names = await names_page(scope.keys.data, START, "", SAMPLED_KEYS)
    return decode_names(names[:SAMPLED_KEYS])


async def delete_user(request: Request) -> Response:
    """Delete everything of a user, if its name was typed."""
    console, form = console_of(request), await form_of(request)
    name = form.name("user")
    if not form.typed("sure") or form.typed("typed") != name:
        has = (await console.snapshots.latest()).namespaces.get(name, [])
        return confirm(
            request,
            f"Delete everything of user {name!r}?",
            means="It cannot be undone. Agents of the user must have ended. To go on, type the name of the user.",
            button="Delete the user",
            back=url("/user", user=name),
            fields={"user": name},
            typed=name,
            wrong=bool(form.typed("typed")),
            listed=[one.namespace for one in has[:LISTED_NAMES]],
            more=max(0, len(has) - LISTED_NAMES),
        )
    done = await console.admin_of(request).delete_user(name)
    console.snapshots.begin_again()
    return forward("/", done="user-deleted", count=done.keys)


routes = [Route("/user", user), Route("/do/delete-user", delete_user, methods=["POST"])]
