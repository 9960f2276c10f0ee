"""`credential_provider=`: tokens that change, also under connections that are held, and no call is lost for that."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.credentials import CredentialProvider

from redis_store import (
    AuthenticationFailed,
    ConnectionLost,
    DataStore,
    InvalidSettings,
    connect,
    connect_async,
)
from redis_store.hub.events import Listening
from redis_store.hub.subscribers import Members
from redis_store.namespace.keys import UserKeys
from redis_store.operations import operations_of
from redis_store.protocol.command import ReplyError
from tests.support.servers import Server, wait_until

OpenStore = Callable[..., DataStore]


class Tokens(CredentialProvider):
    """A provider as of a cloud: a user name, and a token that changes."""

    def __init__(self, user: str, token: str) -> None:
        self.user = user
        self.stale: list[str] = []
        """Tokens that it gives before the current one."""
        self.token = token
        self.asked = 0
        self.threads: set[str] = set()
        self.error: Exception | None = None

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        self.threads.add(threading.current_thread().name)
        if self.error is not None:
            raise self.error
        return self.user, self.stale.pop(0) if self.stale else self.token


class Cloud:
    """A server whose users log in with tokens, and no other may."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.raw = server.client()
        self._numbers = iter(range(1000))
        self.raw.execute_command("ACL", "SETUSER", "operator", "on", ">op", "+@all", "~*", "&*")
        self.raw.close()
        self.raw = server.client(username="operator", password="op")
        self.raw.execute_command("ACL", "SETUSER", "default", "off")

    def login(self, user: str, keys: str = "~*") -> Tokens:
        tokens = Tokens(user, "")
        self.raw.execute_command("ACL", "SETUSER", user, "on", "+@all", keys, "&*")
        self.renew(tokens)
        return tokens

    def renew(self, tokens: Tokens) -> None:
        """Give a user a new token, and refuse the old one."""
        tokens.token = f"token-{next(self._numbers)}"
        self.raw.execute_command("ACL", "SETUSER", tokens.user, "resetpass", f">{tokens.token}")

    def cut(self, tokens: Tokens) -> None:
        """End the connections of a user, as services do when a token has expired."""
        self.raw.execute_command("CLIENT", "KILL", "USER", tokens.user)

    @property
    def logins(self) -> int:
        stats: dict[str, Any] = self.raw.info("commandstats").get("cmdstat_auth", {"calls": 0})
        return int(stats["calls"])


@pytest.fixture
def cloud(start: Callable[..., Server]) -> Iterator[Cloud]:
    made = Cloud(start("redis7"))
    yield made
    made.raw.close()


def _lose_login(store: DataStore) -> None:
    """Have the server forget who the store's idle connection is."""
    (held,) = operations_of(store).driver.loans._idle  # type: ignore[attr-defined]
    held.exchange((("RESET",),), True, True)


def test_new_tokens_for_new_connections(cloud: Cloud, open_store: OpenStore) -> None:
    tokens = cloud.login("app")
    store = open_store(cloud.url, credential_provider=tokens)
    store.set("key", 1)
    for number in range(3):
        cloud.renew(tokens)
        cloud.cut(tokens)
        assert store.increment("key", 1) == number + 2
    assert tokens.token not in repr(store)


def test_a_connection_that_has_lost_its_login_gets_a_new_one(cloud: Cloud, open_store: OpenStore) -> None:
    tokens = cloud.login("app")
    store = open_store(cloud.url, credential_provider=tokens)
    for number, call in enumerate(
        (
            lambda: store.set("key", 1),
            lambda: store.set_many({f"key-{i}": i for i in range(2500)}),
            lambda: store.get("key"),
            lambda: store.set_many({"key": 2}, metadata={"m": 1}),
            lambda: store.transact(lambda tx: tx.set("key", 3)),
        )
    ):
        store.get("before")
        cloud.renew(tokens)
        _lose_login(store)
        call()
        assert tokens.asked == number + 2
    assert store.get_all() == {"key": 3, **{f"key-{i}": i for i in range(2500)}}


