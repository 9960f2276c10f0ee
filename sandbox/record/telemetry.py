"""OpenTelemetry spans of runs, if the host has set up a tracer provider; otherwise the only cost is one check per run."""

from __future__ import annotations

import contextvars
import sys
from typing import Any

from sandbox.errors import SandboxError
from sandbox.record.timeline import Timeline, Who

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
        self._span: Any = context.run(self._tracer.start_span, f"agent {who.agent}", attributes=_attributes(who))
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
            start = int(called.time * _NS)
            span = self._tracer.start_span(
                f"{called.kind} {called.name}",
                context=parents.get(called.who.run, parents[self._who.run]),
                start_time=start,
                attributes=_attributes(called.who),
            )
            if called.nested_run is not None:
                parents[called.nested_run] = self._api.set_span_in_context(span)
                span.set_attribute("sandbox.nested_run", called.nested_run)
            if called.error is not None:
                self._fail(span, called.error)
            span.end(end_time=start + int(called.duration_ms * 1_000_000))

    def _add_operations(self, timeline: Timeline, parents: dict[str, Any]) -> None:
        for done in timeline.done.items():
            start = int(done.time * _NS)
            attributes = {
                **_attributes(done.who),
                "sandbox.namespace": done.namespace,
                "sandbox.count": done.keys,
                "sandbox.bytes": done.size,
            }
            if done.hit is not None:
                attributes["sandbox.hit"] = done.hit
            span = self._tracer.start_span(
                f"data_store.{done.operation}",
                context=parents.get(done.who.run, parents[self._who.run]),
                start_time=start,
                attributes=attributes,
            )
            if done.error is not None:
                self._fail(span, done.error)
            span.end(end_time=start + int(done.duration_ms * 1_000_000))

    def _fail(self, span: Any, name: str) -> None:
        span.set_attribute("error.type", name)
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, name))


def _attributes(who: Who) -> dict[str, Any]:
    return {"sandbox.agent": who.agent, "sandbox.run": who.run}
