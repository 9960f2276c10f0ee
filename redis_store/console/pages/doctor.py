"""What the doctor finds, what it means, and the repairs that lose nothing."""

from __future__ import annotations

from collections import Counter

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from redis_store.console.rendering import forward, page
from redis_store.console.shared import console_of

MOST_FINDINGS = 300
"""Findings that the page shows, at most; the others are counted by check."""


async def doctor(request: Request) -> Response:
    """Show what was found last, or how far the check is."""
    checkups = console_of(request).checkups
    if request.query_params.get("again"):
        checkups.begin()
        return forward("/doctor")
    found = await checkups.latest()
    return page(
        request,
        "doctor.html",
        checkup=found,
        findings=found.findings[:MOST_FINDINGS],
        more=Counter(one.check for one in found.findings[MOST_FINDINGS:]),
        wrong=sum(one.level == "wrong" and not one.mended for one in found.findings),
        notes=sum(one.level != "wrong" for one in found.findings),
        mended=sum(one.mended for one in found.findings),
        mendable=sum(one.can_be_mended for one in found.findings),
    )


async def repair(request: Request) -> Response:
    """Begin to mend what can be mended without loss."""
    console = console_of(request)
    if not console.checkups.begin(repair_as=console.admin_of(request)):
        return forward("/doctor", done="busy")
    return forward("/doctor")


routes = [Route("/doctor", doctor), Route("/do/repair", repair, methods=["POST"])]
