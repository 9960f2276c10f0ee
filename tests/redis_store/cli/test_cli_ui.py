"""The command `redis-store ui`: its url, its end, and what it says where it cannot start."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from redis_store.cli import app
from redis_store.errors import InvalidSettings


def test_printed_url_lets_its_browser_in_until_ctrl_c(server_url: str) -> None:
    command = [sys.executable, "-m", "redis_store", "ui", "--url", server_url, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(url.partition("?")[0]).status_code == 401
        with httpx.Client() as browser:
            page = browser.get(url, follow_redirects=True)
            assert page.status_code == 200
            assert "token" not in str(page.url)
            assert size_of(browser, page) < 150_000
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=10)
        assert process.returncode == 0
        assert "until Ctrl-C" in said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.communicate()


def size_of(browser: httpx.Client, page: httpx.Response) -> int:
    """Return the size of a page with its styles and scripts, over the wire."""
    parts = re.findall(r'"(/static/[^"]+)"', page.text)
    assert len(parts) >= 2
    size = 0
    for part in ("/", *parts):
        with browser.stream("GET", page.url.join(part)) as answer:
            size += sum(map(len, answer.iter_raw()))
            answer.raise_for_status()
    return size


def test_port_that_is_taken(server_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["ui", "--url", server_url, "--port", str(port)])
    assert isinstance(result.exception, InvalidSettings)
    assert f"port {port}" in str(result.exception)
    assert "--port 0" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "no such host"], "Pass another --host"),
        (["--auth", "password"], "'token' or 'proxy'"),
        (["--auth", "proxy"], "--trust"),
        (["--trust", "10.0.0.1"], "--auth proxy"),
        (["--auth", "proxy", "--trust", "proxy.example"], "'proxy.example' is no address"),
    ],
)
def test_wrong_options(options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["ui", "--url", "redis://127.0.0.1:1", *options])
    assert isinstance(result.exception, InvalidSettings)
    assert message in str(result.exception)


@pytest.mark.parametrize("package", ["starlette", "jinja2", "uvicorn"])
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    def without(name: str) -> None:
        raise ModuleNotFoundError(name=f"{package}.routing")

    monkeypatch.setattr("importlib.import_module", without)
    result = CliRunner().invoke(app, ["ui"])
    assert isinstance(result.exception, InvalidSettings)
    assert f"'{package}.routing' is not installed: pip install 'agent-data-store[ui]'" in str(result.exception)


def test_missing_module_of_ours_is_no_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis_store.console.serve", None)
    assert isinstance(CliRunner().invoke(app, ["ui"]).exception, ModuleNotFoundError)


def test_help_imports_nothing_of_it() -> None:
    code = (
        "import sys; from redis_store.cli import app; from typer.testing import CliRunner;"
        "assert CliRunner().invoke(app, ['ui', '--help']).exit_code == 0;"
        "assert not {'starlette', 'jinja2', 'uvicorn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
