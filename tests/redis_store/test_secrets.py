"""Passwords: errors report a refused one as such, and none ever appears in an error, a repr or a log record."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from collections.abc import Callable
from urllib.parse import quote

import pytest

from redis_store import AuthenticationFailed, DataStoreError, StoreUnavailable, connect, connect_async
from tests.support.servers import REAL_KINDS, Server

PASSWORD = "s3cr-%40-pässwörd"
QUOTED = quote(PASSWORD, safe="")


@pytest.mark.parametrize("kind", REAL_KINDS)
def test_a_wrong_password(kind: str, start: Callable[..., Server], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = start(kind, "--requirepass", PASSWORD)
    good = f"{server.url}?password={QUOTED}"
    errors: list[BaseException] = []
    for url in (server.url, f"{server.url}?password=wr0ng-guess", f"{server.url}?username=bob&password=wr0ng-guess"):
        with connect(url, user="alice") as store, pytest.raises(AuthenticationFailed) as caught:
            store.get("key")
        errors.append(caught.value)
        errors.append(async_error(url))
    with connect(good, user="alice") as store:
        store.set("key", 1)
        assert store.get("key") == 1
        assert PASSWORD not in repr(store)
        assert QUOTED not in repr(store)
        server.restart()
        server.kill()
        with pytest.raises(StoreUnavailable) as lost:
            store.set("key", 1)
        errors.append(lost.value)
        errors.append(async_error(good))
    for error in errors:
        shown = "".join([str(error), repr(error), repr(error.__dict__), *traceback.format_exception(error)])
        assert not any(secret in shown for secret in (PASSWORD, QUOTED, "wr0ng-guess"))
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert PASSWORD not in caplog.text
    assert "wr0ng-guess" not in caplog.text


def async_error(url: str) -> DataStoreError:
    """Return the error of a `get` that fails."""

    async def main() -> DataStoreError:
        async with connect_async(url, user="alice") as store:
            with pytest.raises(StoreUnavailable) as caught:
                await store.get("key")
            assert PASSWORD not in repr(store)
            return caught.value

    return asyncio.run(main())


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@127.0.0.1:1/0",
        "redis://bob:hunter2@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=hunter2",
        "redis://:hunter2@host:port/0",
        "redis://:hunter2@127.0.0.1:1/0?nonsense=1",
        "redis://:hunter2@127.0.0.1:1/0?db=hunter3",
        "http://:hunter2@127.0.0.1",
        "redis+sentinel://:hunter2@host/service/0",
        "unix:///nowhere?password=hunter2",
        "rediss://:hunter2@127.0.0.1:1/0",
        "redis://:hunter2/and@127.0.0.1:1/0",
        "redis://:hunter2#and@127.0.0.1:1/0",
        "redis://:hunter2?and@127.0.0.1:1/0",
        "redis://bob:1/hunter2@127.0.0.1:1/0",
        "redis://bob:1#hunter2@127.0.0.1:1/0",
        "redis://bob:1?hunter2@127.0.0.1:1/0",
        "redis://[:hunter2@127.0.0.1:1/0",
    ],
)
def test_a_password_never_shows(url: str, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> None:
    caplog.set_level(logging.DEBUG)
    shown = []
    for attempt in (sync_attempt, async_attempt):
        try:
            shown.append(attempt(url))
        except DataStoreError as error:
            shown += [str(error), repr(error), repr(error.facts), *traceback.format_exception(error)]
    assert shown
    assert not [text for text in [*shown, caplog.text] if "hunter2" in text.replace(url, "")]


def sync_attempt(url: str) -> str:
    """Use a store at a url, and return every text that it shows."""
    with connect(url, user="alice") as store:
        try:
            store.set("key", 1)
        finally:
            shown = repr(store)
    return shown


def async_attempt(url: str) -> str:
    """Do the same with asyncio."""

    async def main() -> str:
        async with connect_async(url, user="alice") as store:
            with pytest.raises(StoreUnavailable) as caught:
                await store.set("key", 1)
            return repr(store) + str(caught.value)

    return asyncio.run(main())
