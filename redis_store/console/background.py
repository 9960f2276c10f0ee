"""Work that takes longer than a page may: it goes on beside the pages, one piece at a time, and pages wait for it a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class Background:
    """One kind of work that goes on beside the pages."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    @property
    def is_at_work(self) -> bool:
        """Whether work is under way."""
        return self._task is not None and not self._task.done()

    def begin(self, work: Callable[[], Coroutine[None, None, None]]) -> bool:
        """Begin work, unless some is under way, and return whether it was begun."""
        if self.is_at_work:
            return False
        self.put_away()
        self._task = asyncio.create_task(work())
        return True

    def put_away(self) -> None:
        """Forget why earlier work failed: the server may be back."""
        task = self._task
        if task is not None and task.done():
            if not task.cancelled():
                task.exception()
            self._task = None

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the work under way, and return whether it has ended by then. Raises why it failed, if it fails now."""
        task = self._task
        if task is None:
            return False
        await asyncio.wait((task,), timeout=timeout_s)
        if not task.done():
            return False
        if self._task is task:
            self._task = None
        if not task.cancelled():
            task.result()
        return True

    async def close(self) -> None:
        """End the work under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
