"""Every command of ``redis-store`` that is stopped by Ctrl-C, or whose server goes away, in the middle of its requests."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import typer.main

from redis_store import Client
from redis_store.admin import Admin, follow_sync
from redis_store.cli import app, main, see
from redis_store.cli.session import FINE, FOUND, INTERRUPTED, NOT_REACHED
from tests.redis_store.admin.conftest import Ended
from tests.redis_store.admin.test_see import letter
from tests.support.proxy import Fault, Proxy, Rule, proxied
from tests.support.servers import Server

ANY = b"*"
"""What is in every request."""

MANY = 10_000


@dataclass(frozen=True)
class Row:
    """How a command is called here."""

    words: Sequence[str] = ()
    follows: bool = False
    """Whether it goes on until Ctrl-C."""
    changes: bool = False
    """Whether it leaves a line in the log of operators' changes."""


ALICE = ("-u", "alice", "-n", "work")
LETTER = ("-u", "alice", "--consumer", "c")
ROWS: dict[str, Row] = {
    "users": Row(),
    "namespaces": Row(),
    "keys": Row(ALICE),
    "get": Row(("k", *ALICE)),
    "info": Row(("k", *ALICE)),
    "search": Row(("k",)),
    "tail": Row(follows=True),
    "consumers": Row(),
    "stats": Row(),
    "audit": Row(),
    "locks": Row(),
    "locks release": Row(("build", "-u", "alice"), changes=True),
    "dead-letters": Row(),
    "dead-letters show": Row(("a", *LETTER)),
    "dead-letters retry": Row(("a", *LETTER), changes=True),
    "dead-letters drop": Row(("a", *LETTER), changes=True),
    "cache": Row(),
    "cache tags": Row(),
    "set": Row(("new", "1", *ALICE), changes=True),
    "delete": Row(("k", *ALICE), changes=True),
    "clear": Row(ALICE, changes=True),
    "undo": Row(("-u", "alice", "-n", "cleared"), changes=True),
    "copy": Row(("work", "copy", "-u", "alice"), changes=True),
    "rename": Row(("work", "renamed", "-u", "alice"), changes=True),
    "user delete": Row(("alice",), changes=True),
    "export": Row(("FILE",)),
    "import": Row(("EXPORT",), changes=True),
    "doctor": Row(),
    "login create": Row(("alice",), changes=True),
    "login rotate": Row(("bob",), changes=True),
    "login remove": Row(("bob",), changes=True),
    "login list": Row(),
    "redis": Row(("GET", "user:x")),
}
"""The commands that use a server, all of them: a new one needs a row here."""

OF_THE_EMBEDDED_SERVER = {"server start", "server stop", "server status", "server path", "server destroy"}
ELSEWHERE = {"mcp", "ui"}
"""They serve others until Ctrl-C, and have tests of their own."""


Prepare = Callable[[], None]
Call = Callable[[str, Row, int, Callable[[Proxy, Rule], None]], tuple[int, str, str, int]]


