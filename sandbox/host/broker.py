"""The broker of one agent process: carries out its `data_store` calls, given as operation names and JSON text.

The agent never sees Redis. The store is bound to its user and permissions before the agent starts, and no message can
change them. Values pass through as JSON text.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from typing import Any

from redis_store import DataStore
from redis_store import errors as store_errors
from redis_store.brokers.steps import carry_out, moved_bytes
from redis_store.brokers.usage import listed_name, replaced
from redis_store.errors import DataStoreError, InvalidInput, InvalidSettings, LimitExceeded, StoreUnavailable
from redis_store.flows.compute_once import Found
from redis_store.types import MISSING
from sandbox.errors import ProtocolViolation, SandboxError
from sandbox.host.held import Held
from sandbox.masking import PREVIEW_SOURCE_BYTES
from sandbox.protocol import charges
from sandbox.protocol.answers import Answered
from sandbox.protocol.arguments import charge_of_namespaces
from sandbox.protocol.frames import SPIN_FOR_REQUEST_US, Channel, FrameError, FrameTooBig, Part, unpack
from sandbox.protocol.operations import OPERATIONS, Row, read_request
from sandbox.record.timeline import NAMESPACE_CHARACTERS, OperationDone, Who, shortened
from sandbox.running.tree import Tree

_NAMESPACES_KEPT = 256

_BYTES_OF_PART = 512
"""Bytes that a key or another argument counts as moved, beside its own: it takes the server as long as copying them."""

_MOVED_UNCOUNTED = 1024 * 1024
"""Bytes that are moved before the run's pace is asked, so that small calls do not ask."""

logger = logging.getLogger("sandbox")


