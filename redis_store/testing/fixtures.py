"""Fixtures for testing agents, available as soon as agent-data-store is installed beside pytest.

``data_store`` and ``async_data_store`` give the store of a new user for each test; ``run_agent`` and ``arun_agent`` run an
agent as that user. All tests of a session share one embedded server in a temporary folder. It starts when first needed and
stops after the session. Override ``data_store_url`` to test against another server.

A project that does not use the fixtures notices nothing of them, whatever its folders are called and whatever is missing.
A test that uses a fixture fails with advice if it cannot be had.

    def test_it_counts(data_store, run_agent):
        data_store.set("visits", 1)
        result = run_agent(Path("agents/quick_start.py"), {"name": "Ada"})
        assert result.check()["visits"] == 2
"""

from __future__ import annotations

import functools
import importlib.util
import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

# The fixtures import what they need themselves: every pytest run in the environment loads this module, also where the project
# has a folder `sandbox` of its own, which hides ours.
if TYPE_CHECKING:
    from collections.abc import Coroutine

    from redis_store import AsyncDataStore, DataStore
    from sandbox import RunResult


@pytest.fixture(scope="session")
def data_store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of the server: an embedded one for the session. Override this fixture to use another server."""
    from redis_store import EmbeddedServerError, server

    folder = tmp_path_factory.mktemp("data-store")
    try:
        running = server.join(folder)
    except EmbeddedServerError as error:
        pytest.fail(f"{error} Or override the fixture data_store_url.", pytrace=False)
    with running:
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
    return functools.partial(_run, _sandbox().run, data_store_url, data_store_user)


@pytest.fixture
def arun_agent(data_store_url: str, data_store_user: str) -> Callable[..., Coroutine[Any, Any, RunResult]]:
    """`sandbox.arun` for this test's user: like `run_agent`, for asyncio."""
    return functools.partial(_run, _sandbox().arun, data_store_url, data_store_user)


def _sandbox() -> ModuleType:
    """Return our package `sandbox`. Fails the test if the project has one of its own, without importing that."""
    found = importlib.util.find_spec("sandbox")
    ours = Path(__file__).parents[2] / "sandbox" / "__init__.py"
    if found is None or found.origin is None or Path(found.origin).resolve() != ours.resolve():
        hiding = found.origin or list(found.submodule_search_locations or ()) if found is not None else "nothing"
        pytest.fail(
            f"`import sandbox` finds {hiding} instead of the package of agent-data-store: rename it to use run_agent"
            " and arun_agent here. The other fixtures work as it is.",
            pytrace=False,
        )
    import sandbox

    return sandbox


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
