"""OpenTelemetry spans of runs, if the host has set up a tracer provider; otherwise the only cost is one check per run."""

from __future__ import annotations

import contextvars
import sys
from typing import Any

from redis_store.options import gen_ai_attributes, opted_into_gen_ai
from sandbox.errors import SandboxError
from sandbox.record.timeline import Called, OperationDone, Timeline, Who

_NS = 1_000_000_000


def begin(who: Who, context: contextvars.Context) -> RunSpan | None:
    """Start the span of a run as a child of the caller's span and make it current for tools; return None without a tracer."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return None  # no tracer provider is set up
    return RunSpan(api, who, context)


class RunSpan:
    """The span of one run. The spans of its calls are added at the end, from the timeline."""

    def __init__(self, api: Any, who: Who, context: contextvars.Context) -> None:
        self._api = api
        self._tracer = api.get_tracer("sandbox")
        self._who = who
        self._context = context
        self._gen_ai: dict[str, str] = context.run(gen_ai_attributes, who.agent, who.run) if opted_into_gen_ai() else {}
        attributes = self._attributes(who)
        self._span: Any = context.run(self._tracer.start_span, f"agent {who.agent}", attributes=attributes)
        context.run(self._attach)

    def end(self, timeline: Timeline, error: SandboxError | None) -> None:
        """Add the spans of the calls and end the span of the run."""
        if self._span.is_recording():
            parents = {self._who.run: self._api.set_span_in_context(self._span)}
            self._add_calls(timeline, parents)
            self._add_operations(timeline, parents)
            if error is not None:
                self._fail(self._span, type(error).__name__)
        self._span.end()

    def _attach(self) -> None:
        from opentelemetry import context as otel_context

        otel_context.attach(self._api.set_span_in_context(self._span))

    def _add_calls(self, timeline: Timeline, parents: dict[str, Any]) -> None:
        """Add the spans of calls in order of time: callers come first, so that every nested run finds its parent."""
        for called in sorted(timeline.called.items(), key=lambda called: called.time):
            attributes = {} if called.nested_run is None else {"sandbox.nested_run": called.nested_run}
            span = self._add(f"{called.kind} {called.name}", called, attributes, parents)
            if called.nested_run is not None:
                parents[called.nested_run] = self._api.set_span_in_context(span)

    def _add_operations(self, timeline: Timeline, parents: dict[str, Any]) -> None:
        for done in timeline.done.items():
            attributes = {
                "sandbox.namespace": done.namespace,
                "sandbox.count": done.keys,
                "sandbox.bytes": done.size,
            }
            if done.hit is not None:
                attributes["sandbox.hit"] = done.hit
            self._add(f"data_store.{done.operation}", done, attributes, parents)

    def _add(
        self, name: str, record: OperationDone | Called, attributes: dict[str, Any], parents: dict[str, Any]
    ) -> Any:
        """Add the span of one call and return it."""
        start = int(record.time * _NS)
        span = self._tracer.start_span(
            name,
            context=parents.get(record.who.run, parents[self._who.run]),
            start_time=start,
            attributes=self._attributes(record.who) | attributes,
        )
        if record.error is not None:
            self._fail(span, record.error)
        span.end(end_time=start + int(record.duration_ms * 1_000_000))
        return span

    def _fail(self, span: Any, name: str) -> None:
        span.set_attribute("error.type", name)
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, name))

    def _attributes(self, who: Who) -> dict[str, Any]:
        """Return the attributes of a run, or of a nested one, which belongs to the conversation of the outermost."""
        attributes = {"sandbox.agent": who.agent, "sandbox.run": who.run}
        return attributes | self._gen_ai | {"gen_ai.agent.name": who.agent} if self._gen_ai else attributes
