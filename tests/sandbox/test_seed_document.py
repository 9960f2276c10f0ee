"""Every Python block of the document that the product implements runs unchanged, read from the document itself."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from redis_store import DataStore

DOCUMENT = Path(__file__).parents[2].parent / "shared" / "seed" / "agent-data-store.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

STAND_INS = """
value, content, user_data = {"v": 1}, "content", {"name": "u"}

async def fetch_url(url):
    return {"fetched": url}

async def analyze_data(data):
    return {"items": len(data)}

async def fetch_repo_files(repo):
    return [("src/main.py", "def main(): ..."), ("README.md", "Read me")]

async def summarize(content):
    return "Summary: " + content

"""
"""Names that the blocks use but do not define."""

INPUT = {"url": "http://example.org/", "data": [1, 2, 3], "repo": "my-repo", "query": "READ"}


def blocks() -> list[str]:
    return BLOCK.findall(DOCUMENT.read_text()) if DOCUMENT.exists() else []


def as_agent(block: str) -> str:
    """Return a block as an agent; one without a `run` is wrapped in one."""
    if re.search(r"^(async )?def run\(", block, re.MULTILINE):
        return STAND_INS + block
    body = textwrap.indent(textwrap.dedent(block), "    ")
    # A name that a block assigns would hide the stand-in of that name from the block's first lines.
    begin = "    value, content, user_data = VALUES\n    namespaces = data_store.list_namespaces()\n"
    head = f"{STAND_INS}VALUES = value, content, user_data\n"
    return f"{head}async def run(input_dict, tools):\n{begin}{body}\n    return {{'locals': sorted(locals())}}\n"


@pytest.mark.skipif(not DOCUMENT.exists(), reason=f"the document is not there: {DOCUMENT}")
def test_document_has_blocks() -> None:
    assert len(blocks()) >= 10
    assert sum("def run" in block for block in blocks()) >= 6


@pytest.mark.parametrize("number", range(len(blocks())) if blocks() else [pytest.param(0, marks=pytest.mark.skip)])
def test_each_block_runs(run: Any, number: int) -> None:
    result = run(as_agent(blocks()[number]), INPUT)
    assert result.error is None, getattr(result.error, "traceback", result.error)
    assert result.operations


@pytest.mark.skipif(not DOCUMENT.exists(), reason=f"the document is not there: {DOCUMENT}")
def test_blocks_run_in_order(run: Any, store: DataStore) -> None:
    outputs = [run(as_agent(block), INPUT, agent=f"block-{n}").check() for n, block in enumerate(blocks())]
    merged = {key: value for output in outputs for key, value in output.items()}
    assert merged["files_processed"] == 2
    assert merged["analysis"] == {"items": 3}
    assert [found["file"] for found in merged["results"]] == ["README.md"]
    cached = next(block for block in blocks() if "fetch_url" in block)
    assert run(as_agent(cached), INPUT).check()["source"] == "cache"
    assert store.use_namespace("files:my-repo").list_keys() == ["README.md", "src/main.py"]
