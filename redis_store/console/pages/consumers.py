"""Consumers with their lag over time, and dead letters: what could not be processed, to be tried again or dropped."""

from __future__ import annotations

import json
from collections import Counter

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.admin import AsyncAdmin, ConsumerState, DeadLetter
from redis_store.console.rendering import asked, form_of, forward, maybe_asked, page
from redis_store.console.shared import console_of
from redis_store.errors import InvalidInput

GATHERED_CONSUMERS = "consumers"
"""What is gathered for the page."""

MOST_LETTERS = 500
"""Dead letters that the page shows, at most."""


async def consumers(request: Request) -> Response:
    """Show how far each consumer is, and the dead letters."""
    console, user = console_of(request), maybe_asked(request, "user")

    async def gather() -> tuple[list[ConsumerState], list[DeadLetter], bool]:
        states = await console.admin.list_consumers(user)
        console.lags.add(states)
        return states, *await _letters(console.admin, user)

    gathered = await console.gatherings.latest(GATHERED_CONSUMERS, user, gather)
    states, letters, more = gathered.found or ([], [], False)
    return page(
        request,
        "consumers.html",
        user=user,
        gathered=gathered,
        states=[(one, console.lags.trend(one)) for one in states],
        letters=letters,
        more=more,
        id_of=_id_of,
        counts=Counter((one.user, one.consumer) for one in letters),
    )


async def dead_letter(request: Request) -> Response:
    """Show one dead letter with its traceback."""
    admin = console_of(request).admin
    user, consumer, letter = (asked(request, name) for name in ("user", "consumer", "id"))
    async for one in admin.iter_dead_letters(user, consumer):
        if one.id == letter:
            return page(request, "dead_letter.html", one=one, chosen=_id_of(one))
    return page(
        request,
        "error.html",
        404,
        title="No such dead letter",
        text=f"The consumer {consumer!r} of {user!r} has no dead letter {letter!r}: it was retried or dropped since.",
        again=False,
    )


async def change_letters(request: Request) -> Response:
    """Retry or drop the dead letters that a form names."""
    admin, form = console_of(request).admin_of(request), await form_of(request)
    chosen = [_named(text) for text in form.names("letter")]
    if form.typed("how") == "drop":
        done = sum([await admin.drop_dead_letter(*each) for each in chosen])
        said, left = "dropped", 0
    else:
        done = sum([await admin.retry_dead_letter(*each) == "retried" for each in chosen])
        left = len(chosen) - done
        said = "retried-some" if left else "retried"
    await console_of(request).gatherings.forget(GATHERED_CONSUMERS)
    return forward("/consumers", user=form.maybe_name("user"), done=said, count=done, left=left or None)


async def _letters(admin: AsyncAdmin, user: str | None) -> tuple[list[DeadLetter], bool]:
    """Return dead letters, the newest first, and whether there are more."""
    found: list[DeadLetter] = []
    walk = admin.iter_dead_letters(user)
    async for one in walk:
        if len(found) == MOST_LETTERS:
            return sorted(found, key=_age), True
        found.append(one)
    return sorted(found, key=_age), False


def _age(one: DeadLetter) -> float:
    return -one.at.timestamp() if one.at else 0.0


def _id_of(one: DeadLetter) -> str:
    """Return a text that names a dead letter in a form."""
    return json.dumps([one.user, one.consumer, one.id])


def _named(text: str) -> tuple[str, str, str]:
    try:
        user, consumer, letter = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise InvalidInput("The form names no dead letter. Nothing was done with it: load the page again.") from None
    return str(user), str(consumer), str(letter)


routes = [
    Route("/consumers", consumers),
    Route("/dead-letter", dead_letter),
    Route("/do/dead-letters", change_letters, methods=["POST"]),
]
