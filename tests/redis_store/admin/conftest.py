"""A server with data of users whose names are hard to handle, and the commands run in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from redis_store import Client
from redis_store.admin import Admin
from redis_store.cli import main
from tests.support.servers import Server, empty_database

HARD_NAMES = (
    "x\nuser:bob:ns:default",
    "a b",
    'it\'s "quoted"',
    "*",
    "[a-z]?\\",
    "\x1b[31mred",
    "$(touch x)",
    "n" * 1024,
)
"""Names of namespaces that a shell, a pattern or a terminal would misunderstand."""

HARD_USERS = ("*", "a\nb", "alice", "alice2", "{alice}", "user:alice:ns", "zoë?[x]")
"""Ids of users, among them one that is another's pattern, and one that begins like another."""


@dataclass(frozen=True)
class Ended:
    """The output of a command, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[Any]:
        """The JSON objects on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def url(one_server: Server) -> Iterator[str]:
    """The url of an empty database."""
    with empty_database(one_server, 7) as url:
        yield url


@pytest.fixture
def raw(url: str) -> Iterator[redis.Redis]:
    """A redis-py client of the database."""
    with redis.Redis.from_url(url) as client:
        yield client


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def admin(client: Client) -> Admin:
    return Admin(client, operator="tester")


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """A function that runs ``redis-store`` in this process, on the database."""
    monkeypatch.setenv("REDIS_URL", url)

    def run(*arguments: str, code: int = 0) -> Ended:
        monkeypatch.setattr(sys, "argv", ["redis-store", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        got = ended.value.code
        assert (got if isinstance(got, int) else 0) == code, captured.err
        return Ended(code, captured.out, captured.err)

    return run
