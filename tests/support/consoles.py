"""The web console as a process of its own, a browser to look at it, and data worth looking at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis_store import Client, connect
from redis_store.admin import Admin, KeptCall, KeptHint, KeptOperation, KeptRun, RunError
from redis_store.brokers.kept_runs import keep
from tests.support.servers import DEADLINE_S

try:
    from playwright.sync_api import expect
except ModuleNotFoundError:  # no page is opened without it: see `browser`
    expect = None

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = [
    "HOSTILE",
    "NARROW",
    "REVERSED",
    "WIDE",
    "ConsoleProcess",
    "MissingBrowser",
    "browser",
    "expect",
    "seed",
    "stir",
]

CHROMIUM = "/usr/bin/chromium"

WIDE, NARROW = (1280, 800), (360, 740)
"""Sizes of the windows in which pages are looked at."""

HOSTILE = "<script>document.title='owned'</script>"
REVERSED = "abc\u202edcba\u202c.txt"
MEANT_AS_HTML = '"><img src=x onerror="document.title=\'owned\'">'
"""Names and values that would do something in a page that does not escape them."""


class MissingBrowser(Exception):
    """No browser is on this machine; the text says what to install."""


class ConsoleProcess:
    """`redis-store ui` on a server."""

    def __init__(self, redis_url: str, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "redis_store", "ui", "--port", "0", "--json", "--as", "tester", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "REDIS_URL": redis_url},
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the console did not start: {self._process.communicate()[1]}")
        self.entry: str = json.loads(line)["url"]
        """The url with the token."""

    @property
    def address(self) -> str:
        """The url of the console without a path."""
        return self.entry.partition("/?")[0]

    def enter(self, path: str) -> str:
        """Return the url of a page with the token."""
        token = self.entry.partition("?")[2]
        return f"{self.address}{path}{'&' if '?' in path else '?'}{token}"

    def stop(self) -> int:
        """End it as Ctrl-C does, and return its exit code."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        return self._process.returncode


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless browser. Playwright has an event loop of its own in this thread until the end."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise MissingBrowser("Playwright is not installed: pip install playwright axe-playwright-python.") from None
    if not Path(CHROMIUM).exists():
        raise MissingBrowser(f"{CHROMIUM} is not there: apt-get install chromium.")
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        try:
            yield opened
        finally:
            opened.close()


