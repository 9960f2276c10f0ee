"""The files for Docker Compose: servers are started here with the settings that stand in them, since tests have no Docker."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from redis_store import connect
from redis_store.admin import Admin
from tests.support.servers import Server, find_binary, free_port, wait_until

ROOT = Path(__file__).parents[2]
PASSWORD = "p w"
VALUES = {"REDIS_PASSWORD": PASSWORD}


def interpolated(text: str) -> str:
    """Put values and defaults in, as Docker Compose does."""
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: VALUES.get(found[1], found[2]), text)
    text = re.sub(r"\$\{(\w+)(:\?[^}]*)?\}", lambda found: VALUES[found[1]], text)
    return text.replace("$$", "$")


ONE, SIX = ((ROOT / name).read_text() for name in ("docker-compose.yml", "docker-compose.cluster.yml"))


def lines_of(text: str, opening: str) -> list[str]:
    """Return the lines below the first one that ends in `opening`, as far as they are indented further; no comments."""
    lines = interpolated(text).splitlines()
    at = next(number for number, line in enumerate(lines) if line.endswith(opening))
    depth = len(lines[at]) - len(lines[at].lstrip())
    found = []
    for line in lines[at + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= depth:
            break
        found.append(line.strip())
    return [line for line in found if line and not line.startswith("#")]


def command_in(text: str) -> list[str]:
    """Return the items of the first command; one that has several lines is joined."""
    joined = re.sub(r"\n(?!- )", " ", "\n".join(lines_of(text, "command:")))
    return [re.sub(r'^"(.*)"$', r"\1", item.removeprefix("- ")) for item in joined.splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[list[str], int], Server]]:
    """Starts a server by its arguments, on a port of 127.0.0.1."""
    started: list[Server] = []

    def start(arguments: list[str], port: int) -> Server:
        folder = tmp_path / str(port)
        folder.mkdir()
        binary = str(find_binary("redis7"))
        if arguments[0] == "sh":  # a script, which starts the server by the rest
            script, *rest = (binary if each == "redis-server" else each for each in arguments[2:])
            script = script.replace("exec docker-entrypoint.sh", "exec")
            arguments = ["sh", "-c", f"REDISCLI_AUTH={shlex.quote(PASSWORD)}; {script}", *rest]
        else:
            arguments = [binary, *arguments]
        command = [*arguments, "--port", str(port), "--dir", str(folder)]
        server = Server("redis7", command, folder, f"redis://127.0.0.1:{port}", password=PASSWORD)
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


SETTINGS = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    "requirepass": PASSWORD,
}


def settings_of(server: Server, *more: str) -> dict[str, str]:
    with server.client(decode_responses=True) as raw:
        return {name: raw.config_get(name)[name] for name in (*SETTINGS, *more)}


def test_the_server_of_the_file_starts_and_has_its_settings(run: Callable[[list[str], int], Server]) -> None:
    server = run(command_in(ONE), free_port())
    expected = {**SETTINGS, "maxmemory": str(1024**3), "aclfile": "users.acl", "requirepass": ""}
    assert settings_of(server, *expected) == expected
    with server.client(decode_responses=True) as raw:
        assert set(raw.config_get("notify-keyspace-events")["notify-keyspace-events"]) == set("Khgxe")
    with server.client(password=None) as raw, pytest.raises(redis.AuthenticationError):
        raw.ping()


def test_the_server_of_the_file_keeps_logins_and_takes_a_new_password(run: Callable[[list[str], int], Server]) -> None:
    server = run(command_in(ONE), free_port())
    with Admin(server.url.replace("//", f"//:{quote(PASSWORD)}@")) as admin:
        made = admin.create_login("alice")
        assert (made.made, made.kept, made.open_to_all) == (True, True, False)
    with server.client() as raw:
        raw.execute_command("ACL", "SETUSER", "default", "resetpass", ">forgotten")
        raw.execute_command("ACL", "SAVE")
    server.restart()
    with connect(made.url, user="alice") as store:
        store.set("a", 1)
    with server.client(decode_responses=True) as raw:  # by the password of the file again
        assert sorted(line.split()[1] for line in raw.acl_list()) == ["alice", "default"]


def test_the_nodes_of_the_cluster_become_one(run: Callable[[list[str], int], Server], tmp_path: Path) -> None:
    (tmp_path / "node.conf").write_text("\n".join(lines_of(SIX, "content: |")) + "\n")
    script, opening = command_in(SIX)[2], 'docker-entrypoint.sh redis-server /node.conf --port "$REDIS_PORT"'
    assert script.endswith(f"exec {opening}")
    script = script.replace(opening, f"'{find_binary('redis7')}' '{tmp_path / 'node.conf'}' \"$@\"")
    ports = {str(7001 + number): free_port() for number in range(6)}
    assert re.findall(r"REDIS_PORT: (\d+)", SIX) == list(ports)
    nodes = [run(["sh", "-c", script, "sh", "--cluster-port", str(free_port())], port) for port in ports.values()]
    expected = {**SETTINGS, "masterauth": PASSWORD, "maxmemory": str(512 * 1024**2), "cluster-node-timeout": "5000"}
    expected |= {"requirepass": "", "aclfile": "users.acl"}
    with nodes[0].client(password=None) as raw, pytest.raises(redis.AuthenticationError):
        raw.ping()
    assert settings_of(nodes[0], *expected) == expected

    _, _, create = command_in(SIX.partition("  create:\n")[2])
    for written, port in ports.items():
        create = create.replace(written, str(port))
    environment = {**os.environ, "REDISCLI_AUTH": PASSWORD, "REDIS_HOST": "127.0.0.1"}
    done = subprocess.run(["sh", "-c", create], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    for node in nodes:
        with node.client() as raw:
            wait_until(lambda: b"cluster_state:ok" in raw.execute_command("CLUSTER", "INFO"), "the cluster is ready")
    with nodes[5].client() as raw:
        assert b"cluster_size:3" in raw.execute_command("CLUSTER", "INFO")
    with Admin(nodes[0].url.replace("//", f"//:{quote(PASSWORD)}@")) as admin:
        made = admin.create_login("alice")
        assert (made.made, made.kept) == (True, True)
    nodes[5].restart()  # a replica or a primary: each has the login
    with nodes[5].client(decode_responses=True) as raw:
        assert sorted(line.split()[1] for line in raw.acl_list()) == ["alice", "default"]


def test_the_settings_of_the_page_exist(one_server: Server) -> None:
    page = (ROOT / "docs" / "deploying.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
    assert {"maxmemory", "maxmemory-policy", "min-replicas-to-write", "cluster-require-full-coverage"} <= names
    with one_server.client(decode_responses=True) as raw:
        assert {name for name in names if not raw.config_get(name)} == set()
