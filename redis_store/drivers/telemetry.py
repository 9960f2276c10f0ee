"""OpenTelemetry spans and metrics, by its conventions for database clients, if the host has set it up.

This is checked once, when a client is opened. Without a set-up, its stores have no cost from telemetry.

Operations are named by the method that the caller called. An operation of a flow has the flow's name, which the context carries
to it. The flow of `get_or_set` has a span of its own, the parent of its operations and of what its function does. It starts with
the first operation that is sent, so that a hit of the near cache makes no span.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import sys
import threading
import types
import weakref
from collections.abc import Callable, Generator, Iterable
from contextvars import ContextVar
from time import perf_counter
from typing import Any, TypeVar, cast

from redis_store import scripts
from redis_store.connections.address import is_cluster_url, is_sentinel_url, parse_address, without_secrets
from redis_store.connections.resolver import database_of
from redis_store.drivers.aio import AsyncCore, AsyncDriver
from redis_store.drivers.sync import SyncCore, SyncDriver
from redis_store.errors import DataStoreError
from redis_store.flows.flow import Ask, Flow
from redis_store.namespace.scope import Scope
from redis_store.options import gen_ai_attributes, opted_into_gen_ai
from redis_store.protocol.call import Call, Op, observed
from redis_store.protocol.command import Command, Opening
from redis_store.stats import Counters

T = TypeVar("T")

_NAME = "redis_store"
_BUCKETS_S = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]
"""Bounds of the duration histogram, as the conventions require, in seconds."""

_SHOWN = {
    "set_value": "set",
    "set_if_version": "set",
    "set_many_with_metadata": "set_many",
    "delete_if_version": "delete",
    "fetch": "get",
    "get_touched": "get",
    "get_sliding": "get",
    "get_many_sliding": "get_many",
    "page_size": "scan_items_page",
    "append_bounded": "append",
    "read_range": "range",
    "read_page": "range",
    "take": "acquire",
    "Draft.commit": "transaction",
    **{f"ComputePlan.{step}": "get_or_set" for step in ("claim", "commit", "fail", "renew")},
    "_report": "get_or_set",
}
"""Names under which callers know some operations: methods of `DataStore`, of locks and of sequences."""

_WITH_SPANS = frozenset({"get_or_set"})
"""Flows that have a span of their own."""

_ONLY_IN_SPANS = frozenset({"redis_store.namespace", "gen_ai.agent.name", "gen_ai.conversation.id"})
"""Attributes with too many values for metrics."""

_SCRIPTS = {
    part: each.name
    for made in vars(scripts).values()
    for each in (made.values() if isinstance(made, dict) else (made,))
    if isinstance(each, scripts.Script)
    for part in (each.sha, each.text)
}


def set_up(core: SyncCore | AsyncCore) -> Totals | None:
    """Measure the operations of a client from now on, if OpenTelemetry is set up. Return the totals for its stores to join."""
    tracer, meter = _tracer(), _meter()
    if tracer is None and meter is None:
        return None
    telemetry = Telemetry(core.url, tracer, meter)
    measured, around = telemetry.measured, core.around
    core.measured, core.traced = measured, telemetry.traced
    core.around = measured if around is None else lambda op: around(measured(op))
    return None if meter is None else _totals_of(meter)


def _tracer() -> Any:
    api = sys.modules.get("opentelemetry.trace")
    if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return None
    return api.get_tracer(_NAME)


def _meter() -> Any:
    api = sys.modules.get("opentelemetry.metrics")
    if api is None or "Proxy" in type(api.get_meter_provider()).__name__:  # the proxy's class has no public name
        return None
    return api.get_meter(_NAME)


class Telemetry:
    """The spans and durations of the operations of one client's stores."""

    def __init__(self, url: str, tracer: Any, meter: Any) -> None:
        self._tracer = tracer
        self._duration = None if meter is None else _histogram(meter)
        self._server = _server_attributes(url)
        self._shows_gen_ai = opted_into_gen_ai()

    def measured(self, op: Op[T]) -> Op[T]:
        """Return the operation with a span and a duration, from its first call to its end."""
        return cast("Op[T]", self._measured(op))

    @types.coroutine
    def _measured(self, op: Op[T]) -> Generator[Call[Any], Any, T]:
        flow, scope = _in_flow.get(), _scope_of(op)
        name = _operation_of(op) if flow is None else flow.name
        attributes = {**self._server, **_store_attributes(name, scope, self._shows_gen_ai)}
        running = _Running(self._tracer, self._duration, attributes, flow)
        try:
            seen = cast("Generator[Call[Any], Any, T]", observed(op, running.goes_out, lambda call: None))
            return (yield from seen)
        except DataStoreError as error:
            running.failed(error)
            raise
        finally:
            running.end()

    def traced(self, flow: Flow[T]) -> Flow[T]:
        """Return the flow with its name for its operations, and with a span if it has one."""
        return cast("Flow[T]", self._traced(flow))

    @types.coroutine
    def _traced(self, flow: Flow[T]) -> Generator[Any, Any, T]:
        name = getattr(flow, "__name__", "?")
        tracer = self._tracer if name in _WITH_SPANS else None
        running = _RunningFlow(name, tracer, _store_attributes(name, _scope_of(flow), self._shows_gen_ai))
        before = _in_flow.set(running)
        try:
            step = flow.send(None)
            while True:
                # The caller's function is not part of the flow: its own operations have names of their own.
                _in_flow.set(None if type(step) is Ask else running)
                running.attach()
                try:
                    try:
                        answer = yield step
                    finally:
                        _in_flow.set(running)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        except Exception as error:
            running.failed(error)
            raise
        finally:
            flow.close()
            running.end()
            with contextlib.suppress(ValueError):  # an abandoned flow is closed in another context
                _in_flow.reset(before)


