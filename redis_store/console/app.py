"""`create_app`: the pages with their routes, the guard before them, the pages of errors, and what all pages share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from redis_store.admin import AsyncAdmin
from redis_store.console import pages
from redis_store.console.guard import Application, Guard, Message, Receive, Refusal, Scope, Send
from redis_store.console.rendering import STATIC_FOLDER, page
from redis_store.console.settings import ConsoleSettings
from redis_store.console.shared import Console
from redis_store.errors import Conflict, DataStoreError, InvalidInput, PermissionDenied, StoreUnavailable

log = logging.getLogger(__name__)

COMPRESSED_FROM_BYTES = 1000
"""Size of an answer from which it is compressed, in bytes."""

COMPRESSION = 5
"""How hard answers are compressed, from 1 to 9; 9 takes twice the time for pages that are hardly smaller."""

KEPT_S = 30 * 86_400
"""Time for which browsers keep a style or script, whose link changes with it, in seconds."""


def create_app(admin: AsyncAdmin, settings: ConsoleSettings) -> Starlette:
    """Return the console as an ASGI application. It does not close `admin`."""
    console = Console(admin, settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await console.close()

    app = Starlette(
        routes=[*pages.routes, Mount("/static", _KeptFiles(directory=STATIC_FOLDER), name="static")],
        middleware=[
            Middleware(_Guarded, settings=settings),
            Middleware(_WithErrorPage),  # not an exception handler, which would answer without the guard's headers
            Middleware(GZipMiddleware, minimum_size=COMPRESSED_FROM_BYTES, compresslevel=COMPRESSION),
        ],
        exception_handlers={
            HTTPException: _http_error,  # type: ignore[dict-item]  # starlette's handlers take any exception
            DataStoreError: _store_error,  # type: ignore[dict-item]
        },
        lifespan=lifespan,
    )
    app.state.console = console
    return app


class _KeptFiles(StaticFiles):
    """Styles and scripts, which browsers keep."""

    async def get_response(self, path: str, scope: Any) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers["cache-control"] = f"private, max-age={KEPT_S}"
        return answer


class _Guarded(Guard):
    """The guard, with the page of a refusal."""

    def __init__(self, app: Application, settings: ConsoleSettings) -> None:
        super().__init__(app, settings, _refused)


def _refused(scope: Scope, refusal: Refusal) -> Application:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        shown = page(request, "error.html", refusal.status, title=refusal.title, text=refusal.text, again=False)
        await shown(scope, receive, send)

    return answer


async def _http_error(request: Request, error: HTTPException) -> Response:
    titles = {404: "Not found", 405: "Unknown method"}
    title = titles.get(error.status_code, "Not possible")
    return page(request, "error.html", error.status_code, title=title, text=error.detail, again=False)


async def _store_error(request: Request, error: DataStoreError) -> Response:
    status, title = _status_of(error)
    is_gone = status == 503 and request.method == "GET"
    return page(request, "error.html", status, title=title, text=str(error), again=is_gone)


def _status_of(error: DataStoreError) -> tuple[int, str]:
    if isinstance(error, InvalidInput):
        return 400, "Not possible"
    if isinstance(error, Conflict):
        return 409, "Changed meanwhile"
    if isinstance(error, PermissionDenied):
        return 403, "The server refuses that"
    if isinstance(error, StoreUnavailable):
        return 503, "The server was not reached"
    return 500, "The server replied with an error"


class _WithErrorPage:
    """Answers a request whose page failed by a mistake in the console."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def sent(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as error:
            if has_begun or scope["type"] != "http":
                raise
            log.error("The console's page %s failed.", scope["path"], exc_info=error)
            text = "This page failed, which is a mistake in the console. Its terminal shows the traceback."
            request = Request(scope, receive)
            shown = page(request, "error.html", 500, title="The console failed", text=text, again=False)
            await shown(scope, receive, send)
