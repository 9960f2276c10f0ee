"""The commands ``redis-store server`` and ``redis-store redis``; the latter against redis-cli, byte for byte."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from redis_store import server
from redis_store.cli import main
from tests.redis_store.server.test_server import folder, servers_in, wait_until

__all__ = ["folder"]  # a fixture

COMMAND = [sys.executable, "-c", "from redis_store.cli import main; main()"]
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Ended:
    """The output of a command, and its exit code."""

    code: int
    out: bytes
    err: bytes


Run = Callable[..., Ended]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """A function that runs redis-store in this process, on the folder."""
    monkeypatch.setenv("REDIS_STORE_DATA_DIR", str(folder))
    monkeypatch.delenv("REDIS_URL", raising=False)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["redis-store", *arguments])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfdbinary.readouterr()
        assert b"Traceback" not in captured.err
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


def test_start_status_stop(folder: Path, run: Run) -> None:
    assert run("server", "status").code == 3
    started = run("server", "start", "--durability", "always")
    assert (started.code, started.out.decode()) == (0, server.status(folder).url + "\n")
    assert b"Valkey 9" in started.err
    shown = run("server", "status", "--json")
    facts = json.loads(shown.out)
    assert shown.code == 0
    assert facts == {
        "data_dir": str(folder),
        "socket_path": str(folder / "server.sock"),
        "url": f"unix://{folder}/server.sock",
        "running": True,
        "state": "ready",
        "pid": servers_in(folder)[0],
        "engine": "valkey",
        "version": facts["version"],
        "durability": "always",
        "pinned": True,
        "users": 0,
    }
    assert b"running      yes\n" in run("server", "status", "--data-dir", str(folder)).out
    assert run("server", "stop").code == 0
    assert servers_in(folder) == []
    stopped = run("server", "status")
    assert stopped.code == 3
    assert b"engine       valkey\n" in stopped.out
    assert b"pid          -\n" in stopped.out


def test_stop_while_in_use(folder: Path, run: Run) -> None:
    with server.join(folder):
        stopped = run("server", "stop")
        assert stopped.code == 1
        assert b"in use by 1 process;" in stopped.err
        assert servers_in(folder) != []
        assert run("server", "stop", "--force").code == 0
        assert servers_in(folder) == []


def test_path(folder: Path, run: Run) -> None:
    assert run("server", "path").out.decode() == f"{folder}\n"
    assert run("server", "path", "--socket").out.decode() == f"{folder}/server.sock\n"
    assert run("server", "path", "--data-dir", "/x/../y").out == b"/y\n"
    assert not folder.exists()


def test_destroy(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("server", "destroy").code == 0
    run("redis", "SET", "a", "1")
    for answer in ("", "\n", "no\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        refused = run("server", "destroy")
        assert (refused.code, refused.out) == (1, b"")
        assert refused.err.endswith(b"Nothing was removed.\n")
        assert folder.exists()
    with server.join(folder):
        refused = run("server", "destroy", "--yes")
        assert refused.code == 1
        assert re.fullmatch(rb"redis-store: The embedded server in .* is in use by 1 process; .*\n", refused.err)
    for yes, answer in ((["--yes"], ""), ([], "y\n")):
        run("redis", "SET", "a", "1")
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        destroyed = run("server", "destroy", *yes)
        assert (destroyed.code, destroyed.out) == (0, b"")
        assert not folder.exists()


def test_errors_are_one_line_and_usage_is_2(folder: Path, run: Run) -> None:
    folder.touch()
    for command in (("server", "start"), ("redis", "PING")):
        failed = run(*command)
        assert (failed.code, failed.out) == (2, b"")
        assert re.fullmatch(rb"redis-store: The data directory .* cannot be a folder.*\n", failed.err)
    assert run("server", "start", "--durability", "sometimes").code == 2
    assert run("server", "sing").code == 2
    assert run("redis").code == 2
    assert run("redis", "--sing", "PING").code == 2
    assert run("--help").code == run("redis", "-h").code == run("server", "start", "--help").code == 0


# redis


REPLIES: list[list[str]] = [
    ["SET", "a", "1"],
    ["GET", "a"],
    ["GET", "nothing"],
    ["INCR", "a"],
    ["DECRBY", "a", "100"],
    ["PING"],
    ["PING", "hello"],
    ["ECHO", ""],
    ["ECHO", 'a"b\\c\nd\re\tf\ag\bh\x00i\x1b\x7f ü'.replace("\x00", "")],
    ["EVAL", r"return '\0\1\127\128\255\r\n'", "0"],
    ["NOSUCHCOMMAND", "x"],
    ["LPUSH", "a", "x"],
    ["EVAL", "return {err='My error'}", "0"],
    ["EVAL", "return {ok='fine and well'}", "0"],
    ["EVAL", "return {}", "0"],
    ["EVAL", "return {{}}", "0"],
    ["EVAL", "return {{},{1},{{}},{{'a',{2,'b'}},3}}", "0"],
    ["EVAL", "return {1,'a',false,{err='E x'},{ok='OK'},{'n',{false,{err='F'}}}}", "0"],
    ["EVAL", "local t = {} for i = 1, 9 do t[i] = i end return t", "0"],
    ["EVAL", "local t = {} for i = 1, 10 do t[i] = {i, {i, 'x'}} end return t", "0"],
    ["EVAL", "local t = {} for i = 1, 100 do t[i] = {i, {'x'}} end return t", "0"],
    ["EVAL", "local t = {} for i = 1, 1000 do t[i] = 'v' .. i end return {t, {t}}", "0"],
    ["HSET", "h", "f1", "v1", "f2", ""],
    ["HGETALL", "h"],
    ["HGETALL", "nothing"],
    ["HMGET", "h", "f1", "nothing"],
    ["ZADD", "z", "1.5", "one", "inf", "two"],
    ["ZRANGE", "z", "0", "-1", "WITHSCORES"],
    ["ZSCORE", "z", "two"],
    ["SADD", "s", "m"],
    ["SMEMBERS", "s"],
    ["XADD", "x", "1-1", "f", "v"],
    ["XADD", "x", "1-2", "f", "v", "g", "w"],
    ["XRANGE", "x", "-", "+"],
    ["XREAD", "COUNT", "2", "STREAMS", "x", "0"],
    ["XREAD", "STREAMS", "x", "$"],
    ["BLPOP", "nothing", "0.01"],
    ["SCAN", "0", "COUNT", "1000"],
    ["TYPE", "h"],
    ["EXISTS", "h", "h", "nothing"],
    ["TTL", "h"],
    ["COMMAND", "INFO", "GET"],
    ["COMMAND", "COUNT"],
    ["CONFIG", "GET", "append*"],
    ["CLUSTER", "INFO"],
    ["MEMORY", "DOCTOR"],
    ["LATENCY", "DOCTOR"],
    ["INFO", "cluster"],
    ["info", "keyspace"],
    ["CLIENT", "GETNAME"],
    ["MULTI"],
    ["EXEC"],
    ["WATCH", "a"],
    ["OBJECT", "ENCODING", "a"],
    ["DEBUG", "JMAP"],
    ["LOLWUT", "VERSION", "5", "1", "1", "1"],
    ["GEOADD", "g", "13.361389", "38.115556", "P"],
    ["GEOPOS", "g", "P", "Q"],
    ["SUBSTR", "a", "0", "0"],
    ["FUNCTION", "LIST"],
    ["SLOWLOG", "GET", "0"],
    ["ACL", "WHOAMI"],
    ["ACL", "GETUSER", "default"],
    ["AUTH", "x"],
    ["SELECT", "1"],
    ["SELECT", "a"],
    ["RESET"],
    ["QUIT"],
]


@pytest.mark.parametrize("raw", ["--raw", "--no-raw"])
def test_replies_look_as_in_redis_cli(folder: Path, run: Run, raw: str) -> None:
    if shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is not installed: `apt-get install redis-tools`")
    with server.join(folder) as joined:
        for command in REPLIES:
            theirs = subprocess.run(
                ["redis-cli", "-s", str(joined.socket_path), raw, *command], capture_output=True, check=True
            ).stdout
            if command[0] in ("SET", "INCR", "DECRBY", "HSET", "ZADD", "SADD", "XADD", "GEOADD"):
                # Writes reply differently the second time, so restore the state from before redis-cli.
                _undo(joined.socket_path, command)
            ours = run("redis", raw, *command)
            assert ours.out == theirs, command
            assert ours.code in (0, 1)


def _undo(path: Path, command: list[str]) -> None:
    back = {"INCR": ["DECR", "a"], "DECRBY": ["INCRBY", "a", "100"], "SET": ["DEL", "a"]}
    undo = back.get(command[0], ["DEL", command[1]])
    if command[:3] == ["XADD", "x", "1-2"]:
        undo = ["EVAL", "redis.call('DEL', 'x') return redis.call('XADD', 'x', '1-1', 'f', 'v')", "1", "x"]
    subprocess.run(["redis-cli", "-s", str(path), *undo], capture_output=True, check=True)


def test_an_error_reply_is_shown_and_fails(run: Run) -> None:
    failed = run("redis", "--no-raw", "NOSUCHCOMMAND")
    assert failed.code == 1
    assert failed.out.startswith(b"(error) ERR unknown command")
    assert failed.err == b""


def test_options_behind_the_command_are_its_own(run: Run) -> None:
    assert run("redis", "SET", "a", "b", "EX", "10").out == b"OK\n"
    assert run("redis", "SET", "--raw", "-h").out == b"OK\n"
    assert run("redis", "GET", "--raw").out == b"-h\n"
    assert run("redis", "--", "ECHO", "--url").out == b"--url\n"
    assert run("redis", "ECHO", "\udcff").out == b"\xff\n"


@pytest.mark.parametrize("command", [["SYNC"], ["psync", "?", "-1"], ["HELLO", "3"], ["client", "reply", "OFF"]])
def test_impossible_requests_are_refused(run: Run, command: list[str]) -> None:
    refused = run("redis", *command)
    assert refused.code == 2
    assert refused.err.endswith(b"use redis-cli.\n")


def test_shutdown_command_stops_server_until_next_use(folder: Path, run: Run) -> None:
    server.start(folder)
    assert run("redis", "SHUTDOWN") == Ended(0, b"", b"")
    wait_until(lambda: not servers_in(folder), "it is gone")
    assert run("redis", "PING").out == b"PONG\n"
    server.stop(folder)


def test_a_url_goes_before_the_environment_and_the_embedded_server(
    folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.join(tmp_path / "one") as one, server.join(tmp_path / "two") as two:
        monkeypatch.setenv("REDIS_URL", one.url)
        assert run("redis", "SET", "a", "in one").code == 0
        assert run("redis", "--url", two.url, "GET", "a").out == b"\n"
        assert run("redis", "--data-dir", str(two.data_dir), "SET", "a", "in two").code == 0
        assert run("redis", "--url", two.url, "GET", "a").out == b"in two\n"
        assert run("redis", "GET", "a").out == b"in one\n"
    assert not folder.exists()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("redis://:hunter2@127.0.0.1:1/0", 5),
        ("redis://alice:hunter2@127.0.0.1:1/0?socket_timeout=1", 5),
        ("redis://127.0.0.1:1/0?password=hunter2", 5),
        ("http://:hunter2@127.0.0.1/", 2),
        ("redis://:hunter2@127.0.0.1:x/", 2),
        ("unix://:hunter2@/nowhere/x.sock", 5),
    ],
)
def test_a_password_is_never_shown(run: Run, url: str, code: int) -> None:
    failed = run("redis", "--url", url, "PING")
    assert failed.code == code
    assert failed.err.count(b"\n") == 1
    assert b"hunter2" not in failed.err + failed.out


@contextlib.contextmanager
def _listener(answer: bytes) -> Iterator[str]:
    """Serve these bytes as the reply to each piece received; hang up if they are empty."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError), listening.accept()[0] as client:
                while client.recv(65536):
                    if not answer:
                        return
                    client.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}"
        listening.close()
        serving.join()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_invalid_server_reply(run: Run, answer: bytes) -> None:
    with _listener(answer) as url:
        failed = run("redis", "--url", url, "PING")
    assert failed.code in (2, 5)
    assert failed.err.count(b"\n") == 1
    assert failed.err.startswith(b"redis-store: ")


