"""Serves one agent's calls of the store: names of operations and JSON text come in, Redis never shows.

The store is bound to its user before the agent starts, and no message can say another. Values pass through as JSON text.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from redis_store import errors as store_errors
from redis_store.errors import DataStoreError, LimitExceeded, StoreUnavailable
from sandbox._frames import SPIN_FOR_REQUEST_US, Channel, FrameError, FrameTooBig, Part, unpack
from sandbox._messages import read_request
from sandbox._operations import HANDLERS, WITH_KEY, Done, TextStore
from sandbox.errors import OperationLimitExceeded, ProtocolViolation, SandboxError
from sandbox.limits import Limits
from sandbox.result import Operation

_NAMESPACES_KEPT = 256

logger = logging.getLogger("sandbox")


class Broker:
    """Answers the calls of one run, in a thread that the runner gives it, until the socket ends.

    `end` is called with the error that the run must end with; what the agent can catch goes back to the agent.
    """

    def __init__(
        self,
        sock: socket.socket,
        store: TextStore,
        agent: str,
        limits: Limits,
        end: Callable[[SandboxError], None],
        hidden: tuple[str, ...] = (),
    ) -> None:
        self.operations: list[Operation] = []
        self._channel = Channel(sock, limits.frame_bytes, SPIN_FOR_REQUEST_US)
        self._store = store
        self._namespaces: dict[str, TextStore] = {}
        self._agent = agent
        self._limits = limits
        self._end = end
        self._hidden = hidden

    def serve(self) -> None:
        """Answer until the child closes its end, the run is over, or a rule is broken."""
        try:
            while (body := self._channel.receive()) is not None:
                number, operation, namespace, arguments = read_request(unpack(body))
                del body
                if len(self.operations) >= self._limits.operations:
                    self._end(_too_many(self._limits))
                    return
                self._reply(number, self._record(operation, namespace, arguments))
        except FrameError as error:
            self._end(ProtocolViolation(f"The agent's process sent {error} on its data channel."))
        except OSError:
            return
        except Exception as error:
            logger.exception("the broker of a run failed")
            self._end(ProtocolViolation(f"The agent's process could not be served: {type(error).__name__}."))

    def _reply(self, number: int, parts: list[Part]) -> None:
        try:
            self._channel.send([number, *parts])
        except FrameTooBig as error:
            self._channel.send([number, *_error_parts(_answer_too_big(error))])

    def _record(self, operation: str, namespace: str, arguments: list[Any]) -> list[Part]:
        """Carry out a call and return its answer; the timeline gets a line either way."""
        received, start = datetime.now(UTC), time.perf_counter()
        failed: str | None = None
        try:
            done = HANDLERS[operation](self._namespace(namespace), arguments)
            parts = [1, *done.parts]
        except DataStoreError as error:
            done, parts, failed = Done([], 0), _error_parts(error, self._hidden), type(error).__name__
        except FrameError:
            raise
        except Exception as error:
            logger.exception("the store failed in %s", operation)
            failed = type(error).__name__
            done, parts = Done([], 0), _error_parts(DataStoreError(f"The host failed in {operation} ({failed})."))
        duration_ms = (time.perf_counter() - start) * 1000
        key = arguments[0] if operation in WITH_KEY else None
        self.operations.append(
            Operation(
                received, self._agent, operation, namespace, key, done.keys, done.hit, done.size, duration_ms, failed
            )
        )
        return parts

    def _namespace(self, name: str) -> TextStore:
        store = self._namespaces.get(name)
        if store is None:
            if len(self._namespaces) >= _NAMESPACES_KEPT:
                self._namespaces.clear()
            store = self._namespaces[name] = self._store.use_namespace(name)
        return store


def _too_many(limits: Limits) -> OperationLimitExceeded:
    return OperationLimitExceeded(
        f"The agent called the store more than {limits.operations:,} times: raise Limits.operations, or use get_many and"
        " set_many.",
        limit="operations",
        value=limits.operations,
    )


def _answer_too_big(error: FrameTooBig) -> LimitExceeded:
    return LimitExceeded(
        f"The answer takes {error.size_bytes:,} bytes, and at most {error.limit_bytes:,} reach an agent at once: read in"
        " parts, for example with iter_items, or raise Limits.frame_bytes.",
        limit="frame_bytes",
        limit_bytes=error.limit_bytes,
        size_bytes=error.size_bytes,
    )


def _error_parts(error: DataStoreError, hidden: tuple[str, ...] = ()) -> list[Part]:
    """Return an error as it crosses: its class, its message without the server's address, its facts as JSON."""
    known = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in store_errors.__all__)
    message = str(error)
    if isinstance(error, StoreUnavailable):
        for text in hidden:
            message = message.replace(text, "the server")
    facts = {name: _plain_fact(fact) for name, fact in error.facts.items()}
    text = json.dumps({name: fact for name, fact in facts.items() if fact is not None})
    return [0, known, message.encode(errors="backslashreplace").decode(), text.encode()]


def _plain_fact(fact: Any) -> Any:
    if isinstance(fact, bytes):
        return {"bytes": fact.decode("latin-1")}
    if isinstance(fact, list) and all(isinstance(one, str) for one in fact):
        return fact
    return fact if isinstance(fact, (bool, int, float, str)) else None
