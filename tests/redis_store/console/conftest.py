"""The console as its users meet it: `redis-store ui` on a server with data, in a browser. One of each for a file of tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from redis_store import Client
from redis_store.admin import Admin
from tests.conftest import missing
from tests.support.consoles import WIDE, ConsoleProcess, MissingBrowser, browser, seed
from tests.support.servers import MissingServer, Server, start_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture(scope="module")
def seeded() -> Iterator[Server]:
    """A server with data of all kinds."""
    try:
        started = start_server("valkey9")
    except MissingServer as error:
        missing(error)
    try:
        seed(started.url)
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def console(seeded: Server) -> Iterator[ConsoleProcess]:
    """The console of that server."""
    running = ConsoleProcess(seeded.url)
    yield running
    running.stop()


@pytest.fixture
def client(seeded: Server) -> Iterator[Client]:
    with Client(seeded.url) as client:
        yield client


@pytest.fixture
def admin(client: Client) -> Admin:
    return Admin(client, operator="another")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser. It is closed with the last test of a file, as nothing else can use asyncio in this thread until then."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(browser())
        except MissingBrowser as error:
            missing(error)
        yield opened


def _refused(message: str) -> bool:
    """Whether the browser tells of a form that the console refused, or of a console that has ended: tests do both on purpose."""
    return message.endswith(("400 (Bad Request)", "403 (Forbidden)", "409 (Conflict)", "net::ERR_CONNECTION_REFUSED"))


@pytest.fixture
def visit(chromium: Browser, console: ConsoleProcess) -> Iterator[Callable[..., Page]]:
    """Opens a page of the console in a new profile of the browser, as one that was let in by the printed url.

    A test fails if a page logs an error, such as a breach of its Content-Security-Policy, or asks another host.
    """
    wrong: list[str] = []
    opened: list[BrowserContext] = []

    def open_page(path: str = "/", size: tuple[int, int] = WIDE, of: ConsoleProcess = console, **options: Any) -> Page:
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console", lambda one: wrong.append(one.text) if one.type == "error" and not _refused(one.text) else None
        )
        page.on("request", lambda one: None if one.url.startswith(of.address) else wrong.append(f"asked {one.url}"))
        page.goto(of.enter(path), wait_until="domcontentloaded")
        return page

    yield open_page
    for context in opened:
        context.close()
    assert wrong == []
