"""One round: clients call a server under faults, then what they recorded is checked."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis_store import AsyncDataStore, DataStore, StoreUnavailable, connect, connect_async
from tests.support.brokered_side import brokered
from tests.support.histories.acts import BANKS, BATCH_KEYS, BATCHES, COUNTERS, DATA, WATCHED, Chooser, one_value_of
from tests.support.histories.checks import all_violations, told_state
from tests.support.histories.clients import Named, Process, Recorder, Watcher, call_from_tasks, call_until
from tests.support.histories.fault_plan import FaultPlan
from tests.support.histories.history import History, Operation, Violation, clock, read_journal
from tests.support.proxy import Proxy, proxied
from tests.support.servers import Server

TIMEOUT_S = 0.3
"""Time that the stores wait for a reply, in seconds."""

PATIENCE_S = 20.0
"""Time that clients have to come back, and the watcher to know everything, in seconds."""

SHOWN = 3
"""Number of violations of each check that a report shows."""


@dataclass
class Report:
    """What a round did and found."""

    seed: int
    operations: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        checks = Counter(one.check for one in self.violations)
        found = [str(one) for check in checks for one in [v for v in self.violations if v.check == check][:SHOWN]]
        counts = [f"violations: {', '.join(f'{check} {count}' for check, count in checks.items())}"] if checks else []
        return "\n".join([f"seed {self.seed}: {outcomes}; faults: {faults or 'none'}", *found, *counts])


class Round:
    """A round of some seconds, started by `go` in the thread that started the server."""

    def __init__(
        self,
        server: Server,
        folder: Path,
        seed: int,
        seconds: float,
        faults: tuple[str, ...] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """With `faults`, there are none but these, by their names in `FaultPlan`."""
        self._server = server
        self._folder = folder
        self._seed = seed
        self._seconds = seconds
        self._faults = faults
        self._patience_s = patience_s
        self._user = f"user-{uuid.uuid4().hex}"
        self._history = History()
        self._over = threading.Event()
        self._processes: list[Process] = []
        self._threads: list[threading.Thread] = []
        self._report = Report(seed)

    def go(self) -> Report:
        """Let the clients call under faults, stop both, and return what the checks find."""
        with ExitStack() as stack:
            proxy = stack.enter_context(proxied(self._server))
            direct = stack.enter_context(self._store(self._server.url))
            watcher = Watcher(stack.enter_context(self._store(proxy.url)))
            stack.callback(watcher.close)
            self._began = clock()
            self._until = self._began + int(self._seconds * 1e9)
            self._start_clients(stack, proxy, direct)
            plan = FaultPlan(self._server, proxy, self._seed, self._replace_process, self._faults)
            plan.cause_until(time.monotonic() + self._seconds)
            self._over.set()
            plan.stop()
            self._report.faults = plan.caused
            self._join()
            final = self._read_all(direct)
            self._wait_for_the_same_state(watcher, direct)
        self._check(final, list(watcher.changes))
        return self._report

    def _store(self, url: str, **options: Any) -> DataStore:
        return connect(url, user=self._user, timeout=TIMEOUT_S, configure_server=True, **options)

    def _start_clients(self, stack: ExitStack, proxy: Proxy, direct: DataStore) -> None:
        shared = stack.enter_context(self._store(proxy.url))
        near = stack.enter_context(self._store(proxy.url, near_cache=True))
        agent = stack.enter_context(brokered(stack.enter_context(self._store(proxy.url)))).store
        for name, named in [
            ("direct", Named("direct", direct)),
            ("shared-1", Named("shared", shared)),
            ("shared-2", Named("shared", shared)),
            *((f"near-{number}", Named("near", near, near=True)) for number in range(2)),
        ]:
            self._start(name, call_until, self._over.is_set, self._recorder(name, named, False))
        # An agent in the test's process cannot wait for a lock.
        self._start(
            "agent", call_until, self._over.is_set, self._recorder("agent", Named("agent", agent), False, False)
        )
        self._start("tasks", lambda: asyncio.run(call_from_tasks(self._over.is_set, lambda: self._open_async(proxy))))
        if self._faults is None or "kill_process" in self._faults:
            self._start_process()

    def _open_async(self, proxy: Proxy) -> list[tuple[AsyncDataStore, list[Recorder]]]:
        found = []
        for store_name, near, tasks in [("async", False, 2), ("async-near", True, 2)]:
            store = connect_async(proxy.url, user=self._user, timeout=TIMEOUT_S, near_cache=near)
            named = Named(store_name, store, near)
            found.append((store, [self._recorder(f"{store_name}-{number}", named, True) for number in range(tasks)]))
        return found

    def _recorder(self, client: str, named: Named, is_async: bool, waits: bool = True) -> Recorder:
        chooser = Chooser(client, self._seed, self._began, is_async=is_async, waits=waits)
        return Recorder(self._history, client, named, chooser)

    def _start(self, name: str, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name=f"histories-{name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _start_process(self) -> None:
        name = f"process-{len(self._processes)}"
        path = self._folder / f"{self._user}-{name}.jsonl"
        self._processes.append(Process(self._server.url, self._user, name, self._seed, self._began, self._until, path))

    def _replace_process(self) -> None:
        self._processes[-1].kill()
        self._start_process()

    def _join(self) -> None:
        end = time.monotonic() + self._patience_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                self._report.violations.append(Violation("hang", f"{thread.name} does not come back"))
        for process in self._processes:
            if not process.wait(max(0.1, end - time.monotonic())):
                self._report.violations.append(Violation("hang", "a client process does not end"))
            self._history.add(read_journal(process.path))

    def _read_all(self, direct: DataStore) -> dict[str, Any]:
        """Read every value at the end, as operations that the checks take like any other."""
        final: dict[str, Any] = {}
        for namespace in (DATA, COUNTERS, BATCHES, WATCHED, *BANKS):
            invoked = clock()
            values = again(direct.use_namespace(namespace).get_all)
            final |= {f"{namespace}/{key}": value for key, value in values.items()}
            for place in {one.key for one in self._history.operations if one.key.startswith(f"{namespace}/")}:
                result = final.get(place)
                if namespace == BATCHES:
                    prefix = place.removeprefix(f"{BATCHES}/")
                    result = one_value_of(values, [f"{prefix}{number}" for number in range(BATCH_KEYS)])
                read = Operation("end", "direct", "get", place, [], invoked)
                self._history.end(self._history.begin(read), result)
        return final

    def _wait_for_the_same_state(self, watcher: Watcher, direct: DataStore) -> None:
        end = time.monotonic() + self._patience_s
        while (told := told_state(watcher.changes)) != (real := again(direct.use_namespace(WATCHED).get_all)):
            if time.monotonic() > end:
                self._report.violations.append(Violation("watchers", f"told is {told}, and there is {real}"))
                return
            time.sleep(0.02)

    def _check(self, final: dict[str, Any], changes: list[tuple[int, Any]]) -> None:
        operations = self._history.operations
        self._report.operations = len(operations)
        self._report.outcomes = Counter(one.outcome for one in operations)
        self._report.violations += [*self._history.unexpected, *all_violations(operations, final, changes)]


def again(read: Callable[[], Any]) -> Any:
    """Make a call until the server can be reached."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return read()
        except StoreUnavailable:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
