"""Serves one agent's calls of the store: names of operations and JSON text come in, Redis never shows.

The store is bound to its user and its permissions before the agent starts, and no message can say others. Values pass
through as JSON text.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from typing import Any

from redis_store import errors as store_errors
from redis_store.errors import DataStoreError, InvalidInput, LimitExceeded, StoreUnavailable
from sandbox import _operations
from sandbox._frames import SPIN_FOR_REQUEST_US, Channel, FrameError, FrameTooBig, Part, unpack
from sandbox._held import Held
from sandbox._messages import OF_THE_USER, read_request
from sandbox._operations import TextStore
from sandbox._preview import PREVIEW_SOURCE_BYTES
from sandbox._step_operations import HANDLERS, WITH_KEY
from sandbox._timeline import Done, Who, shortened
from sandbox._tree import Tree
from sandbox.errors import ProtocolViolation, SandboxError

_NAMESPACES_KEPT = 256

logger = logging.getLogger("sandbox")


class Broker:
    """Answers the calls of one process, in a thread that its life gives it, until the socket ends.

    What the run must not survive ends `tree`; what the agent can catch goes back to the agent.
    """

    def __init__(
        self, sock: socket.socket, store: TextStore, who: Who, tree: Tree, hidden: tuple[str, ...] = ()
    ) -> None:
        self._channel = Channel(sock, tree.given.limits.frame_bytes, SPIN_FOR_REQUEST_US)
        self._store = store
        self._namespaces: dict[str, TextStore] = {}
        self._who = who
        self._tree = tree
        self._hidden = hidden
        self.held = Held()
        """What the process has taken and not given back; for whoever clears away after it."""

    def serve(self) -> SandboxError | None:
        """Answer until the child closes its end or the run is over; return what is wrong where a rule is broken."""
        try:
            while (body := self._channel.receive()) is not None:
                number, operation, namespace, arguments = read_request(unpack(body))
                del body
                self._tree.spend_operation()
                self._reply(number, self._record(operation, namespace, arguments))
        except FrameError as error:
            return ProtocolViolation(f"The agent's process sent {error} on its data channel.")
        except (OSError, SandboxError):  # the socket is closed, or a limit has ended the tree
            return None
        except Exception as error:
            logger.exception("the broker of a run failed")
            return ProtocolViolation(f"The agent's process could not be served: {type(error).__name__}.")
        return None

    def _reply(self, number: int, parts: list[Part]) -> None:
        try:
            self._channel.send([number, *parts])
        except FrameTooBig as error:
            self._channel.send([number, *_error_parts(_answer_too_big(error))])

    def _record(self, operation: str, namespace: str, arguments: list[Any]) -> list[Part]:
        """Carry out a call and return its answer; the timeline gets a line either way."""
        received, start = time.time(), time.perf_counter()
        failed: str | None = None
        try:
            done = self._carry_out(operation, namespace, arguments)
            parts = [1, *done.parts]
        except DataStoreError as error:
            done, parts, failed = _NOTHING, _error_parts(error, self._hidden), type(error).__name__
        except (FrameError, SandboxError):
            raise
        except Exception as error:
            logger.exception("the store failed in %s", operation)
            failed = type(error).__name__
            done, parts = _NOTHING, _error_parts(DataStoreError(f"The host failed in {operation} ({failed})."))
        duration_ms = (time.perf_counter() - start) * 1000
        key = shortened(arguments[0]) if operation in WITH_KEY else None
        self._tree.timeline.done.add(
            Done(
                received,
                self._who,
                operation,
                namespace,
                key,
                done.keys,
                done.hit,
                done.size,
                duration_ms,
                failed,
                None if done.value is None else done.value[: PREVIEW_SOURCE_BYTES + 1],
            )
        )
        return parts

    def _carry_out(self, operation: str, namespace: str, arguments: list[Any]) -> _operations.Done:
        tree = self._tree
        tree.granted.check(operation)
        written = _operations.bytes_written(operation, arguments)
        # Else the store refuses, and nothing was written; a transaction's namespaces stand in its arguments.
        if written and (operation in OF_THE_USER or tree.granted.access.may_write(namespace)):
            tree.quota.check(written)
            tree.spend_written(written)
        elif noted := _operations.bytes_noted(operation, arguments):
            tree.spend_written(noted)
        news = self.held.begin(operation, namespace, arguments)
        try:
            done = HANDLERS[operation](self._namespace(namespace), arguments)
        except InvalidInput:  # nothing was sent
            self.held.forget(news)
            raise
        self.held.end(operation, namespace, arguments, done.parts, news)
        return done

    def _namespace(self, name: str) -> TextStore:
        store = self._namespaces.get(name)
        if store is None:
            if len(self._namespaces) >= _NAMESPACES_KEPT:
                self._namespaces.clear()
            store = self._namespaces[name] = self._store.use_namespace(name)
        return store


_NOTHING = _operations.Done([], 0)


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
