"""Runs the example agents as their users do: in the sandbox, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sandbox

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"

RunExample = Callable[..., sandbox.RunResult]


@pytest.fixture
def run_example(server_url: str, user: str) -> RunExample:
    """`sandbox.run` of an example by its name, for one fresh user."""

    def run(name: str, input_dict: dict[str, Any], **tools: Callable[..., Any]) -> sandbox.RunResult:
        return sandbox.run(EXAMPLES / f"{name}.py", input_dict, user=user, tools=tools, url=server_url)

    return run


@pytest.fixture
def output_of(run_example: RunExample) -> Callable[..., dict[str, Any]]:
    """The same, and what the agent returned."""

    def run(name: str, input_dict: dict[str, Any], **tools: Callable[..., Any]) -> dict[str, Any]:
        return run_example(name, input_dict, **tools).check()

    return run
