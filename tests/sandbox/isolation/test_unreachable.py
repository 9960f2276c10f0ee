"""A store that is unreachable when a run starts, or becomes so during the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import redis_store
import sandbox
from redis_store import errors
from redis_store.brokers.lease import addresses_of
from redis_store.connections.address import without_secrets
from sandbox import isolation
from sandbox.host.broker import error_parts
from sandbox.isolation import layout

AGENT = "def run(input_dict, tools):\n    return {}\n"


@pytest.mark.usefixtures("nothing_left")
def test_unreachable_store(user: str, tmp_path: Path) -> None:
    for url in ("redis://127.0.0.1:1/0", f"unix://{tmp_path}/none.sock"):
        with pytest.raises(redis_store.StoreUnavailable, match="Cannot connect"):
            sandbox.run(AGENT, {}, user=user, url=url)


@pytest.mark.usefixtures("nothing_left")
def test_process_that_does_not_start(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packages = dict(layout.PACKAGES)
    monkeypatch.setitem(layout.PACKAGES, "redis_store", tmp_path)
    with pytest.raises(
        sandbox.StartFailed, match=r"before it began: ModuleNotFoundError: No module named 'redis_store\.errors'"
    ) as caught:
        run(AGENT, isolation=isolation.UNSAFE)
    assert "Traceback" in caught.value.output
    monkeypatch.setitem(layout.PACKAGES, "redis_store", packages["redis_store"])
    assert run(AGENT, isolation=isolation.UNSAFE).check() == {}


def test_server_that_dies_during_the_run(run: Any, own_server: Any) -> None:
    def kill() -> None:
        own_server.process.kill()
        own_server.process.wait()

    result = run(
        """
        from redis_store.errors import StoreUnavailable
        def run(input_dict, tools):
            data_store.set("a", 1)
            tools["kill"]()
            for name, call in {"get": lambda: data_store.get("a"), "set": lambda: data_store.set("a", 2)}.items():
                try:
                    call()
                except ConnectionError as error:
                    assert isinstance(error, StoreUnavailable), error
                    print(type(error).__name__, error.outcome_unknown, error)
            return {}
        """,
        tools={"kill": kill},
        url=own_server.url,
    )
    result.check()
    assert result.stdout.count("ConnectionLost False") == 2
    assert "the server" in result.stdout
    assert own_server.url.removeprefix("unix://") not in result.stdout, "an agent learns where the server is"
    assert [operation.error for operation in result.operations] == [None, "ConnectionLost", "ConnectionLost"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:secret@127.0.0.1:7700/3?socket_timeout=1", ("127.0.0.1", "7700", "/3")),
        ("rediss://me:secret@[::1]:6380/0", ("::1", "6380", "/0")),
        ("redis://store.internal", ("store.internal",)),
        ("unix:///run/user/store.sock?db=2", ("/run/user", "store.sock")),
    ],
)
@pytest.mark.parametrize("kind", [errors.ConnectionLost, errors.AuthenticationFailed, errors.InvalidSettings])
def test_errors_do_not_reveal_the_server_address(kind: type[errors.DataStoreError], url: str, told: Any) -> None:
    """A new connection raises `InvalidSettings` if its server user has lost a right."""
    error = kind(f"The server at {without_secrets(url)} refused the connection's options: no SELECT.")
    _, name, message, _ = error_parts(error, addresses_of(url))
    assert name == kind.__name__
    assert message == "The server at the server refused the connection's options: no SELECT."
    assert not any(text in str(message) for text in told)
