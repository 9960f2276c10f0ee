"""`store`, the subject of the contract tests, through each side and on each server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from redis_store import Client, connect, connect_async
from redis_store.admin import Admin
from redis_store.admin.logins import with_login
from redis_store.namespace.keys import PLAIN, UserKeys
from tests.conftest import params_of
from tests.support.agent_side import AgentRun, AgentSide
from tests.support.brokered_side import BrokeredSide, brokered
from tests.support.servers import REAL_KINDS, Server
from tests.support.services import SERVICE
from tests.support.sides import SIDES, AsyncSide, OpenSide, Side, SyncSide

WITH_SHARED_CLIENTS = ("redis8",)
"""The servers on which every blocking store is one of many of a client; all others have a client of their own."""

OWNER = "owner-of-the-rules"


@pytest.fixture(params=params_of(SIDES))
def side(request: pytest.FixtureRequest) -> str:
    """The side: sync, async, or from inside the sandbox."""
    return str(request.param)


@pytest.fixture(scope="session")
def agent_runs() -> Iterator[Callable[[Server], AgentRun]]:
    """Agents that stay alive for all tests, one for each server."""
    runs: dict[str, AgentRun] = {}

    def run_on(server: Server) -> AgentRun:
        if server.url not in runs:
            runs[server.url] = AgentRun(server.url, f"agent-user-{uuid.uuid4().hex}", "tester")
        return runs[server.url]

    yield run_on
    for run in runs.values():
        run.close()


@pytest.fixture(scope="session")
def clients() -> Iterator[Callable[[type[Any], Server], Any]]:
    """A client of each kind for each server, whose stores all tests share."""
    made: dict[tuple[type[Any], str], Any] = {}

    def client_of(kind: type[Any], server: Server) -> Any:
        if (kind, server.url) not in made:
            made[kind, server.url] = kind(server.url)
        return made[kind, server.url]

    yield client_of
    for client in made.values():
        if isinstance(client, Client):
            client.close()
        else:
            asyncio.run(client.close())


@pytest.fixture
def raw(server: Server) -> Iterator[redis.Redis]:
    """A redis-py client of the server."""
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def rules_on() -> Callable[[Server], Sequence[str]]:
    """The rules of a login for the user `OWNER` on a server, as `login create` makes them."""
    known: dict[str, Sequence[str]] = {}

    def rules_of(server: Server) -> Sequence[str]:
        if server.url not in known:
            with Admin(server.url) as admin:
                known[server.url] = admin.create_login(OWNER).rule.split(" ")[3:]  # after its name, state and password
                admin.remove_login(OWNER)
        return known[server.url]

    return rules_of


@pytest.fixture
def url_for(server: Server, raw: redis.Redis, rules_on: Any) -> Iterator[Callable[[str], str]]:
    """A function that returns a server's url with a login which reaches the data of one user and nothing else.

    The asyncio side has it on every real server, so that whatever it does is possible with such a login.
    """
    made: list[str] = []

    def url_for(user: str) -> str:
        if server.kind not in REAL_KINDS or server.is_cluster or SERVICE is not None:
            return server.url
        name = UserKeys.of(user, form=PLAIN).prefix.decode()[len("user:") : -1]
        if name not in made:
            rules = [rule.replace(f"user:{OWNER}:", f"user:{name}:") for rule in rules_on(server)]
            rules = [rule.replace(f"user:{{{OWNER}}}:", f"user:{{{name}}}:") for rule in rules]
            raw.execute_command("ACL", "SETUSER", name, "reset", "on", ">secret", *rules)
            made.append(name)
        return with_login(server.url, name, "secret")

    yield url_for
    if made:
        raw.acl_deluser(*made)


@pytest.fixture
def open_side(
    side: str, server: Server, agent_runs: Any, clients: Any, raw: redis.Redis, url_for: Callable[[str], str]
) -> Iterator[OpenSide]:
    """Open stores through one side; all are closed when the test ends.

    In the sandbox the user is bound to the run, so the run's user is used; its data is removed when the test ends.
    """
    with ExitStack() as stack:
        loop: asyncio.AbstractEventLoop | None = None
        shares = server.kind in WITH_SHARED_CLIENTS

        def open_one(user: str, namespace: str = "default", agent: str | None = "tester") -> Side:
            nonlocal loop
            if side == "sync" and shares:
                return SyncSide(
                    stack.enter_context(clients(Client, server).store(user=user, namespace=namespace, agent=agent))
                )
            if side == "sync":
                return SyncSide(stack.enter_context(connect(server.url, user=user, namespace=namespace, agent=agent)))
            if side == "brokered":
                outside = stack.enter_context(connect(server.url, user=user, namespace=namespace, agent=agent))
                return BrokeredSide(stack.enter_context(brokered(outside)).store)
            if loop is None:
                loop = asyncio.new_event_loop()
                stack.callback(loop.close)
            store = connect_async(url_for(user), user=user, namespace=namespace, agent=agent)
            stack.callback(lambda: loop.run_until_complete(store.close()))
            return AsyncSide(store, loop)

        def open_agent(user: str, namespace: str = "default", agent: str | None = "tester") -> AgentSide:
            run = agent_runs(server)
            assert (user, agent) == (run.user, "tester"), "in the sandbox there is one user, and one agent"
            stack.callback(delete_user, raw, run.user)
            return AgentSide(run, namespace)

        yield open_agent if side == "sandbox" else open_one


@pytest.fixture
def user(side: str, server: Server, agent_runs: Any) -> str:
    """A user whose data no other test sees; in the sandbox, the run's user."""
    return agent_runs(server).user if side == "sandbox" else f"user-{uuid.uuid4().hex}"


@pytest.fixture
def store(open_side: OpenSide, user: str) -> Side:
    """An empty store of a fresh user."""
    return open_side(user)


@pytest.fixture
def keys(user: str, server: Server) -> UserKeys:
    """The Redis keys of the test's user."""
    return UserKeys.of(user, hash_tag=server.is_cluster)


def delete_user(raw: redis.Redis, user: str) -> None:
    """Delete all Redis keys of a user."""
    forms = f"user:{user}:*", f"user:{{{user}}}:*"
    found = [key for form in forms for key in raw.scan_iter(match=form, count=5000)]
    for start in range(0, len(found), 1000):
        raw.unlink(*found[start : start + 1000])
