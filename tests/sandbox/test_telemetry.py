"""OpenTelemetry spans, if the host uses OpenTelemetry."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox
from sandbox.record.telemetry import begin
from sandbox.record.timeline import Who

PROGRAM = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import sandbox

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("host")

def tool():
    with tracer.start_as_current_span("in the tool"):
        pass

with tracer.start_as_current_span("request"):
    result = sandbox.run(
        '''
async def run(input_dict, tools):
    data_store.set("k", "a secret value")
    tools["tool"]()
    await agents.call("child")
    raise ValueError("no")
''',
        {}, user=sys.argv[2], url=sys.argv[1], agent="parent", tools={"tool": tool},
        agents={"child": "def run(): data_store.get('k'); return {}"},
    )
spans = exporter.get_finished_spans()
names = {span.context.span_id: span.name for span in spans}
for span in sorted(spans, key=lambda span: span.start_time):
    parent = names.get(span.parent.span_id) if span.parent else None
    print(span.name, "<", parent, "|", span.status.status_code.name)
    assert span.end_time >= span.start_time
    assert "secret" not in span.to_json()
assert len({span.context.trace_id for span in spans}) == 1
assert [span for span in spans if span.name == "agent parent"][0].attributes["sandbox.run"] == result.run
told = {
    (span.attributes["sandbox.agent"], span.attributes["gen_ai.agent.name"], span.attributes["gen_ai.conversation.id"])
    for span in spans if "sandbox.agent" in span.attributes
}
assert told == {("parent", "parent", result.run), ("child", "child", result.run)}, told
"""


def environment() -> dict[str, str]:
    asked_for = {"OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental"}
    return {**os.environ, **asked_for, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}


def test_spans_nest_in_the_caller_span_and_tool_spans_in_ours(server_url: str, user: str) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="pip install opentelemetry-sdk")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, server_url, user],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(
        [
            "request < None | UNSET",
            "agent parent < request | ERROR",
            "data_store.set < agent parent | UNSET",
            "tool tool < agent parent | UNSET",
            "in the tool < agent parent | UNSET",
            "agent child < agent parent | UNSET",
            "data_store.get < agent child | UNSET",
        ]
    )


def test_no_spans_without_opentelemetry() -> None:
    assert begin(Who("agent", "id"), contextvars.copy_context()) is None