def seed(url: str) -> None:
    """Store data of all kinds: documents, caches, hostile names, a consumer that is behind, dead letters, locks, limits."""
    with Client(url) as client:
        alice = client.store(user="alice", agent="ingest", run="run-1")
        alice.set("greeting", {"text": "hello", "to": ["world", "moon"], "seen": 3})
        alice.set("credentials", {"name": "bot", "password": "hunter2hunter2"})
        steps = [
            {"tool": tool, "ms": 40 * at, "ok": at != 2, "error": None}
            for at, tool in enumerate(("search", "read", "write"))
        ]
        alice.set(
            "report",
            {"title": "Weekly report", "pages": 12, "draft": True, "steps": steps, "author": {"name": "scout"}},
        )
        repository = alice.use_namespace("files:my-repo")
        files = ("README.md", "docs/guide.md", "docs/api.md", "src/main.py", "src/tools/parse.py", "tests/test_main.py")
        repository.set_many({name: {"path": name, "lines": 40 + 7 * len(name)} for name in files})
        repository.set("src/main.py", {"path": "src/main.py", "lines": 120}, metadata={"commit": "abc123"})
        client.store(user="alice", namespace="cache:pages", agent="scout").set_many(
            {f"https://example.com/{number}": {"status": 200, "length": number * 997} for number in range(24)}, ttl=3600
        )
        client.store(user="alice", namespace="memory", agent="assistant").set_many(
            {f"2026-11-{day:02}": {"said": "Prefers short answers.", "day": day} for day in range(1, 15)}
        )
        client.store(user="bob@example.com").set("shopping", ["milk", "eggs"])
        client.store(user="team/red: 7", namespace="notes/2026").set("plan", {"steps": list(range(12))})
        strange = client.store(user=HOSTILE, namespace=MEANT_AS_HTML, agent=REVERSED)
        strange.set_many({HOSTILE: HOSTILE, REVERSED: {MEANT_AS_HTML: REVERSED}, "line\nend\x1b[31m": "\x00\x1b"})
        strange.set("one line", "x" * 300_000)
        _seed_runs(client)
        _seed_consumer(url)
        store = client.store(user="alice", agent="scout")
        for _ in range(3):
            store.rate_limit("example.com", 3, per=600).try_acquire()
        store.lock("index", ttl=3600).acquire()
        store.semaphore("browsers", 4, ttl=3600).acquire()
        Admin(client, operator="olga@laptop").set_value("alice", "default", "limit", {"n": 20})
        with suppress(ZeroDivisionError):
            store.use_namespace("cache:pages").get_or_set("https://example.com/broken", lambda: 1 // 0)


def _seed_runs(client: Client) -> None:
    """Keep records of runs: one with nested agents, tools and a hint, one that failed, and one whose names are hostile."""
    began = datetime.now(UTC) - timedelta(minutes=4)

    def at(ms: float) -> datetime:
        return began + timedelta(milliseconds=ms)

    def a_get(ms: float, key: str, run: str = "run-1", hit: bool = True) -> KeptOperation:
        found: dict[str, Any] = {"count": 1, "bytes": 34, "preview": '{"path":"…"}'} if hit else {}
        return KeptOperation(at(ms), "ingest", "get", "files:my-repo", key, hit=hit, duration_ms=1.2, run=run, **found)

    password = '{"name":"bot","password":"***"}'
    nested = (a_get(74, "README.md", "run-2"), a_get(150, "docs/guide.md", "run-2"), a_get(92, "none", "run-3", False))
    files = tuple(a_get(16 + 2 * number, f"src/{number}.py") for number in range(9))
    stored = KeptOperation(
        at(188), "ingest", "set", "default", "credentials", 1, None, 41, 0.5, None, "run-1", password
    )
    first = KeptRun(
        run="run-1",
        agent="ingest",
        started=began,
        duration=0.2,
        isolation="full",
        namespace="default",
        input='{"repo":"my-repo","api_key":"***"}',
        output='{"files":12}',
        stdout="reading my-repo\n12 files\n",
        operations=(*files, *nested, stored),
        calls=(
            KeptCall(at(60), "ingest", "agent", "summarise", 122.0, None, "run-1", "run-2"),
            KeptCall(at(80), "summarise", "agent", "check", 40.0, None, "run-2", "run-3"),
            KeptCall(at(124), "summarise", "tool", "ask", 22.0, "ToolError", "run-2"),
        ),
        hints=(KeptHint("single_gets", "ingest read 9 keys one at a time: get_many reads them at once.", "ingest"),),
        nested=("run-2", "run-3"),
    )
    trace = "Traceback (most recent call last):\n  File \"index.py\", line 31, in run\nKeyError: 'title'\n"
    error = RunError("AgentRaised", "Agent 'index' raised KeyError: 'title'", trace)
    failed = replace(
        first, run="run-4", agent="index", error=error, output=None, stdout="", calls=(), nested=(), hints=()
    )
    strange = KeptOperation(
        at(5), REVERSED, "set", MEANT_AS_HTML, HOSTILE, 1, None, 9, 1, HOSTILE, "run-5", MEANT_AS_HTML
    )
    hostile = replace(
        failed, run="run-5", agent=HOSTILE, stdout=f"{REVERSED}\x1b[31m{HOSTILE}", operations=(strange,) * 2
    )
    for user, run in (("alice", first), ("alice", failed), (HOSTILE, replace(hostile, input=HOSTILE))):
        keep(client.store(user=user), run, 500, 2**24, 86_400_000)


def stir(url: str) -> None:
    """Write a few changes, for a page that shows them as they come."""
    with connect(url, user="alice", agent="scout", run="run-2") as store:
        pages = store.use_namespace("cache:pages")
        for number in range(6):
            pages.set(f"https://example.com/{number}", {"status": 200, "length": number * 1013, "token": "s3cret"})
        pages.delete("https://example.com/7")
        store.use_namespace("memory").set("2026-11-15", {"said": "Prefers tea. \u202e", "day": 15})


def _seed_consumer(url: str) -> None:
    with connect(url, user="alice", agent="ingest") as store:
        inbox = store.use_namespace("inbox")
        with inbox.watch(consumer="index", initial=True) as changes:
            inbox.set("mail-1", {"subject": "Hello"})
            changes.done(next(changes))
        for number in range(2, 9):
            inbox.set(f"mail-{number}", {"subject": f"Number {number}"})
        letters = store.use_namespace("dead-letter:index")
        for number in (2, 5):
            letters.set(f"mail-{number}@{number}", _letter(f"mail-{number}", "KeyError", "'title'"))
        letters.set(f"{HOSTILE}@1", _letter(HOSTILE, "ValueError", HOSTILE))


def _letter(key: str, kind: str, error: str) -> dict[str, object]:
    lines = ["Traceback (most recent call last):", '  File "index.py", line 31, in on_change']
    lines += ["    title = change.value[title]", f"{kind}: {error}", ""]
    return {
        "change": {"namespace": "inbox", "key": key, "op": "set", "agent": "ingest"},
        "error": {"type": kind, "message": error, "traceback": "\n".join(lines)},
        "agent": "index",
        "tries": 4,
    }
