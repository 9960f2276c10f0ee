"""Servers, users and stores for every test; skips with advice where a server is missing, and fails under ``CI``."""

from __future__ import annotations

import gc
import os
import signal
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings

from redis_store import DataStore, connect
from tests.support.clusters import Cluster
from tests.support.pairs import covered_elsewhere
from tests.support.servers import KINDS, REAL_KINDS, MissingServer, Server, Servers, start_server
from tests.support.services import SERVICE, runs_on_service, start_service
from tests.support.sides import SIDES

_RELAXED = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
settings.register_profile("dev", deadline=None, suppress_health_check=_RELAXED)
settings.register_profile("ci", deadline=None, suppress_health_check=_RELAXED, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


STARTING_THEIR_OWN = (
    "tests/redis_store/server/",
    "tests/redis_store/cli/",
    "tests/redis_store/testing/",
    "tests/sandbox/attacks/",
    "tests/sandbox/cli/",
    "tests/sandbox/consumers/test_consumers.py",
    "tests/sandbox/host/",
    "tests/sandbox/isolation/",
    "tests/repository/examples/",
    "tests/repository/test_docs.py",
    "tests/repository/test_benchmarks.py",
    "tests/repository/test_compose.py",
    "tests/repository/test_wheel.py",
)
"""Tests of the embedded server and of what starts one, and tests that start agents."""


LONGEST_FIRST = (
    "tests/repository/test_docs.py",
    "tests/repository/examples/",
    "tests/redis_store/histories/",
    "tests/redis_store/console/",
    "tests/sandbox/cli/",
    "tests/redis_store/watch/test_",
    "tests/sandbox/attacks/test_",
    "tests/redis_store/server/",
    "tests/sandbox/isolation/",
    "tests/sandbox/host/",
    "tests/contract/",
)
"""Files that take long run first, so that no process is left with a long one at the end (``--no-loadscope-reorder``)."""


collect_ignore = [] if os.environ.get("INTEGRATIONS") else ["integrations"]
"""`make test-integrations` installs what these tests need, and sets the variable."""


def pytest_configure(config: pytest.Config) -> None:
    for name in (*KINDS, *SIDES, "brokered"):
        config.addinivalue_line("markers", f"{name}: runs against, or through, {name}")


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest selects by `-m`, and after it has put tests in its order
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Leave out what other tests cover, mark the tests that start a server or whose fixtures do, and put long files first."""
    left_out = covered_elsewhere(items)
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]
    if SERVICE is not None:
        elsewhere = [item for item in items if not runs_on_service(item)]
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if runs_on_service(item)]
    for item in items:
        starts = {"servers", "start", "server_url", "own_server", "clusters", "seeded"} & set(
            getattr(item, "fixturenames", ())
        )
        if starts or item.nodeid.startswith(STARTING_THEIR_OWN):
            item.add_marker("server")
    yield
    items.sort(key=_turn)


def pytest_collection_finish() -> None:
    """Freeze what pytest keeps of its tests: a test that collects garbage would look at all of it, for a quarter of a second."""
    gc.collect()
    gc.freeze()


# Tests that a shell starts in the background ignore Ctrl-C, and so do all processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _turn(item: pytest.Item) -> int:
    """Return when a test's file has its turn; pytest's order remains among files of the same turn."""
    turns = (turn for turn, start in enumerate(LONGEST_FIRST) if item.nodeid.startswith(start))
    return next(turns, len(LONGEST_FIRST))


def params_of(names: tuple[str, ...]) -> list[Any]:
    return [pytest.param(name, id=name, marks=getattr(pytest.mark, name)) for name in names]


def missing(error: MissingServer) -> Any:
    """Skip a test whose server is missing; in CI, where none may be missing, fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, so nothing may be skipped. {error}")
    pytest.skip(str(error))


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The servers that all tests share."""
    running = Servers(None if SERVICE is None else lambda kind: start_service(SERVICE))
    yield running
    running.stop()


@pytest.fixture(scope="session", params=params_of(KINDS))
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Each kind of server in turn, fakeredis included."""
    try:
        return servers.get(request.param)
    except MissingServer as error:
        return missing(error)


@pytest.fixture(scope="session", params=params_of(REAL_KINDS))
def real_server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Each kind of real server in turn."""
    try:
        return servers.get(request.param)
    except MissingServer as error:
        return missing(error)


@pytest.fixture(scope="session")
def one_server(servers: Servers) -> Server:
    """One real server, the fastest available."""
    try:
        return servers.first_of(reversed(REAL_KINDS))
    except MissingServer as error:
        return missing(error)


@pytest.fixture(scope="session")
def server_url(one_server: Server) -> str:
    """The url of one real server."""
    return one_server.url


@pytest.fixture(scope="session")
def clusters() -> Iterator[Callable[[str], Cluster]]:
    """Returns the cluster of a kind, which all tests share."""
    running: dict[str, Cluster] = {}
    with ExitStack() as stack:

        def cluster_of(kind: str) -> Cluster:
            if kind not in running:
                try:
                    running[kind] = stack.enter_context(Cluster(kind))
                except MissingServer as error:
                    return missing(error)
            return running[kind]

        yield cluster_of


@pytest.fixture
def cluster(clusters: Callable[[str], Cluster]) -> Iterator[Cluster]:
    """Three primaries with a replica each, which a test may kill or promote, and whose slots it may move."""
    shared = clusters(os.environ.get("CLUSTER", "valkey9"))
    shared.wait_until_whole()
    yield shared
    shared.wait_until_whole()


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """`start_server` for servers that a test may kill, fill or configure; they are stopped when it ends."""
    with ExitStack() as stack:

        def start_one(kind: str, *options: str, **more: Any) -> Server:
            try:
                started = start_server(kind, *options, **more)
            except MissingServer as error:
                return missing(error)
            stack.callback(started.stop)
            return started

        yield start_one


@pytest.fixture
def user() -> str:
    """A new user, so that no test sees another's data."""
    return f"user-{uuid.uuid4().hex}"


@pytest.fixture
def open_store() -> Iterator[Callable[..., DataStore]]:
    """`connect`; the store is closed when the test ends."""
    with ExitStack() as stack:

        def open_one(url: str, user: str = "alice", **options: Any) -> DataStore:
            return stack.enter_context(connect(url, user=user, **options))

        yield open_one


@pytest.fixture
def raw_of() -> Iterator[Callable[..., redis.Redis]]:
    """A redis-py client of a server, closed when the test ends."""
    with ExitStack() as stack:

        def make(server: Server, **options: Any) -> redis.Redis:
            client = server.client(**options)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture
def raw(real_server: Server, raw_of: Callable[..., redis.Redis]) -> redis.Redis:
    """A redis-py client of the real server of this test."""
    return raw_of(real_server)