def _process(folder: Path, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "REDIS_STORE_DATA_DIR": str(folder)}
    environment.pop("REDIS_URL", None)
    return subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, env=environment, **options)  # type: ignore[call-overload,no-any-return] # options of any kind


def test_messages_come_until_ctrl_c(folder: Path) -> None:
    with server.join(folder) as joined:
        process = _process(folder, "redis", "SUBSCRIBE", "news", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert [process.stdout.readline() for _ in range(3)] == [b"subscribe\n", b"news\n", b"1\n"]  # type: ignore[union-attr] # a pipe
        assert joined.data_dir == folder
        publish = subprocess.run(
            [*COMMAND, "redis", "--url", joined.url, "PUBLISH", "news", "hello"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        assert publish.stdout == b"1\n"
        assert [process.stdout.readline() for _ in range(3)] == [b"message\n", b"news\n", b"hello\n"]  # type: ignore[union-attr] # a pipe
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, b"")
        assert err == b"Reading messages... (press Ctrl-C to quit)\n"


def test_terminal_gets_readable_replies(folder: Path) -> None:
    ours, theirs = pty.openpty()
    process = _process(folder, "redis", "HSET", "h", "f", "v", stdout=theirs, stdin=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(ours, 1000):
            shown += piece
    os.close(ours)
    assert process.wait(20) == 0
    assert shown == b"(integer) 1\r\n"
    assert servers_in(folder) == []


def test_closed_pipe_prints_no_traceback(folder: Path) -> None:
    process = _process(
        folder,
        "redis",
        "EVAL",
        "local t = {} for i = 1, 7000 do t[i] = string.rep('x', 100) end return t",
        "0",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()  # type: ignore[union-attr] # a pipe
    err = process.stderr.read()  # type: ignore[union-attr] # a pipe
    process.stderr.close()  # type: ignore[union-attr] # a pipe
    process.wait(20)
    assert b"Traceback" not in err
    assert servers_in(folder) == []


def test_streams_that_take_nothing(folder: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "REDIS_STORE_DATA_DIR": str(folder)}
    shown = {}
    for closing in (">&-", ">/dev/full"):
        shell = ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-m", "redis_store", "server", "path"]
        done = subprocess.run(shell, env=environ, capture_output=True, timeout=50, check=False)
        shown[closing] = (done.returncode, done.stderr)
    assert shown[">&-"] == (0, b"")
    assert shown[">/dev/full"] == (1, b"redis-store: the output cannot be written: No space left on device.\n")


def test_messages_end_with_their_reader(folder: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "REDIS_STORE_DATA_DIR": str(folder)}
    full = [sys.executable, "-m", "redis_store", "redis", "MONITOR"]
    with server.join(folder) as running, subprocess.Popen(full, env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"OK\n"
        process.stdout.close()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(running.url.removeprefix("unix://"))
            wait_until(lambda: sock.sendall(b"PING\r\n") or process.poll() is not None, "it ends")
        assert process.returncode == 0


def test_commands_use_no_embedded_server_that_is_refused(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_STORE_EMBEDDED", "0")
    refused = run("redis", "PING")
    assert refused.code == 2
    assert b"Set REDIS_URL" in refused.err
    assert not folder.exists()
    assert run("redis", "--data-dir", str(folder), "PING").out == b"PONG\n"
