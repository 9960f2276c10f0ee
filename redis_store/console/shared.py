"""What the pages of one console share: the operations, the settings, and what is counted in the background."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from redis_store.admin import AsyncAdmin
from redis_store.console.checkups import Checkups
from redis_store.console.gatherings import Gatherings
from redis_store.console.guard import Visitor
from redis_store.console.key_lists import KeyLists
from redis_store.console.lag import LagHistory
from redis_store.console.searches import Searches
from redis_store.console.settings import ConsoleSettings
from redis_store.console.snapshots import Snapshots


class Console:
    """One console, from its start to its end."""

    def __init__(self, admin: AsyncAdmin, settings: ConsoleSettings) -> None:
        self.admin = admin
        self.settings = settings
        self.snapshots = Snapshots(admin)
        self.key_lists = KeyLists(admin)
        self.searches = Searches(admin)
        self.lags = LagHistory()
        self.gatherings = Gatherings()
        self.checkups = Checkups(admin)
        self.ending = asyncio.Event()
        """Set when the console ends. A page that goes on for long, such as a live one, then ends by itself."""

    def admin_of(self, request: Request) -> AsyncAdmin:
        """Return the operations under the name of the request's sender, which the log of changes shows."""
        visitor: Visitor = request.state.visitor
        if visitor.operator is None:
            return self.admin
        return AsyncAdmin(self.admin.client, operator=visitor.operator)

    async def close(self) -> None:
        """End what runs in the background."""
        self.ending.set()
        await self.snapshots.close()
        await self.key_lists.close()
        await self.searches.close()
        await self.checkups.close()
        await self.gatherings.close()


def console_of(request: Request) -> Console:
    """Return the console that a request reached."""
    console: Console = request.app.state.console
    return console
