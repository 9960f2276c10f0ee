"""A run that is cancelled or interrupted ends at once, and nothing outlives any run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import sandbox
from redis_store import DataStore
from sandbox.isolation import plain_process
from tests.sandbox.conftest import wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")

STUBBORN = """
import subprocess, threading, time
async def run(input_dict, tools):
    data_store.set("written", True)
    threading.Thread(target=time.sleep, args=(1000,)).start()
    try:
        subprocess.Popen(["/bin/sleep", "1000"])
    except PermissionError:
        pass
    print("ready")
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass
"""


def test_cancelling_arun_ends_the_run_at_once(server_url: str, user: str, store: DataStore) -> None:
    async def main() -> float:
        ready = asyncio.Event()
        task = asyncio.create_task(
            sandbox.arun(STUBBORN, {}, user=user, url=server_url, on_output=lambda text: ready.set())
        )
        await ready.wait()
        start = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - start

    assert asyncio.run(main()) < 2
    assert store.get("written") is True


def test_cancelling_arun_while_the_store_does_not_reply(own_server: Any, user: str) -> None:
    async def main() -> float:
        ready = asyncio.Event()
        source = "def run():\n    data_store.set('k', 1)\n    print('ready')\n    while True: data_store.get('k')\n"
        task = asyncio.create_task(
            sandbox.arun(source, {}, user=user, url=own_server.url, on_output=lambda text: ready.set())
        )
        await ready.wait()
        own_server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.05)
        start = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - start

    assert asyncio.run(main()) < 2


def test_time_limit_holds_while_the_store_does_not_reply(own_server: Any, user: str) -> None:
    source = "def run(i, tools):\n    data_store.set('k', 1)\n    tools['stop']()\n    data_store.get('k')\n"
    stop = lambda: own_server.process.send_signal(signal.SIGSTOP)  # noqa: E731
    start = time.monotonic()
    result = sandbox.run(
        source, {}, user=user, url=own_server.url, tools={"stop": stop}, limits=sandbox.Limits(timeout_s=0.7)
    )
    assert isinstance(result.error, sandbox.TimeLimitExceeded)
    assert time.monotonic() - start < 3


def test_cancelling_arun_before_the_run_starts(server_url: str, user: str) -> None:
    async def main() -> None:
        task = asyncio.create_task(sandbox.arun(STUBBORN, {}, user=user, url=server_url))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_timeout_around_arun(server_url: str, user: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(0.3):
            await sandbox.arun(STUBBORN, {}, user=user, url=server_url)

    with pytest.raises(TimeoutError):
        asyncio.run(main())


def test_twenty_concurrent_runs(run: Any) -> None:
    errors: list[Any] = []

    def one(n: int) -> None:
        try:
            assert run(f"def run(): data_store.set('k{n}', {n}); return {{'n': data_store.get('k{n}')}}").check() == {
                "n": n
            }
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_leftover_files_are_removed(run: Any, tmp_path: Path) -> None:
    result = run(
        """
        import os, tempfile
        def run():
            os.makedirs("a/b/c")
            open("a/b/c/file", "w").write("x")
            os.symlink("/", "a/link")
            try:
                os.chmod("a/b", 0)
            except PermissionError:
                pass
            tempfile.mkdtemp()
            return {"cwd": os.getcwd(), "tmp": tempfile.gettempdir()}
        """
    )
    output = result.check()
    assert output["cwd"] == output["tmp"]
    if result.isolation in ("full", "namespaces"):
        assert run("import os\ndef run(): return {'left': os.listdir()}").check() == {"left": []}
    else:
        assert output["cwd"].startswith(str(tmp_path))
        assert not Path(output["cwd"]).exists()


def test_agent_process_ends_with_the_host(server_url: str, user: str, tmp_path: Path) -> None:
    host = tmp_path / "host.py"
    host.write_text(
        "import sandbox, sys\n"
        "source = 'import os, asyncio\\nasync def run(i, t):\\n    print(1)\\n    await asyncio.sleep(1000)\\n'\n"
        f"sandbox.run(source, {{}}, user={user!r}, url={server_url!r}, on_output=lambda t: print(t, end='', flush=True))\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, str(host)], stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        started = plain_process._descendants(process.pid)
        assert started
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(_alive, started)), "all that the host had started has ended")
    for left in tmp_path.glob("sandbox-*"):
        left.rmdir()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
