"""Calls in threads, for tests that observe a store meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class in_thread:
    """Runs a call in a thread during a `with` block; afterwards `error` or `result` is set."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.error: Any = None
        self.result: Any = None

        def work() -> None:
            try:
                self.result = call()
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=work, daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def ident(self) -> int:
        assert self._thread.ident is not None
        return self._thread.ident

    def __enter__(self) -> in_thread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the call has not come back"


def all_at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Run calls in threads that start together, and return their results; raise the error of any of them."""
    barrier = threading.Barrier(len(calls))

    def after_the_others(call: Callable[[], Any]) -> Any:
        barrier.wait(30)
        return call()

    running = [in_thread(lambda call=call: after_the_others(call)) for call in calls]
    for thread in running:
        thread.__enter__()
    for thread in running:
        thread.__exit__()
    for thread in running:
        if thread.error is not None:
            raise thread.error
    return [thread.result for thread in running]