class Broker:
    """Answers the calls of one process, in a thread of the caller, until the socket is closed.

    An error that must end the run ends `tree`; an error that the agent can catch is sent to the agent.
    """

    patience_s = 1.0
    """Timeout for joining the broker's thread after its socket and store were closed, in seconds."""

    def __init__(
        self, sock: socket.socket, store: DataStore, who: Who, tree: Tree, hidden: tuple[str, ...] = ()
    ) -> None:
        """Answer on `sock` with `store`; `hidden` are texts that no message to the agent may contain."""
        self._channel = Channel(sock, tree.given.limits.frame_bytes, SPIN_FOR_REQUEST_US)
        self._store = store
        self._namespaces: dict[tuple[str, int | None], DataStore] = {}
        self._who = who
        self._tree = tree
        self._hidden = hidden
        self._moved_bytes = 0
        self._in_flight = 0
        """What the quota was charged for the call that is carried out, in bytes."""
        self.held = Held()
        """What the process has acquired and not released yet, for the clean-up after its end."""

    def serve(self) -> SandboxError | None:
        """Answer until the child closes its end or the run is over; return an error if the child broke the protocol."""
        try:
            while (body := self._channel.receive()) is not None:
                number, operation, namespace, max_keys, arguments = read_request(unpack(body))
                self._moved_bytes += 2 * len(body) + _BYTES_OF_PART * len(arguments)
                del body
                self._tree.spend_operation()
                self._reply(number, self._record(operation, namespace, max_keys, arguments))
                self._moved_bytes += moved_bytes(self._store)
                if self._moved_bytes > _MOVED_UNCOUNTED:
                    self._keep_pace()
        except FrameError as error:
            return ProtocolViolation(f"The agent's process sent {error} on its data channel.")
        except (OSError, SandboxError):  # the socket is closed, or a limit has ended the tree
            return None
        except Exception as error:
            logger.exception("the broker of a run failed")
            return ProtocolViolation(f"The agent's process could not be served: {type(error).__name__}.")
        return None

    def give_back(self) -> None:
        """Release what the process holds; the process has ended or is about to, and nothing renews its holds."""
        if self.held:
            with self._tree.open_to_release() as store:
                self.held.release(store)

    def close(self) -> None:
        """Close the store, from another thread; this wakes a call that still waits for the server."""
        self._store.close()

    def _keep_pace(self) -> None:
        """Wait if the run has moved many bytes lately, so that the server serves others meanwhile, or until the run ends."""
        wait_s = self._tree.pace.spend(self._moved_bytes)
        self._moved_bytes = 0
        if wait_s:
            self._channel.wait_for_end(wait_s)

    def _reply(self, number: int, parts: list[Part]) -> None:
        try:
            self._moved_bytes += self._channel.send([number, *parts])
        except FrameTooBig as error:
            self._channel.send([number, *error_parts(_answer_too_big(error.size_bytes, error.limit_bytes))])

    def _record(self, operation: str, namespace: str, max_keys: int | None, arguments: list[Any]) -> list[Part]:
        """Carry out a call and return its answer; record it in the timeline, successful or not."""
        received, start = time.time(), time.perf_counter()
        failed: str | None = None
        try:
            try:
                done = self._carry_out(operation, namespace, max_keys, arguments)
            finally:
                if self._in_flight:
                    self._tree.quota.settle(self._in_flight)
                    self._in_flight = 0
            parts = [1, *done.parts]
            self._moved_bytes += done.moved_bytes
        except DataStoreError as error:
            told = self._told(error)
            done, parts, failed = _NOTHING, error_parts(told, self._hidden), type(told).__name__
        except (FrameError, SandboxError):
            raise
        except Exception as error:
            logger.exception("the store failed in %s", operation)
            failed = type(error).__name__
            done, parts = _NOTHING, error_parts(_host_failed(operation, failed))
        duration_ms = (time.perf_counter() - start) * 1000
        key = shortened(arguments[0]) if OPERATIONS[operation].is_named else None
        self._tree.timeline.done.add(
            OperationDone(
                received,
                self._who,
                "get" if operation == "look_value" else operation,
                shortened(namespace, NAMESPACE_CHARACTERS),
                key,
                done.keys,
                done.hit,
                done.size,
                duration_ms,
                failed,
                None if done.value is None else done.value[: PREVIEW_SOURCE_BYTES + 1],
                done.kept,
            )
        )
        return parts

    def _told(self, error: DataStoreError) -> DataStoreError:
        """Return the error in terms that the agent knows."""
        if isinstance(error, LimitExceeded) and error.limit == "max_read_bytes":
            return _answer_too_big(error.facts["limit_bytes"], self._tree.given.limits.frame_bytes, "more than ")
        return error

    def _carry_out(self, operation: str, namespace: str, max_keys: int | None, arguments: list[Any]) -> Answered:
        tree = self._tree
        row = OPERATIONS[operation]
        row.check_counts(arguments)
        if tree.granted.operations is not None:
            tree.granted.check(operation, row.needed(arguments, max_keys is not None))
        # Without the right to write, the store refuses and writes nothing. A transaction names its namespaces in its arguments.
        writes = row.of_user or tree.granted.access.may_write(namespace)
        store = self._namespace(namespace, max_keys)
        if (row.stores and writes) or row.notes or row.tells:
            try:
                self._charge(row, namespace, arguments, writes=writes)
            except LimitExceeded:
                if (
                    operation == "claim_value"
                    and (found := carry_out(store, "get", arguments[0], MISSING)) is not MISSING
                ):
                    return row.answered(arguments, Found(found))  # stale perhaps, and not refreshed
                if operation != "fail_value":
                    raise
                arguments[2:] = "", ""  # the claim is given up, without the error for its waiters
        news = self.held.begin(operation, namespace, arguments)
        try:
            done = row.answered(arguments, carry_out(store, operation, *row.decode(arguments)))
        except InvalidInput:  # nothing was sent to the server
            self.held.forget(news)
            raise
        self.held.end(operation, namespace, arguments, done.parts, news)
        if row.frees and (done.keys or row.releases):
            names = row.changed_namespaces(namespace, arguments) if tree.quota.is_set else ()
            tree.quota.note_change(
                self._store,
                [listed_name(self._store, "ns", name) for name in names],
                deleted=row.deletes(arguments, max_keys is not None),
            )
        return done

    def _charge(self, row: Row, namespace: str, arguments: list[Any], *, writes: bool) -> None:
        """Count what a call would store, and raise `LimitExceeded` if it is too much."""
        tree = self._tree
        size = row.bytes_written(arguments) if writes else 0
        namespaces = row.written_namespaces(namespace, arguments) if size else ()
        size += row.bytes_noted(namespace, arguments)
        if tree.quota.is_set and writes and not row.only_renews(arguments):
            listed = row.listed(namespace, arguments)
            self._in_flight = tree.quota.check(
                size + charge_of_namespaces({*namespaces, *([namespace] if row.notes == "ns" else [])}),
                self._store,
                [listed_name(self._store, kind, name) for kind, name in listed],
                lambda: self._replaced(row, namespace, arguments),
            )
        new = tree.uncharged(namespaces)
        tree.spend_written(size + charge_of_namespaces(new))
        if new:
            tree.note_charged(new)

    def _replaced(self, row: Row, namespace: str, arguments: list[Any]) -> int:
        """Return about how many of the bytes that a call would store replace others, so that the data does not grow by them.

        In a namespace that the agent may not read nothing does: it would learn which keys exist.
        """
        size = 0
        for name, keys in row.overwritten(namespace, arguments).items():
            if not self._tree.granted.access.may_read(name):
                continue
            count, name_bytes, value_bytes = replaced(self._namespace(name, None), keys)
            if count:
                size += charges.KEY_BYTES * count + 2 * name_bytes + value_bytes + charge_of_namespaces([name])
                size += charges.LOGGED_BYTES if row.tells else 0  # nothing watches, so nothing is told
        return size

    def _namespace(self, name: str, max_keys: int | None) -> DataStore:
        store = self._namespaces.get((name, max_keys))
        if store is None:
            if len(self._namespaces) >= _NAMESPACES_KEPT:
                self._namespaces.clear()
            store = self._namespaces[name, max_keys] = self._store.use_namespace(name, max_keys=max_keys)
        return store


_NOTHING = Answered([], 0)


def _host_failed(operation: str, failed: str) -> DataStoreError:
    changes = OPERATIONS[operation].changes
    return DataStoreError(f"The host failed in {operation} ({failed}).", outcome_unknown=changes)


def _answer_too_big(size: int, limit: int, more: str = "") -> LimitExceeded:
    """Return the error for an answer that is too big to send; `more` qualifies a size that is not fully known."""
    return LimitExceeded(
        f"The answer takes {more}{size:,} bytes, and at most {limit:,} can be sent to an agent at once: read in parts, for"
        " example with iter_items, or raise Limits.frame_bytes.",
        limit="frame_bytes",
        limit_bytes=limit,
        size_bytes=size,
    )


def error_parts(error: DataStoreError, hidden: tuple[str, ...] = ()) -> list[Part]:
    """Return an error as it is sent: its class, its message without the server's address, its facts as JSON."""
    known = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in store_errors.__all__)
    message = str(error)
    if isinstance(error, (StoreUnavailable, InvalidSettings)):  # no other errors name the server
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
