"""What an agent with certain permissions would see of a user's data: the namespaces that it may read and write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.admin import AsyncAdmin
from redis_store.admin.aio import run_in
from redis_store.console.rendering import asked_number, maybe_asked, page
from redis_store.console.shared import console_of
from redis_store.errors import AccessDenied, DataStoreError, InvalidInput
from redis_store.namespace.access import Access
from redis_store.namespace.keys import DEFAULT_NAMESPACE, encode_namespace
from redis_store.ops.listing import START, namespaces_page
from sandbox.errors import SandboxError
from sandbox.permissions import DEFAULT_AGENT, PATTERNS, Granted, Permissions

NAMESPACES_SEEN_PER_PAGE = 500
"""Namespaces on one page."""

MOST_SEEN_USERS = 100
"""Users that the page offers without a user, at most: those written last."""

NAME_KINDS = ("locks", "limits", "tags", "consumers")
"""The kinds of names that agents share or have for themselves."""


@dataclass(frozen=True, slots=True)
class SeenNamespace:
    """A namespace as an agent sees it."""

    name: str
    reads: bool
    writes: bool
    keys: int | None
    """The number of its keys; None if it was not counted yet."""


async def see_as(request: Request) -> Response:
    """Show the form, and what the permissions in it let an agent see."""
    console, query = console_of(request), request.query_params
    user = maybe_asked(request, "user")
    snapshot = await console.snapshots.latest()
    if user is None:
        written = [one for one in snapshot.users if one.last_write is not None]
        written.sort(key=lambda one: one.last_write or datetime.min, reverse=True)
        lead = "What would an agent with these permissions see? Of whose data?"
        users = written[:MOST_SEEN_USERS]
        return page(
            request, "choose_user.html", title="See as", lead=lead, path="/see-as", users=users, snapshot=snapshot
        )
    asked = _asked(query)
    names = await _namespaces(console.admin, user)
    try:
        granted, problem = _granted(query), None
    except (SandboxError, DataStoreError) as error:
        granted, problem = Granted(Access((), ())), str(error)
    counts = {one.namespace: one.keys for one in snapshot.namespaces.get(user, ())}
    access = granted.access
    seen = [SeenNamespace(name, access.may_read(name), access.may_write(name), counts.get(name)) for name in names]
    shown = seen if query.get("all") == "1" else [one for one in seen if one.reads or one.writes]
    at = asked_number(request, "at")
    return page(
        request,
        "see_as.html",
        user=user,
        asked=asked,
        state={name: text for name, text in asked.items() if text},
        problem=problem,
        granted=granted,
        all_seen=seen,
        shown=shown[at : at + NAMESPACES_SEEN_PER_PAGE],
        found=len(shown),
        at=at,
        per_page=NAMESPACES_SEEN_PER_PAGE,
        reads=sum(one.reads for one in seen),
        writes=sum(one.writes for one in seen),
        names={kind: _rule(access, kind) for kind in NAME_KINDS},
        answer=None if problem else _answer(access, asked["ask"]),
        is_all=query.get("all") == "1",
    )


async def _namespaces(admin: AsyncAdmin, user: str) -> list[str]:
    """Return the namespaces that an agent with all rights would list, in small steps and without a change to the registry."""
    found, cursor = set[str](), START
    while True:
        cursor, names = await run_in(admin, user, DEFAULT_NAMESPACE, partial(namespaces_page, cursor=cursor))
        found.update(names)
        if cursor == START:
            return sorted(found)


def _asked(query: QueryParams) -> dict[str, str]:
    """Return the texts of the form's fields."""
    fields = (*PATTERNS, "operations", "agent", "input", "ask", "all")
    return {name: "\n".join(query.getlist(name)).replace("\r\n", "\n") for name in fields}


def _granted(query: QueryParams) -> Granted:
    """Return what the permissions of the form grant, by the rules of the sandbox."""
    asked = _asked(query)
    given = {name: _lines(asked[name]) for name in (*PATTERNS, "operations")}
    try:
        input_dict = json.loads(asked["input"] or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The input is no JSON: {error}.") from None
    if not isinstance(input_dict, dict):
        raise InvalidInput('The input must be a JSON object, such as {"repo": "web"}.')
    chosen: dict[str, Any] = {name: lines for name, lines in given.items() if lines}
    permissions = Permissions(**chosen)
    return permissions.granted(input_dict, asked["agent"] or DEFAULT_AGENT)


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line]


def _rule(access: Access, kind: str) -> str:
    """Say whose the names of a kind are."""
    patterns = getattr(access.names, kind)
    if patterns is None:
        return f"its own: only runs of agents that are called {access.names.agent!r} share them"
    if any(str(pattern) == "*" for pattern in patterns):
        return "the user's: shared with all agents and the host"
    return "the user's, of these patterns; others raise AccessDenied: " + ", ".join(map(repr, map(str, patterns)))


def _answer(access: Access, namespace: str) -> list[tuple[str, str | None]] | None:
    """Return what an agent gets when it reads and when it writes a namespace: None, or the message of the error."""
    if not namespace:
        return None
    try:
        encode_namespace(namespace)
    except DataStoreError as error:
        return [("Any call", f"{type(error).__name__}: {error}")]
    reads = None if access.may_read(namespace) else access.refusal("read", namespace)
    writes = None if access.may_write(namespace) else access.refusal("write", namespace)
    return [("Reading", _told(reads)), ("Writing", _told(writes))]


def _told(error: AccessDenied | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"


routes = [Route("/see-as", see_as)]
