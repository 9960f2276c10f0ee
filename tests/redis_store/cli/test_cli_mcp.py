"""The command `redis-store mcp` without the package that it needs. With it: `tests/integrations/test_mcp.py`."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from redis_store.cli import app
from redis_store.errors import InvalidSettings


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("redis_store.integrations.mcp")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    result = CliRunner().invoke(app, ["mcp", "--user", "alice"])
    assert isinstance(result.exception, InvalidSettings)
    assert "'mcp_types' is not installed: pip install 'agent-data-store[mcp]'" in str(result.exception)


def test_a_module_of_ours_that_is_missing_is_no_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis_store.integrations.mcp", None)
    assert isinstance(CliRunner().invoke(app, ["mcp", "--user", "alice"]).exception, ModuleNotFoundError)