class _RunningFlow:
    """A flow that runs. If it has a span, this starts with the first operation that is sent."""

    def __init__(self, name: str, tracer: Any, attributes: dict[str, Any]) -> None:
        self.name = name
        self._tracer = tracer
        self._attributes = attributes
        self._span: Any = None
        self._token: Any = None

    def context(self) -> Any:
        """Start the span, if it has not started, and return the context for the spans of operations."""
        if self._tracer is None:
            return None
        if self._span is None:
            self._span = self._tracer.start_span(self.name, attributes=self._attributes)
        return sys.modules["opentelemetry.trace"].set_span_in_context(self._span)

    def attach(self) -> None:
        """Make the span current for the function of the caller, once it has started."""
        if self._span is not None and self._token is None:
            self._token = sys.modules["opentelemetry.context"].attach(self.context())

    def failed(self, error: Exception) -> None:
        if self._span is not None:
            _mark_failed(self._span, error)

    def end(self) -> None:
        if self._token is not None:
            sys.modules["opentelemetry.context"].detach(self._token)
        if self._span is not None:
            self._span.end()


_in_flow: ContextVar[_RunningFlow | None] = ContextVar("_in_flow", default=None)
"""The flow whose operations run now."""


def _mark_failed(span: Any, error: Exception) -> None:
    api = sys.modules["opentelemetry.trace"]
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(api.Status(api.StatusCode.ERROR, type(error).__name__))


class _Running:
    """The measurement of one operation, which starts when its first call is sent."""

    def __init__(self, tracer: Any, duration: Any, attributes: dict[str, Any], flow: _RunningFlow | None) -> None:
        self._tracer = tracer
        self._duration = duration
        self._attributes = attributes
        self._flow = flow
        self._span: Any = None
        self._began: float | None = None

    def goes_out(self, call: Call[Any]) -> None:
        if self._began is not None:
            return
        self._began = perf_counter()
        target = _command_attributes(call.commands, self._attributes)
        if self._tracer is not None:
            kind = sys.modules["opentelemetry.trace"].SpanKind.CLIENT
            name = f"{self._attributes['db.operation.name']} {target}"
            within = None if self._flow is None else self._flow.context()
            self._span = self._tracer.start_span(name, within, kind=kind, attributes=self._attributes)

    def failed(self, error: DataStoreError) -> None:
        self._attributes["error.type"] = type(error).__name__
        if self._span is not None:
            _mark_failed(self._span, error)

    def end(self) -> None:
        if self._span is not None:
            self._span.end()
        if self._duration is not None and self._began is not None:
            attributes = {name: value for name, value in self._attributes.items() if name not in _ONLY_IN_SPANS}
            self._duration.record(perf_counter() - self._began, attributes)


def _server_attributes(url: str) -> dict[str, Any]:
    if is_sentinel_url(url) or is_cluster_url(url):
        return {
            "db.system.name": "redis",
            "db.namespace": str(database_of(url)),
            "server.address": without_secrets(url),
        }
    address = parse_address(url, None)
    attributes = {"db.system.name": "redis", "db.namespace": str(address.database)}
    if "path" in address.options:
        return {**attributes, "server.address": address.options["path"]}
    return {**attributes, "server.address": address.options["host"], "server.port": address.options["port"]}


def _operation_of(op: Op[Any]) -> str:
    """Return the name of the method that an operation carries out."""
    name = getattr(op, "__name__", "?").strip("_")
    return _SHOWN.get(getattr(op, "__qualname__", name)) or _SHOWN.get(name, name)


def _scope_of(work: Op[Any] | Flow[Any]) -> Scope | None:
    """Return the scope of an operation or a flow: each has one, or an object with one, among its arguments."""
    arguments = inspect.getcoroutinelocals(work) if inspect.iscoroutine(work) else {}
    return arguments.get("scope") or getattr(arguments.get("plan", arguments.get("self")), "scope", None)


