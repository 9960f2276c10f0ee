"""Programs of other frameworks run unchanged but for the line that names the store, and a second process goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.killed import ROOT
from tests.repository.test_docs import empty_database

PROGRAMS = ROOT / "examples" / "integrations"

OWN = {
    "langgraph_agent": "from langgraph.checkpoint.memory import InMemorySaver; from langgraph.store.memory import InMemoryStore;"
    " checkpointer, memories = InMemorySaver(), InMemoryStore()",
    "fastmcp_server": "from key_value.aio.stores.memory import MemoryStore; storage = MemoryStore()",
    "claude_session": "from claude_agent_sdk import InMemorySessionStore; sessions = InMemorySessionStore()",
    "openai_agent": "from agents import SQLiteSession; session = SQLiteSession('chat-1')",
    "fastapi_service": "from collections import defaultdict; dicts = defaultdict(dict);"
    " notes_of = lambda user=Depends(user_of): dicts[user]",
}
"""The line that names the framework's own store in memory."""

USES = {
    "fastmcp_server": """
import asyncio, os, sys
from fastmcp import Client
from fastmcp.client.transports import PythonStdioTransport

async def main():
    async with Client(PythonStdioTransport(sys.argv[1], env={**os.environ}, keep_alive=False)) as client:
        for text in sys.argv[2:]:
            print((await client.call_tool("note", {"text": text})).data)

asyncio.run(main())
""",
    "fastapi_service": """
import runpy, sys
from starlette.testclient import TestClient

with TestClient(runpy.run_path(sys.argv[1])["app"]) as web:
    for text in sys.argv[2:]:
        print(web.post("/notes", params={"text": text}, headers={"x-user": "demo"}).json())
""",
}
"""Programs that use a server in place of its clients. The others are started with what they are asked."""


@pytest.mark.timeout(240)  # each imports its framework three times
@pytest.mark.parametrize("name", OWN)
def test_a_program_goes_on_where_another_process_stopped(name: str, server_url: str, tmp_path: Path) -> None:
    text = (PROGRAMS / f"{name}.py").read_text(encoding="utf-8")
    with_own, lines = re.subn(r"^.*# the store$", OWN[name], text, flags=re.MULTILINE)
    assert lines == 1
    for kind, program in (("ours", text), ("own", with_own)):
        (tmp_path / f"{kind}.py").write_text(program, encoding="utf-8")
    claude = tmp_path / "claude"
    claude.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("claude_code.py")}" "$@"\n')
    claude.chmod(0o755)

    def run(kind: str, *asked: str) -> str:
        program = str(tmp_path / f"{kind}.py")
        command = [sys.executable, "-c", USES[name], program] if name in USES else [sys.executable, program]
        done = subprocess.run(
            [*command, *asked], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=110, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with empty_database(server_url) as url:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": url,
            "CLAUDE_CLI": str(claude),
            "CLAUDE_CONFIG_DIR": str(tmp_path / ".claude"),
        }
        remembered = run("own", "Remember: Ada likes tea", "What do I like?")
        assert remembered.count("\n") == 2
        first = run("ours", "Remember: Ada likes tea")
        assert first + run("ours", "What do I like?") == remembered
