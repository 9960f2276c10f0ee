"""Clients that make random calls and record them: threads, tasks of an event loop, agents, processes, and a watcher."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis_store import AsyncDataStore, DataStore, DataStoreError
from tests.support.histories.acts import WATCHED, Act, Chooser
from tests.support.histories.history import History, Operation, clock

MOST_PAUSE_S = 0.006
"""Longest pause of a client between two calls, in seconds."""

CANCELLED = 0.04
"""Share of the calls of tasks that are cancelled if they are not done soon."""

MOST_PATIENCE_S = 0.004
"""Longest time until such a call is cancelled, in seconds."""


@dataclass(frozen=True, slots=True)
class Named:
    """A store with the name that it has in the history."""

    name: str
    store: Any
    near: bool = False


class Recorder:
    """Records the acts of one client."""

    def __init__(self, history: History, client: str, named: Named, chooser: Chooser) -> None:
        self.chooser = chooser
        self.store = named.store
        self._history = history
        self._client = client
        self._named = named

    def begin(self) -> tuple[Act, list[int]]:
        """Choose the next act and record its beginning."""
        act, named = self.chooser.choose(), self._named
        return act, [
            self._history.begin(
                Operation(self._client, named.name, kind, key, args, clock(), near=named.near and act.near)
            )
            for kind, key, args in act.calls
        ]

    def noter(self, numbers: list[int]) -> Callable[[Any], None]:
        return lambda result: self._history.note(numbers[0], result)

    def end(self, act: Act, numbers: list[int], raw: Any) -> None:
        results = act.results(raw)
        for number, result in zip(numbers, results, strict=True):
            self._history.end(number, result)
        self.chooser.learn(act, results)

    def fail(self, numbers: list[int], error: BaseException) -> None:
        for number in numbers:
            self._history.fail(number, error)

    def pause_s(self) -> float:
        return self.chooser.chance.random() * MOST_PAUSE_S


def call_until(over: Callable[[], bool], recorder: Recorder) -> None:
    """Make calls on a blocking store."""
    while not over():
        act, numbers = recorder.begin()
        try:
            raw = act.make(recorder.store.use_namespace(act.namespace), recorder.noter(numbers))
        except Exception as error:
            recorder.fail(numbers, error)
        else:
            recorder.end(act, numbers, raw)
        time.sleep(recorder.pause_s())


async def call_until_async(over: Callable[[], bool], recorder: Recorder) -> None:
    """Make calls on an asynchronous store, and cancel some of them."""
    chance = recorder.chooser.chance
    while not over():
        act, numbers = recorder.begin()
        making = asyncio.ensure_future(act.make(recorder.store.use_namespace(act.namespace), recorder.noter(numbers)))
        if chance.random() < CANCELLED:
            await asyncio.wait({making}, timeout=chance.random() * MOST_PATIENCE_S)
            making.cancel()
        try:
            raw = await making
        except (Exception, asyncio.CancelledError) as error:
            recorder.fail(numbers, error)
        else:
            recorder.end(act, numbers, raw)
        await asyncio.sleep(recorder.pause_s())


async def call_from_tasks(
    over: Callable[[], bool], open_stores: Callable[[], list[tuple[AsyncDataStore, list[Recorder]]]]
) -> None:
    """Make calls from tasks, and close the stores."""
    opened = open_stores()
    try:
        await asyncio.gather(*(call_until_async(over, one) for _, recorders in opened for one in recorders))
    finally:
        for store, _ in opened:
            await store.close()


class Watcher:
    """Notes every change of the watched namespace, with the moment of its arrival, until it is closed."""

    def __init__(self, store: DataStore) -> None:
        self.changes: list[tuple[int, Any]] = []
        self._watch = store.use_namespace(WATCHED).watch()
        self._thread = threading.Thread(target=self._note, name="histories-watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._watch.close()
        self._thread.join()

    def _note(self) -> None:
        with suppress(DataStoreError):  # closed
            while (change := self._watch.next_change(timeout=None)) is not None:
                self.changes.append((clock(), change))


class Process:
    """A client in a process of its own, which may be killed."""

    def __init__(self, url: str, user: str, name: str, seed: int, began: int, until: int, path: Path) -> None:
        self._path = path
        self.path = path
        arguments = [url, user, name, str(seed), str(began), str(until), str(path)]
        self._process = subprocess.Popen([sys.executable, "-m", __name__, *arguments])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end and return whether it ended."""
        try:
            return self._process.wait(timeout_s) is not None
        except subprocess.TimeoutExpired:
            self.kill()
            return False


def main() -> None:
    """Be the process of a `Process`."""
    from redis_store import connect

    url, user, name, seed, began, until, path = sys.argv[1:]
    history = History(Path(path))
    with connect(url, user=user, agent=name, timeout=0.3) as store:
        chooser = Chooser(name, int(seed), int(began), is_async=False)
        call_until(lambda: clock() > int(until), Recorder(history, name, Named(name, store), chooser))
    for violation in history.unexpected:
        print(violation, file=sys.stderr)
    history.close()


if __name__ == "__main__":
    main()
