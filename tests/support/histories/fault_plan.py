"""The faults of a round: which, when and how, all drawn from its seed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import redis

from tests.support.proxy import Fault, Proxy
from tests.support.servers import Server

MOST_PAUSE_S = 0.12
"""Longest pause between two faults, in seconds."""

MOST_DELAY_S = 0.5
"""Longest delay of a request or a reply, in seconds; longer than the stores wait."""


class FaultPlan:
    """Causes faults until the time is up. Call it in the thread that started the server, which ends with that thread."""

    def __init__(
        self, server: Server, proxy: Proxy, seed: int, kill_client: Callable[[], None], names: tuple[str, ...] | None
    ) -> None:
        self.caused: Counter[str] = Counter()
        self._server = server
        self._proxy = proxy
        self._chance = random.Random(f"{seed}:faults")
        self._kill_client = kill_client
        self._names = names
        self._raw = server.client()
        self._timers: list[threading.Timer] = []

    def cause_until(self, end: float) -> None:
        """Cause faults until a moment of `time.monotonic`: of the heavy ones, each at least once."""
        began = time.monotonic()
        planned = [
            (began + (end - began) * self._chance.uniform(0.1, 0.9), name)
            for name in ("kill_server", "kill_process", "kill_connections", "swallow")
            if self._names is None or name in self._names
        ]
        planned.sort()
        while (now := time.monotonic()) < end:
            if planned and planned[0][0] <= now:
                self._cause(planned.pop(0)[1])
            elif name := self._draw():
                self._cause(name)
            time.sleep(min(self._chance.random() * MOST_PAUSE_S, max(0.0, end - time.monotonic())))

    def stop(self) -> None:
        """End all faults that still go on."""
        for timer in self._timers:
            timer.join()
        self._proxy.end_faults()
        self._raw.close()

    def _draw(self) -> str | None:
        weights = {
            "cut_before": 4, "cut_after": 5, "cut_in_reply": 2, "swallow": 1, "delay_request": 4, "delay_reply": 4,
            "drop_all": 1, "kill_connections": 1, "kill_listeners": 0.5, "pause_server": 0.7, "kill_server": 0.25,
            "kill_process": 0.3,
        }  # fmt: skip
        allowed = {name: weight for name, weight in weights.items() if self._names is None or name in self._names}
        return self._chance.choices(list(allowed), list(allowed.values()))[0] if allowed else None

    def _cause(self, name: str) -> None:
        self.caused[name] += 1
        getattr(self, f"_{name}")()

    def _strike(self, fault: Fault) -> None:
        self._proxy.strike(b"", fault)

    def _cut_before(self) -> None:
        self._strike(Fault.CUT_BEFORE)

    def _cut_after(self) -> None:
        self._strike(Fault.CUT_AFTER)

    def _cut_in_reply(self) -> None:
        self._strike(Fault.CUT_IN_REPLY)

    def _swallow(self) -> None:
        self._strike(Fault.SWALLOW)

    def _delay_request(self) -> None:
        self._delay(Fault.HOLD_REQUEST)

    def _delay_reply(self) -> None:
        self._delay(Fault.HOLD_REPLY)

    def _delay(self, fault: Fault) -> None:
        rule = self._proxy.strike(b"", fault)
        timer = threading.Timer(self._chance.random() ** 2 * MOST_DELAY_S, rule.release)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _drop_all(self) -> None:
        self._proxy.drop_all()

    def _kill_connections(self) -> None:
        self._kill_clients("normal")

    def _kill_listeners(self) -> None:
        self._kill_clients("pubsub")

    def _kill_clients(self, kind: str) -> None:
        with suppress(redis.RedisError):
            self._raw.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def _pause_server(self) -> None:
        self._server.pause()
        time.sleep(self._chance.random() * MOST_DELAY_S)
        self._server.resume()

    def _kill_server(self) -> None:
        self._server.restart()

    def _kill_process(self) -> None:
        self._kill_client()
