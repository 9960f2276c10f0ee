"""The recipes of `docs/backup.md` for servers that the page's own test does not start: a single one's files, and a cluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from redis_store import Client, connect
from redis_store.admin import Admin
from tests.redis_store.admin.conftest import Ended
from tests.redis_store.admin.test_moving import text_of
from tests.support.clusters import Cluster, users_by_node
from tests.support.servers import Server, find_binary, free_port, wait_until


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Server]:
    """A function that starts a Redis on a folder, with more arguments."""
    started: list[Server] = []

    def start(folder: Path, *arguments: str) -> Server:
        port = free_port()
        command = [str(find_binary("redis7")), "--port", str(port), "--dir", str(folder), "--save", "", *arguments]
        started.append(Server("redis7", command, folder, f"redis://127.0.0.1:{port}"))
        return started[-1]

    yield start
    for server in started:
        server.kill()


def test_files_of_a_single_server(tmp_path: Path, start: Callable[..., Server]) -> None:
    command_line = shutil.which("redis-cli")
    if command_line is None:
        pytest.skip("redis-cli is not installed: apt-get install redis-tools")
    old, restored = tmp_path / "old", tmp_path / "restored"
    old.mkdir()
    restored.mkdir()
    server = start(old, "--appendonly", "yes")
    with connect(server.url, user="alice") as store:
        store.set("odd\nkey", 1, metadata={"a": 1})
        with store.watch(consumer="index", initial=True) as changes:
            changes.done(next(changes))
    subprocess.run(
        [command_line, "-u", server.url, "--rdb", str(tmp_path / "backup.rdb")], check=True, capture_output=True
    )
    with Admin(server.url) as admin:
        before, consumers = text_of(admin), admin.list_consumers()
    server.kill()

    shutil.copy(tmp_path / "backup.rdb", restored / "dump.rdb")
    second = start(restored, "--appendonly", "no")
    with second.client(decode_responses=True) as raw:
        raw.config_set("appendonly", "yes")

        def is_written() -> bool:
            facts = raw.info("persistence")
            return (facts["aof_enabled"], facts["aof_rewrite_in_progress"], facts["aof_rewrite_scheduled"]) == (1, 0, 0)

        wait_until(is_written, "the append-only file has the data")
        assert raw.info("persistence")["aof_last_bgrewrite_status"] == "ok"
    second.kill()
    third = start(restored, "--appendonly", "yes")
    with Admin(third.url) as admin:
        assert text_of(admin) == before
        assert [(one.consumer, one.behind) for one in admin.list_consumers()] == [("index", 0)]
        assert len(consumers) == 1


def test_export_of_a_cluster(cluster: Cluster, url: str, tmp_path: Path, run: Callable[..., Ended]) -> None:
    users = [some[0] for some in users_by_node(cluster, 1).values()]
    for each in cluster.primaries:
        each.ask("FLUSHALL")
    node = cluster.plain_url
    file, trial, again = (tmp_path / f"{name}.jsonl.gz" for name in ("backup", "trial", "again"))
    with Client(cluster.url) as client, Admin(client) as admin:
        for user in users:
            store = client.store(user=user, namespace="odd\n*", agent="a")
            store.set_many({"k": 1, "big": "x" * 200}, metadata={"m": 1}, ttl=900)
        run("export", str(file), "--url", node)
        run("import", str(file), "--url", url)  # an empty server, which is no cluster
        run("export", str(trial), "--url", url)
        assert trial.read_bytes() == file.read_bytes()
        for user in users:
            admin.delete_user(user)
        run("import", str(file), "--url", node)
        run("export", str(again), "--url", node)
        assert again.read_bytes() == file.read_bytes()
        assert [one.what for one in admin.doctor() if one.user is not None] == []
    for each in cluster.primaries:
        each.ask("FLUSHALL")
