"""An operator's process that is killed in the middle of a change. The same call again completes it; nobody else is touched."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from redis_store import Client
from redis_store.admin import Admin
from tests.redis_store.admin.conftest import HARD_NAMES, Ended
from tests.redis_store.admin.test_moving import lines_of, text_of

KILLED = """
import os, signal, sys
from redis_store.admin import Admin

url, steps, call = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def step(count):
    global steps
    steps -= 1
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)

with Admin(url) as admin:
    admin.on_step = step
    eval(call)
"""


def kill_in_the_middle(url: str, steps: int, call: str) -> None:
    """Make a call of `Admin` in a process that is killed after some steps."""
    done = subprocess.run([sys.executable, "-c", KILLED, url, str(steps), call], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture
def others(client: Client, admin: Admin) -> bytes:
    """What another user has, whose data stays; the user's id begins like that of alice."""
    client.store(user="alice2", namespace="ns-1").set("k", "theirs")
    return text_of(admin, "alice2")


def fill(client: Client) -> None:
    for number, name in enumerate(HARD_NAMES):
        store = client.store(user="alice", namespace=f"ns-{number % 2}{name}"[:1000])
        store.set_many({"a": 1, "b\n": [name]})
        store.get_or_set("tagged", lambda: 1, tags=["t"])


def fill_more(client: Client) -> None:
    """Store more than an import writes in one step."""
    fill(client)
    client.store(user="alice", namespace="more").set_many({f"{number:04}": "x" * 1000 for number in range(1000)})


@pytest.mark.usefixtures("raw")
def test_import(
    url: str, client: Client, admin: Admin, others: bytes, tmp_path: Path, run: Callable[..., Ended]
) -> None:
    fill_more(client)
    whole = text_of(admin, "alice")
    file = tmp_path / "alice.jsonl"
    file.write_bytes(whole)
    admin.delete_user("alice")
    kill_in_the_middle(url, 1, f"admin.import_({str(file)!r})")
    assert 0 < len(lines_of(text_of(admin, "alice"))) < len(lines_of(whole))
    run("import", str(file))
    assert text_of(admin, "alice") == whole
    assert text_of(admin, "alice2") == others


@pytest.mark.parametrize("steps", [1, 3], ids=["before the move", "after the move"])
def test_rename(url: str, client: Client, admin: Admin, others: bytes, steps: int) -> None:
    store = client.store(user="alice", namespace="ns-1")
    store.set("a", 1)
    store.get_or_set("tagged", lambda: 1, tags=["t"])
    kill_in_the_middle(url, steps, "admin.rename_namespace('alice', 'ns-1', 'new')")
    admin.rename_namespace("alice", "ns-1", "new")
    assert store.list_namespaces() == ["new"]
    new = store.use_namespace("new")
    assert dict(new.get_all()) == {"a": 1, "tagged": 1}
    assert new.invalidate_tag("t") == 1
    assert new.list_keys() == ["a"]
    assert text_of(admin, "alice2") == others


def test_clear_of_a_prefix(url: str, client: Client, admin: Admin, others: bytes, run: Callable[..., Ended]) -> None:
    fill(client)
    client.store(user="alice", namespace="other").set("k", 1)
    kill_in_the_middle(url, 3, "admin.clear_namespaces('alice', 'ns-')")
    left = client.store(user="alice").list_namespaces()
    assert 1 < len(left) <= len(HARD_NAMES)
    run("clear", "--user", "alice", "--prefix", "ns-", "--yes")
    assert client.store(user="alice").list_namespaces() == ["other"]
    assert text_of(admin, "alice2") == others
    undone = sum(admin.undo_clear("alice", name).written for name in left if name != "other")
    assert undone == 3 * (len(left) - 1)


def test_deletion_of_a_user(
    url: str, client: Client, admin: Admin, raw: redis.Redis, others: bytes, run: Callable[..., Ended]
) -> None:
    fill(client)
    kill_in_the_middle(url, 3, "admin.delete_user('alice')")
    assert [key for key in raw.keys("user:*alice*") if b"alice2" not in key]
    run("user", "delete", "alice", "--yes")
    assert [key for key in raw.keys("user:*alice*") if b"alice2" not in key] == []
    assert text_of(admin, "alice2") == others


def test_pipe_that_is_cut_off(url: str, client: Client, admin: Admin, tmp_path: Path) -> None:
    fill_more(client)
    whole = text_of(admin, "alice")
    cut = whole[: len(whole) * 2 // 3]
    admin.delete_user("alice")
    command = [sys.executable, "-c", "from redis_store.cli import main; main()", "import", "--url", url]
    done = subprocess.run(command, input=cut, capture_output=True, check=False)
    line = cut.count(b"\n") + 1
    assert (done.returncode, f"Line {line} " in done.stderr.decode()) == (2, True), done.stderr
    assert b"Traceback" not in done.stderr
    admin.import_(io.BytesIO(whole))
    assert text_of(admin, "alice") == whole
