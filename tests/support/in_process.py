"""The console in this process: its application, asked as a browser does, without a socket."""

from __future__ import annotations

import asyncio
import re
from html import unescape
from types import TracebackType
from typing import Any, Self

import httpx

from redis_store.admin import AsyncAdmin
from redis_store.console.app import create_app
from redis_store.console.settings import ConsoleSettings


class InProcess:
    """A console and a browser that was let in."""

    def __init__(self, url: str, operator: str = "tester", address: str = "127.0.0.1", **settings: Any) -> None:
        self.settings = ConsoleSettings(**settings)
        self._runner = asyncio.Runner()
        self.admin = AsyncAdmin(url, operator=operator)
        self.app = create_app(self.admin, self.settings)
        transport = httpx.ASGITransport(self.app, client=(address, 50_000))
        self._client = httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{self.settings.port}")
        if self.settings.auth == "token":
            assert self.get("/", token=self.settings.token).status_code == 303

    def get(self, path: str, headers: dict[str, str] | None = None, **query: object) -> httpx.Response:
        """Ask for a page."""
        return self._runner.run(self._client.get(path, params=query or None, headers=headers))

    def text(self, path: str, **query: object) -> str:
        """Return what a page says, without its tags."""
        page = self.get(path, **query).text
        return unescape(re.sub(r"<[^>]*>", "", page[page.index("<main") :]))

    def form(self, path: str, action: str, **query: object) -> dict[str, list[str]]:
        """Return the hidden fields of a page's form."""
        page = self.get(path, **query).text
        [form] = re.findall(rf'<form method="post" action="{action}".*?</form>', page, re.DOTALL)[:1]
        fields: dict[str, list[str]] = {}
        for name, value in re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form):
            fields.setdefault(name, []).append(unescape(value))
        return fields

    def post(self, path: str, fields: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
        """Send a form."""
        return self._runner.run(self._client.post(path, data=fields, headers=headers))

    def forget(self) -> None:
        """Lose the cookies."""
        self._client.cookies.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        async def close() -> None:
            await self._client.aclose()
            await self.app.state.console.close()
            await self.admin.close()

        self._runner.run(close())
        self._runner.close()
