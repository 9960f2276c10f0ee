"""Runs that are kept: a list of a user's, and one of them as a waterfall."""

from __future__ import annotations

import json
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.admin import KeptOperation, KeptRun, RunSummary
from redis_store.console.rendering import asked, asked_number, form_of, forward, maybe_asked, page, url
from redis_store.console.shared import console_of
from redis_store.console.waterfall import BAR_UNITS, rows_of, total_ms
from redis_store.errors import InvalidInput

MOST_RUN_USERS = 100
"""Users that the page without a user offers, at most: those written last."""

ROWS_PER_PAGE = 300
"""Rows of a waterfall on one page."""

RUNS_PER_PAGE = 200
"""Runs on one page of the list."""

_OUTCOMES = ("", "done", "failed")


async def runs(request: Request) -> Response:
    """Show the runs of a user, the newest first; without a user, whose there are."""
    console, query = console_of(request), request.query_params
    user = maybe_asked(request, "user")
    if user is None:
        snapshot = await console.snapshots.latest()
        written = [one for one in snapshot.users if one.last_write is not None]
        written.sort(key=lambda one: one.last_write or datetime.min, reverse=True)
        lead = "Runs that are kept with sandbox run --keep or Sandbox(keep=...). Whose?"
        users = written[:MOST_RUN_USERS]
        return page(request, "choose_user.html", title="Runs", lead=lead, path="/runs", users=users, snapshot=snapshot)
    kept = await console.admin.list_runs(user)
    text, outcome = query.get("text", ""), query.get("outcome", "")
    found, at = [one for one in kept if _is_chosen(one, text, outcome)], asked_number(request, "at")
    return page(
        request,
        "runs.html",
        user=user,
        kept=kept,
        runs=found[at : at + RUNS_PER_PAGE],
        found=len(found),
        at=at,
        per_page=RUNS_PER_PAGE,
        size=sum(one.bytes for one in kept),
        text=text,
        outcome=outcome if outcome in _OUTCOMES else "",
    )


def _is_chosen(one: RunSummary, text: str, outcome: str) -> bool:
    wanted = {"done": one.error is None, "failed": one.error is not None}.get(outcome, True)
    return wanted and text.casefold() in f"{one.agent}\n{one.run}\n{one.error or ''}".casefold()


async def run(request: Request) -> Response:
    """Show one run: its timeline, output, error, prints and hints."""
    admin = console_of(request).admin
    user, wanted = asked(request, "user"), asked(request, "run")
    kept = await admin.get_run(user, wanted)
    if kept is None:
        return page(request, "run_missing.html", 404, user=user, run=wanted)
    each = request.query_params.get("each") == "1"
    first = asked_number(request, "at")
    rows = rows_of(kept, folded=not each)
    return page(
        request,
        "run.html",
        user=user,
        run=kept,
        wanted=wanted,
        rows=rows[first : first + ROWS_PER_PAGE],
        found=len(rows),
        at=first,
        per_page=ROWS_PER_PAGE,
        each=each,
        is_folded=any(len(row.operations) > 1 for row in rows),
        total_ms=total_ms(kept),
        units=BAR_UNITS,
        pretty=_pretty,
        place_of=lambda one: _place_of(user, one),
        used=_used(kept),
    )


async def drop(request: Request) -> Response:
    """Delete the records of runs that a form names."""
    admin, form = console_of(request).admin_of(request), await form_of(request)
    user, chosen = form.name("user"), form.names("run")
    if not chosen:
        raise InvalidInput("The form names no run. Nothing was dropped: select some runs.")
    dropped = 0
    for each in chosen:
        dropped += await admin.drop_run(user, each)
    return forward("/runs", user=user, done="runs-dropped", count=dropped)


def _place_of(user: str, one: KeptOperation) -> str:
    """Return the link to what a call of the store was about: its key, or its namespace."""
    if one.key is None or one.key.endswith("…"):
        return url("/namespace", user=user, namespace=one.namespace)
    return url("/key", user=user, namespace=one.namespace, key=one.key)


def _used(kept: KeptRun) -> list[tuple[str, int, int]]:
    """Return the namespaces that a run used, with the number of calls and of misses in each."""
    calls: dict[str, list[int]] = {}
    for one in kept.operations:
        counts = calls.setdefault(one.namespace, [0, 0])
        counts[0] += 1
        counts[1] += one.hit is False
    return sorted((name, *counts) for name, counts in calls.items())  # type: ignore[misc]  # two counts


def _pretty(text: str) -> str:
    """Return JSON text in lines, or the text as it is, if it is only the beginning of JSON."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


routes = [Route("/runs", runs), Route("/run", run), Route("/do/drop-runs", drop, methods=["POST"])]
