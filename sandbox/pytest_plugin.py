"""Fixtures for testing agents, available as soon as agent-data-store is installed beside pytest.

``data_store`` and ``async_data_store`` give the store of a new user for each test; ``run_agent`` and ``arun_agent`` run an
agent as that user. All tests of a session share one embedded server in a temporary folder. It starts when first needed and
stops after the session. Override ``data_store_url`` to test against another server.

    def test_it_counts(data_store, run_agent):
        data_store.set("visits", 1)
        result = run_agent(Path("agents/quick_start.py"), {"name": "Ada"})
        assert result.check()["visits"] == 2
"""

from __future__ import annotations

import functools
import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

# The fixtures import what they need themselves: every pytest run in the environment loads this module.
if TYPE_CHECKING:
    from collections.abc import Coroutine

    from redis_store import AsyncDataStore, DataStore
    from sandbox import RunResult

__all__ = ["arun_agent", "async_data_store", "data_store", "data_store_url", "data_store_user", "run_agent"]


@pytest.fixture(scope="session")
def data_store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of the server: an embedded one for the session. Override this fixture to use another server."""
    from redis_store import server

    folder = tmp_path_factory.mktemp("data-store")
    with server.join(folder) as running:
        yield running.url


@pytest.fixture
def data_store_user() -> str:
    """The name of a new user for this test."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def data_store(data_store_url: str, data_store_user: str) -> Iterator[DataStore]:
    """The store that the agents of this test use, as seen by the test."""
    from redis_store import connect

    with connect(data_store_url, user=data_store_user, agent="test") as store:
        yield store


@pytest.fixture
def async_data_store(data_store_url: str, data_store_user: str) -> Iterator[AsyncDataStore]:
    """The same store for asyncio. It is bound to the event loop that uses it, and closed after the test."""
    import asyncio

    from redis_store import connect_async

    store = connect_async(data_store_url, user=data_store_user, agent="test")
    yield store
    with closing(asyncio.new_event_loop()) as loop:  # the test's own loop is most likely closed
        loop.run_until_complete(store.close())


@pytest.fixture
def run_agent(data_store_url: str, data_store_user: str) -> Callable[..., RunResult]:
    """`sandbox.run` for this test's user: ``run_agent(source_or_path, input_dict={}, **options)``. A source may be indented."""
    import sandbox

    return functools.partial(_run, sandbox.run, data_store_url, data_store_user)


@pytest.fixture
def arun_agent(data_store_url: str, data_store_user: str) -> Callable[..., Coroutine[Any, Any, RunResult]]:
    """`sandbox.arun` for this test's user: like `run_agent`, for asyncio."""
    import sandbox

    return functools.partial(_run, sandbox.arun, data_store_url, data_store_user)


def _run(
    run: Callable[..., Any],
    url: str,
    user: str,
    source_or_path: Any,
    input_dict: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    source = textwrap.dedent(source_or_path) if isinstance(source_or_path, str) else source_or_path
    return run(source, {} if input_dict is None else input_dict, **{"url": url, "user": user, **options})