def _store_attributes(name: str, scope: Scope | None, shows_gen_ai: bool) -> dict[str, Any]:
    attributes = {"redis_store.operation": name}
    if scope is None:
        return attributes
    attributes["redis_store.namespace"] = scope.namespace
    return {**attributes, **gen_ai_attributes(*_writer_of(scope.writer.log_head))} if shows_gen_ai else attributes


@functools.lru_cache
def _writer_of(log_head: str) -> tuple[str | None, str | None]:
    """Return the agent and the run of a writer, by the beginning of its entries in the log."""
    about = json.loads(log_head.removesuffix(",") + "}")
    return about.get("agent"), about.get("run")


def _command_attributes(commands: tuple[Command, ...], attributes: dict[str, Any]) -> str:
    """Add the command's attributes, and return the target for the span's name. No key and no value is shown."""
    first = commands[0]
    if len(commands) > 1:
        attributes["db.operation.name"] = "MULTI" if first[0] == "MULTI" else "PIPELINE"
        attributes["db.operation.batch.size"] = len(commands)
        return str(attributes["db.namespace"])
    name = first[0].name if isinstance(first[0], Opening) else first[0]
    attributes["db.operation.name"] = command = name.decode() if isinstance(name, bytes) else str(name)
    if command in ("EVALSHA", "EVAL"):
        script = _script_of(first)
        attributes["db.stored_procedure.name"] = script
        return script
    return str(attributes["db.namespace"])


def _script_of(command: Command) -> str:
    first = command[0]
    if isinstance(first, Opening):
        return next((name for sha, name in _SCRIPTS.items() if sha in first.packed), "?")
    return _SCRIPTS.get(command[1] if isinstance(command[1], bytes) else b"", "?")


def _histogram(meter: Any) -> Any:
    name, unit, description = "db.client.operation.duration", "s", "Duration of database client operations."
    try:
        return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=_BUCKETS_S)
    except TypeError:  # an older API
        return meter.create_histogram(name, unit, description)


_Reading = Callable[[Counters], list[tuple[int, dict[str, str]]]]

_TOTALS: tuple[tuple[str, str, str, _Reading], ...] = (
    (
        "redis_store.lookups",
        "{value}",
        "Values looked up, by whether they existed.",
        lambda counters: [(counters.hits, {"result": "hit"}), (counters.misses, {"result": "miss"})],
    ),
    (
        "redis_store.near_hits",
        "{value}",
        "Values read from the near cache.",
        lambda counters: [(counters.near_hits, {})],
    ),
    (
        "redis_store.computes",
        "{call}",
        "Calls of functions that compute a value, by whether they failed.",
        lambda counters: [
            (counters.computes - counters.compute_errors, {"result": "value"}),
            (counters.compute_errors, {"result": "error"}),
        ],
    ),
    (
        "redis_store.waits",
        "{call}",
        "Callers that waited for a value that another caller computed.",
        lambda counters: [(counters.waits, {})],
    ),
    (
        "redis_store.io",
        "By",
        "Bytes of values, as JSON text or compressed.",
        lambda counters: [
            (counters.bytes_read, {"direction": "read"}),
            (counters.bytes_written, {"direction": "write"}),
        ],
    ),
)


class Totals:
    """The sums of the counters of all stores of the process, including stores that are gone."""

    def __init__(self, meter: Any) -> None:
        self._lock = threading.RLock()
        self._live: dict[int, Counters] = {}
        self._gone = Counters()
        for name, unit, description, read in _TOTALS:
            meter.create_observable_counter(name, [functools.partial(self._observe, read)], unit, description)

    def add(self, driver: SyncDriver | AsyncDriver, counters: Counters) -> None:
        """Include a store's counters; they are added to the total of the gone ones when its driver is collected."""
        with self._lock:
            self._live[id(counters)] = counters
        weakref.finalize(driver, self._retire, counters).atexit = False

    def _retire(self, counters: Counters) -> None:
        with self._lock:
            if self._live.pop(id(counters), None) is not None:
                self._gone.add(counters)

    def _observe(self, read: _Reading, options: object) -> Iterable[Any]:
        with self._lock:
            every = [read(counters) for counters in (self._gone, *self._live.values())]
        api = sys.modules["opentelemetry.metrics"]
        return [api.Observation(sum(n for n, _ in column), column[0][1]) for column in zip(*every, strict=True)]


_totals: dict[int, Totals] = {}
_making = threading.RLock()


def _totals_of(meter: Any) -> Totals:
    """Return the totals of the current meter provider, made once for each."""
    provider = sys.modules["opentelemetry.metrics"].get_meter_provider()
    with _making:
        if id(provider) not in _totals:
            _totals[id(provider)] = Totals(meter)
        return _totals[id(provider)]