def contents(raw: redis.Redis) -> object:
    """Return what the server has but the log of operators' changes and what expires by itself."""
    names = sorted(key for key in raw.keys("*") if key != b"user::audit")
    return [(name, raw.dump(name)) for name in names], raw.acl_list()


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the commands of the application."""
    if not hasattr(group, "commands"):
        yield " ".join(path)
        return
    if group.invoke_without_command and path:
        yield " ".join(path)
    for name, command in group.commands.items():
        yield from commands(command, (*path, name))


def test_every_command_has_a_row() -> None:
    assert set(commands(typer.main.get_command(app))) == ROWS.keys() | OF_THE_EMBEDDED_SERVER | ELSEWHERE


@pytest.fixture
def prepared(client: Client, admin: Admin, raw: redis.Redis, tmp_path: Path) -> Iterator[Prepare]:
    """A function that stores what the commands work on, once more after they have changed it."""
    logins = ("alice", "bob")

    def prepare() -> None:
        raw.flushdb()
        raw.acl_deluser(*logins)
        work = client.store(user="alice", namespace="work")
        work.set_many({"k": 1, "l": 2})
        work.get_or_set("tagged", lambda: 1, tags=["t"])
        client.store(user="alice", namespace="dead-letter:c").set("a", {**letter("k"), "change": {
            "namespace": "work", "key": "k", "op": "set", "agent": "w", "cursor": "c",
        }})  # fmt: skip
        cleared = client.store(user="alice", namespace="cleared")
        cleared.set("k", 1)
        admin.clear("alice", "cleared")
        admin.create_login("bob")
        raw.set("user:alice:lock:build", f'{{"fence":{10**15},"owner":"x","agent":"y"}}', ex=100)
        admin.export(tmp_path / "export.jsonl", user="alice")
        client.store(user="alice", namespace="work").delete("l")
        raw.delete("user::audit")

    yield prepare
    raw.acl_deluser(*logins)


@pytest.fixture
def call(
    one_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    """A function that calls a command through a proxy, which holds back the reply to one of its requests."""
    with ExitStack() as stack:

        def call(name: str, row: Row, after: int, fault: Callable[[Proxy, Rule], None]) -> tuple[int, str, str, int]:
            proxy = stack.enter_context(proxied(one_server))
            rule = proxy.strike(ANY, Fault.HOLD_REPLY, after=after)
            places = {"FILE": str(tmp_path / "out.jsonl"), "EXPORT": str(tmp_path / "export.jsonl")}
            words = [places.get(word, word) for word in row.words]
            yes = ["--yes"] if row.changes else []
            options = ["--url", f"{proxy.url.removesuffix('/0')}/7"]
            arguments = (
                [*name.split(), *options, *words] if name == "redis" else [*name.split(), *words, *options, *yes]
            )
            monkeypatch.setattr(sys, "argv", ["redis-store", *arguments])
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
            capsys.readouterr()
            over = threading.Event()

            def strike() -> None:
                if rule.struck.wait(20) and not over.is_set():
                    fault(proxy, rule)

            striking = threading.Thread(target=strike)
            striking.start()
            try:
                with pytest.raises(SystemExit) as ended:
                    main()
            finally:
                passed = MANY - rule.after
                over.set()
                rule.struck.set()
                rule.release()
                striking.join()
            captured = capsys.readouterr()
            assert isinstance(ended.value.code, int)
            return ended.value.code, captured.out, captured.err, passed

        yield call


def interrupt(proxy: Proxy, rule: Rule) -> None:
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    signal.pthread_kill(main_thread, signal.SIGINT)


def kill(proxy: Proxy, rule: Rule) -> None:
    proxy.close()


def requests_of(call: Call, name: str, row: Row) -> int:
    """Return how many requests a command makes; of one that goes on, those with which it begins."""
    if row.follows:
        return 12
    code, _, err, passed = call(name, row, MANY, lambda proxy, rule: None)
    assert code in (FINE, FOUND), err
    return passed


@pytest.mark.parametrize("name", ROWS)
def test_ctrl_c(name: str, prepared: Prepare, call: Call, admin: Admin, raw: redis.Redis) -> None:
    row = ROWS[name]
    prepared()
    count = requests_of(call, name, row)
    ended = set()
    for after in sorted({count // 2, *(range(count - 3, count) if row.changes else ())}):
        prepared()
        before = contents(raw)
        code, _, err, _ = call(name, row, after, interrupt)
        assert "Traceback" not in err
        ended.add(code)
        changed = contents(raw) != before
        noted = {entry.what.split(" to ")[0] for entry in admin.iter_audit()}
        if changed:
            assert noted == {name}, f"after {after} of {count} requests"
        if code == INTERRUPTED:  # the reply may be one that nobody waits for
            assert err.startswith("Stopped by Ctrl-C. "), err
            assert err.count("\n") == 1, err
            assert not (row.changes and "Nothing was changed" in err)
    assert ended <= {FINE, INTERRUPTED}
    assert (FINE if row.follows else INTERRUPTED) in ended


@pytest.mark.parametrize("name", ROWS)
def test_a_server_that_goes_away(name: str, prepared: Prepare, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_sync, "AWAY_S", 0.1)
    monkeypatch.setattr(see, "AWAY_S", 0.1)
    monkeypatch.setattr(see, "PING_S", 0.05)
    row = ROWS[name]
    prepared()
    count = requests_of(call, name, row)
    for after in range(count // 2, -1, -1):
        prepared()
        code, _, err, _ = call(name, row, after, kill)
        if code != FINE:  # the reply may be one that nobody waits for: an earlier one then
            break
    assert code == NOT_REACHED
    *before, last = err.splitlines()
    assert last.startswith("redis-store: "), err
    assert len(before) <= 2, err
    assert not re.search("Traceback|Warning|never awaited", err), err


def test_a_followed_user_of_a_server_that_goes_away(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, run: Callable[..., Ended]
) -> None:
    monkeypatch.setattr(see, "AWAY_S", 0.1)
    monkeypatch.setattr(see, "PING_S", 0.05)
    server = start("valkey9")
    killing = threading.Timer(0.3, server.kill)
    killing.start()
    ended = run("tail", "-u", "alice", "--url", server.url, code=NOT_REACHED)
    killing.join()
    assert ended.err.splitlines()[-1].startswith("redis-store: ")


@pytest.mark.parametrize("name", ["start", "stop", "destroy"])
def test_ctrl_c_in_a_command_of_the_embedded_server(
    name: str, run: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"redis_store.server.{name}", interrupted)
    ended = run(
        "server", name, "--data-dir", str(tmp_path), *(["--yes"] if name == "destroy" else []), code=INTERRUPTED
    )
    assert ended.err.startswith("Stopped by Ctrl-C. To see whether the server runs, ")


def test_a_closed_pipe_and_a_full_disk(url: str, client: Client) -> None:
    """What is written meets a reader that leaves, a disk that is full, and a stdout that is closed."""
    client.store(user="alice", namespace="work").set_many({f"k{number}": "x" * 1000 for number in range(1000)})
    script = """
        "$0" -m redis_store export | head -c 1 >/dev/null
        echo "${PIPESTATUS[0]}"
        "$0" -m redis_store export >/dev/full
        echo $?
        "$0" -m redis_store keys -u alice -n work -q >&-
        echo $?
    """
    environment = {**os.environ, "REDIS_URL": url}
    done = subprocess.run(["bash", "-c", script, sys.executable], env=environment, capture_output=True, check=False)
    assert (done.stdout.split(), done.stderr) == (
        [b"0", b"1", b"0"], b"redis-store: the output cannot be written: No space left on device.\n",
    )  # fmt: skip
