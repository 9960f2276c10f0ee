"""Output that an agent prints."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

import sandbox
from sandbox.host import execute
from tests.sandbox.conftest import wait_until

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_output_arrives_in_order(run: Any) -> None:
    result = run(
        """
        import ctypes, logging, os, subprocess, sys, warnings
        def run():
            print("print", "ä€😀")
            os.write(1, "write ä\\n".encode())
            print("stderr", file=sys.stderr)
            ctypes.CDLL(None).puts(b"from C")
            ctypes.CDLL(None).fflush(None)
            subprocess.run(["/bin/echo", "from a process"])
            logging.warning("logged")
            print("no newline", end="")
            return {}
        """,
        isolation=sandbox.isolation.UNSAFE,
    )
    result.check()
    assert result.stdout == ("print ä€😀\nwrite ä\nstderr\nfrom C\nfrom a process\nWARNING:root:logged\nno newline")


def test_output_of_a_crashed_agent_is_kept(run: Any) -> None:
    result = run("import os\ndef run():\n    print('before', end='')\n    os.abort()\n")
    assert result.stdout == "before"


def test_output_arrives_during_the_run(run: Any) -> None:
    heard = threading.Event()
    pieces: list[str] = []

    def on_output(text: str) -> None:
        pieces.append(text)
        if "first" in "".join(pieces):
            heard.set()

    result = run(
        "def run(i, tools):\n    print('first')\n    tools['wait']()\n    print('second')\n    return {}\n",
        tools={"wait": lambda: heard.wait(20) or pytest.fail("it did not come")},
        on_output=on_output,
    )
    result.check()
    assert "".join(pieces) == result.stdout == "first\nsecond\n"


def test_characters_are_not_split(run: Any) -> None:
    pieces: list[str] = []
    run(
        """
        import os
        def run(i, tools):
            for byte in "a€😀".encode():
                os.write(1, bytes([byte]))
                tools["sync"]()
            os.write(1, b"\\xe2\\x82")
            return {}
        """,
        tools={"sync": lambda: None},
        on_output=pieces.append,
    ).check()
    assert "".join(pieces) == "a€😀\ufffd"


def test_output_that_is_not_text(run: Any) -> None:
    assert run("import os\ndef run():\n    os.write(1, b'a\\xffb')\n    return {}\n").stdout == "a\ufffdb"


def test_exception_in_on_output_is_logged_once_and_the_run_continues(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def on_output(text: str) -> None:
        calls.append(text)
        raise ValueError("of the host")

    source = "def run(i, tools):\n    for n in range(3):\n        print(n)\n        tools['sync']()\n    return {}\n"
    with caplog.at_level(logging.ERROR, "sandbox"):
        result = run(source, on_output=on_output, tools={"sync": lambda: None})
    assert result.check() == {}
    assert result.stdout == "0\n1\n2\n"
    assert len(calls) == 1
    assert len(caplog.records) == 1


def test_on_output_of_arun_is_called_on_its_loop(server_url: str, user: str) -> None:
    async def main() -> tuple[list[Any], str]:
        seen: list[Any] = []

        def on_output(text: str) -> None:
            seen.append((text, asyncio.get_running_loop() is loop))

        loop = asyncio.get_running_loop()
        source = "def run():\n    print('x')\n    return {}\n"
        result = await sandbox.arun(source, {}, user=user, url=server_url, on_output=on_output)
        return seen, result.stdout

    seen, stdout = asyncio.run(main())
    assert "".join(text for text, _ in seen) == stdout == "x\n"
    assert all(same for _, same in seen)


class Blocked:
    """An `on_output` whose first call returns when it is released."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()
        self.text = ""

    def __call__(self, text: str) -> None:
        self.begun.set()
        assert self.released.wait(20)
        self.text += text


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "ON_OUTPUT_PATIENCE_S", 0.01)


def test_time_limit_does_not_wait_for_on_output(run: Any, no_patience: None, caplog: pytest.LogCaptureFixture) -> None:
    on_output = Blocked()
    source = "def run():\n    n = 0\n    while True:\n        n += 1\n        print(n, flush=True)\n"
    result = run(source, on_output=on_output, limits=sandbox.Limits(timeout_s=0.3))
    assert isinstance(result.error, sandbox.TimeLimitExceeded)
    assert on_output.text == "", "it has not returned yet"
    assert result.stdout.startswith("1\n2\n")
    on_output.released.set()
    wait_until(lambda: on_output.text == result.stdout, "it has got all output")
    assert [record.message for record in caplog.records] == [
        "a run is over, and on_output has not returned: it gets the rest of the output when it does"
    ]


def test_cancellation_does_not_wait_for_on_output(server_url: str, user: str, no_patience: None) -> None:
    """Neither while the agent runs, nor when it has ended and its run waits for `on_output`."""
    source = "import time\ndef run(i):\n    print('x')\n    time.sleep(i['seconds'])\n    return {}\n"
    for seconds in (0, 1000):
        on_output = Blocked()
        with sandbox.Sandbox(url=server_url) as box:
            handle = box.start(source, {"seconds": seconds}, user=user, on_output=on_output)
            assert on_output.begun.wait(20)
            assert not handle.wait(0.1)
            handle.cancel()
            assert handle.result(20).stdout == "x\n"
        assert on_output.text == ""
        on_output.released.set()
        wait_until(lambda on_output=on_output: on_output.text, "it has returned")


def test_run_that_succeeds_waits_for_on_output_which_delays_no_call(run: Any) -> None:
    on_output = Blocked()

    def go() -> None:
        assert on_output.begun.wait(20)
        on_output.released.set()

    source = "def run(i, tools):\n    print('first', flush=True)\n    tools['go']()\n    print('last')\n    return {}\n"
    result = run(source, on_output=on_output, tools={"go": go}, limits=sandbox.Limits(timeout_s=10))
    assert result.check() == {}
    assert on_output.text == result.stdout == "first\nlast\n"


def test_interrupt_in_on_output_ends_the_run(run: Any) -> None:
    def on_output(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("import time\ndef run():\n    print('x')\n    time.sleep(1000)\n", on_output=on_output)
