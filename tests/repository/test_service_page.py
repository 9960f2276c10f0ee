"""The parts of docs/service.md that need programs of others: its application under gunicorn, as in its Dockerfile, and Celery."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from redis_store import Client
from tests.repository.test_docs import ROOT, blocks_of
from tests.support.servers import Server, free_port, wait_until

PAGE = ROOT / "docs" / "service.md"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page."""
    for block in blocks_of(PAGE):
        if block.comment == "file":
            (tmp_path / block.remark).write_text(block.text)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


@pytest.fixture
def image(files: Path) -> dict[str, Any]:
    """The instructions of the Dockerfile that count when its container runs."""
    found: dict[str, Any] = {"ENV": {}}
    for line in (files / "Dockerfile").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if name == "ENV":
            found["ENV"] |= dict(part.split("=") for part in shlex.split(rest))
        elif name in ("CMD", "HEALTHCHECK"):
            found[name] = json.loads(rest[rest.index("[") :])
    return found


@contextmanager
def running(image: dict[str, Any], files: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The container's command, as a process of its own."""
    program, *arguments = image["CMD"]
    with subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        cwd=files,
        env={**os.environ, **image["ENV"], **environment},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=20)


def test_gunicorn_with_preload(image: dict[str, Any], files: Path, one_server: Server, user: str, raw_of: Any) -> None:
    pytest.importorskip("gunicorn", reason="gunicorn is not installed: it is in the test extra")
    port, raw = free_port(), raw_of(one_server)
    before = len(raw.client_list())
    check = [sys.executable, *image["HEALTHCHECK"][1:-1], image["HEALTHCHECK"][-1].replace(":8000", f":{port}")]

    def visit(number: int) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"X-User": f"{user}-{number % 20}"})
        with urllib.request.urlopen(request, timeout=20) as reply:
            found: dict[str, Any] = json.load(reply)
            return found

    bind = f"--bind=127.0.0.1:{port}"
    with running(image, files, REDIS_URL=one_server.url, GUNICORN_CMD_ARGS=bind), ThreadPoolExecutor(16) as threads:
        wait_until(lambda: _is_open(port), "gunicorn listens")
        subprocess.run(check, check=True, timeout=20)
        found = list(threads.map(visit, range(200)))
        assert len(raw.client_list()) <= before + 2 * 8
    assert len({each["worker"] for each in found}) == 2
    with Client(one_server.url) as client:
        assert [client.store(user=f"{user}-{number}").get("visits") for number in range(20)] == [10] * 20


def _is_open(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
    except OSError:
        return False
    return True


def test_the_image_does_not_start_without_a_server(image: dict[str, Any], files: Path) -> None:
    program = f"import {image['CMD'][1].replace(':', '; ')}"
    environment = {**os.environ, **image["ENV"], "HOME": str(files), "REDIS_STORE_DATA_DIR": str(files / "data")}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=files, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert re.search(r"InvalidSettings: .*REDIS_STORE_EMBEDDED=0 .* Set REDIS_URL", ended.stderr)
    assert not (files / "data").exists()


def test_celery_task_in_forked_processes(files: Path, start: Callable[..., Server]) -> None:
    """The task runs in the process that imported it and in forked ones, as with Celery's prefork."""
    pytest.importorskip("celery", reason="celery is not installed: it is in the test extra")
    server = start("valkey9", tcp=True)
    with Client(server.url) as client:
        for user in ("alice", "bob"):
            client.store(user=user).set("text", f"the words of {user}")
    program = """
import os, tasks
count = lambda user: tasks.word_count.apply((user, "text")).get()
assert count("alice") == 4
children = []
for user in ("alice", "bob"):
    children.append(os.fork())
    if not children[-1]:
        os._exit(10 + count(user))
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [14, 14]
assert count("bob") == 4
"""
    environment = {**os.environ, "REDIS_URL": server.url}
    subprocess.run([sys.executable, "-c", program], cwd=files, env=environment, check=True, timeout=60)