def test_a_held_connection_logs_in_again_now_and_then(
    cloud: Cloud, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("redis_store.connections.credentials.RENEW_S", 0.0)
    tokens = cloud.login("app")
    store = open_store(cloud.url, credential_provider=tokens)
    store.set("key", 1)
    before = cloud.logins
    assert [store.get("key") for _ in range(3)] == [1, 1, 1]
    assert cloud.logins == before + 3
    # Where that fails, the connection is used as it is, and the next attempt waits.
    tokens.error = RuntimeError(tokens.token)
    assert [store.get("key") for _ in range(3)] == [1, 1, 1]
    tokens.error, tokens.token = None, "wrong"
    assert cloud.logins == before + 3
    assert caplog.text.count("could not renew its login") == 1
    assert "token-" not in caplog.text


@pytest.mark.parametrize("stale", [1, 2])
def test_a_provider_that_keeps_tokens_too_long(cloud: Cloud, open_store: OpenStore, stale: int) -> None:
    """It is asked twice. Then the refusal counts, until the next call."""
    tokens = cloud.login("app")
    tokens.stale = ["old"] * stale
    store = open_store(cloud.url, credential_provider=tokens)
    if stale == 2:
        with pytest.raises(AuthenticationFailed, match="rejected"):
            store.set("key", 1)
    store.set("key", 1)
    tokens.stale = ["old"] * stale
    _lose_login(store)
    if stale == 2:
        with pytest.raises(AuthenticationFailed, match="rejected"):
            store.get("key")
    assert store.get("key") == 1


def test_a_provider_that_fails(cloud: Cloud, open_store: OpenStore) -> None:
    tokens = cloud.login("app")
    store = open_store(cloud.url, credential_provider=tokens)
    tokens.error = RuntimeError("secret")
    with pytest.raises(AuthenticationFailed, match="provider raised RuntimeError") as caught:
        store.set("key", 1)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is tokens.error
    tokens.error = None
    store.set("key", 1)
    with pytest.raises(AuthenticationFailed, match="must return") as caught:
        open_store(cloud.url, credential_provider=_Returns(("app", 7, "secret"))).get("key")
    assert "secret" not in str(caught.value)


class _Returns(CredentialProvider):
    def __init__(self, found: Any) -> None:
        self.found = found

    def get_credentials(self) -> Any:
        return self.found


def test_asyncio(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = cloud.login("app")

    async def use() -> None:
        store = connect_async(cloud.url, user="alice", credential_provider=tokens)
        await store.set("key", 0)
        for calls in (lambda: store.get("key"), lambda: store.increment("key", 1)):
            connection = store._operations.driver.core._latest.shared  # type: ignore[union-attr]
            assert connection is not None
            cloud.renew(tokens)
            await connection._submit(b"*1\r\n$5\r\nRESET\r\n", 1, False)
            asked = tokens.asked
            await asyncio.gather(*(calls() for _ in range(50)))
            assert tokens.asked <= asked + 3, "fifty refused calls, hardly more than one login"
        assert await store.get("key") == 50
        cloud.renew(tokens)
        cloud.cut(tokens)
        assert await store.increment("key", 1) == 51
        await store.close()

    asyncio.run(use())
    assert "MainThread" not in tokens.threads, "a provider may block"

    async def idle() -> None:
        monkeypatch.setattr("redis_store.connections.credentials.RENEW_S", 0.01)
        store = connect_async(cloud.url, user="alice", credential_provider=tokens)
        await store.get("key")
        before = cloud.logins
        while cloud.logins < before + 3:
            await asyncio.sleep(0.005)
        tokens.stale = ["old"] * 2
        while tokens.stale:
            await asyncio.sleep(0.005)
        assert await store.get("key") == 51
        await store.close()

    asyncio.run(asyncio.wait_for(idle(), 20))


def test_watching_goes_on(cloud: Cloud, open_store: OpenStore) -> None:
    tokens = cloud.login("app")
    store = open_store(cloud.url, credential_provider=tokens, configure_server=True)
    with store.watch() as watch:
        store.set("key", 0)
        assert watch.next_change(20) is not None
        for number in (1, 2):
            cloud.renew(tokens)
            cloud.cut(tokens)
            store.set("key", number)
            change = watch.next_change(20)
            assert change is not None
            assert (change.key, change.value) == ("key", number)


def test_a_hub_without_a_login_reconnects() -> None:
    """Watchers that begin meanwhile wait; they do not get the refusal."""
    listening = Listening(Members(0), lambda size: "ab" * size, lambda text: None)
    listening.heard(ReplyError("NOAUTH Authentication required."))
    with pytest.raises(ConnectionLost, match="lost its login"):
        listening.block([]).send(None)


def test_logins_share_nothing(cloud: Cloud, open_store: OpenStore) -> None:
    """Stores of one url with two providers: the near cache, the hub and the connections of one never serve the other."""
    stores = []
    for name in ("alice", "bob"):
        tokens = cloud.login(name, f"~user:{name}:*")
        stores.append(open_store(cloud.url, name, credential_provider=tokens, near_cache=True))
    for store in stores:
        store.set("key", store.user)
        assert [store.get("key") for _ in range(3)] == [store.user] * 3
    with stores[0].watch() as first, stores[1].watch() as second:
        for store, watch in zip(stores, (first, second), strict=True):
            store.set("key", 2)
            change = watch.next_change(20)
            assert change is not None
            assert change.value == 2
    logged = {client["user"] for client in cloud.raw.client_list() if client["user"] != "operator"}
    assert logged == {"alice", "bob"}


def test_the_near_cache_is_empty_after_a_lost_login(cloud: Cloud, open_store: OpenStore) -> None:
    """The connection that tracked writes tracks none after it, so it is not used again."""
    tokens = cloud.login("app")
    store = open_store(cloud.url, credential_provider=tokens, near_cache=True)
    store.set("key", 1)
    wait_until(lambda: store.get("key") == 1 and store.stats().near_hits > 0, "it is kept")
    near = operations_of(store).driver.near
    assert near is not None
    tracked = near.threads._connection
    assert tracked is not None
    tracked.exchange((("RESET",),), True, True)
    store.get("other")  # a fill, which is refused there
    assert near.threads._connection is not tracked
    with redis.Redis.from_url(cloud.url, username="operator", password="op") as raw:
        raw.hset("user:alice:ns:default", "key", "2")
    wait_until(lambda: store.get("key") == 2, "the write of another is seen")


def test_bad_settings(cloud: Cloud, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = cloud.login("app")
    monkeypatch.delenv("REDIS_URL", raising=False)
    for url, provider, reason in (
        (cloud.url, "token", "must have a method get_credentials"),
        ("redis://:pw@h", tokens, "leave one of them out"),
        ("redis://h?username=u", tokens, "leave one of them out"),
        (None, tokens, "a server with a url"),
    ):
        for function in (connect, connect_async):
            with pytest.raises(InvalidSettings, match=reason):
                function(url, user="alice", data_dir=tmp_path, credential_provider=provider)  # type: ignore[arg-type]


def test_the_log_of_a_user_without_a_provider_is_unchanged(caplog: pytest.LogCaptureFixture, server_url: str) -> None:
    with caplog.at_level(logging.WARNING), connect(server_url, user="alice") as store:
        store.get("key")
    assert "login" not in caplog.text
    assert UserKeys.of("alice").prefix == b"user:alice:"
