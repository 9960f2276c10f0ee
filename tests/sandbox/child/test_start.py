"""What Python does at its start, and what an agent's process inherits from the host's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import sandbox
from sandbox.isolation import zygotes

UNUSUAL = {signal.SIGALRM, signal.SIGUSR1, signal.SIGTERM}

SIGNALS = """
import os, signal, time
def run():
    came = []
    signal.signal(signal.SIGALRM, lambda number, frame: came.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not came:
        time.sleep(0.01)
    kinds = {one.name for one in signal.valid_signals() if isinstance(one, signal.Signals)}
    ignored = [name for name in sorted(kinds) if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN]
    return {
        "blocked": [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "ignored": ignored,
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "umask": os.umask(0),
    }
"""


@pytest.fixture
def odd_host(alone: None) -> Iterator[None]:
    """A host with blocked and ignored signals and an unusual mask for new files; its zygotes are new."""
    kinds = (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    before = {kind: signal.signal(kind, signal.SIG_IGN) for kind in kinds}
    mask, umask = signal.pthread_sigmask(signal.SIG_BLOCK, UNUSUAL), os.umask(0o077)
    yield
    os.umask(umask)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.mark.parametrize("tier", [None, "unsafe-process"])
def test_nothing_is_inherited_from_an_odd_host(run: Any, odd_host: None, tier: str | None) -> None:
    own = {"blocked": [], "ignored": ["SIGPIPE", "SIGXFSZ"], "interrupt": True, "umask": 0o022}
    assert run(SIGNALS, isolation=tier, limits=sandbox.Limits(timeout_s=20)).check() == own


@pytest.mark.parametrize("tier", [None, "unsafe-process"])
def test_a_host_that_ignores_the_end_of_its_children(run: Any, odd_host: None, tier: str | None) -> None:
    error = run("import os\ndef run(): os._exit(3)", isolation=tier).error
    for zygote in zygotes._zygotes.values():
        zygote._socket.close()
        assert zygote._process.wait(20) == 0
    assert isinstance(error, sandbox.AgentExited)
    if tier is None:
        assert error.code == 3  # else the system has forgotten the code


def test_what_site_adds_is_there(run: Any) -> None:
    source = """
        import builtins, site, sys
        def run():
            added = ("exit", "quit", "copyright", "credits", "license", "help")
            missing = [name for name in added if not hasattr(builtins, name)]
            help(len)
            return {"missing": missing, "main": sys.modules["__main__"].run is run, "arguments": len(sys.orig_argv)}
    """
    result = run(source)
    assert result.check() == {"missing": [], "main": True, "arguments": 1}
    assert "Return the number of items" in result.stdout


@pytest.mark.parametrize(("call", "code"), [("exit(3)", 3), ("quit()", 0), ("exit('no')", 1)])
def test_exit_and_quit_end_the_agent(run: Any, call: str, code: int) -> None:
    error = run(f"def run(): {call}").error
    assert isinstance(error, sandbox.AgentExited)
    assert error.code == code


def test_the_time_zone_is_that_of_the_environment(run: Any) -> None:
    source = "import time\ndef run(): return {'zone': list(time.tzname), 'hour': time.localtime(0).tm_hour}"
    assert run(source, env={"TZ": "Asia/Tokyo"}).check() == {"zone": ["JST", "JST"], "hour": 9}
    assert run(source).check() == {"zone": ["UTC", "UTC"], "hour": 0}


def test_an_agent_has_one_thread_and_numbers_of_its_own(run: Any) -> None:
    source = """
        import random, threading
        def run():
            for thread in threading.enumerate():
                if thread is not threading.main_thread():
                    thread.join()
            return {"drawn": random.random(), "threads": threading.active_count()}
    """
    first, second = run(source).check(), run(source).check()
    assert first["threads"] == second["threads"] == 1
    assert first["drawn"] != second["drawn"]
