"""Operations of several calls: from the first write on, an error says what is done, and that the outcome is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from redis_store import (
    ConnectionLost,
    DataStore,
    DataStoreError,
    PermissionDenied,
    ServerFull,
    ServerReadOnly,
    StoreTimeout,
    StoreUnavailable,
    WrongKeyType,
    connect,
    connect_async,
)
from redis_store.drivers.sync import drive
from redis_store.flows.run_sync import run_flow
from redis_store.memo import Options, cached, cached_async
from redis_store.ops.bounds import run_put
from redis_store.ops.tags import invalidate_tag
from redis_store.protocol.call import ReplyError
from redis_store.scripts import REPLACE
from tests.support.brokered_side import blocking
from tests.support.proxy import Fault, proxied
from tests.support.scripted import play, scope_of
from tests.support.servers import Server

FAILURES: dict[str, tuple[Exception, type[DataStoreError]]] = {
    "no connection": (ConnectionLost("It broke: nothing was written by this call. Try again."), ConnectionLost),
    "no reply": (StoreTimeout("It did not reply."), StoreTimeout),
    "a replica": (ReplyError("READONLY You can't write against a read only replica."), ServerReadOnly),
    "no disk": (ReplyError("MISCONF it cannot save"), ServerReadOnly),
    "a full server": (ReplyError("OOM command not allowed when used memory > 'maxmemory'."), ServerFull),
    "no right": (ReplyError("NOPERM this user has no permissions"), PermissionDenied),
}


class Replies:
    """A driver that answers with what a test says, and raises the exceptions in it."""

    near = None

    def __init__(self, *replies: Any) -> None:
        self._replies = list(replies)

    def run(self, op: Any) -> Any:
        return drive(op, self._reply)

    def _reply(self, call: Any) -> Any:
        reply = self._replies.pop(0)
        if isinstance(reply, Exception) and not isinstance(reply, ReplyError):
            raise reply
        return reply


class Results:
    """A store with the two methods that `invalidate_all` uses; `failing` is the number of the call that fails, from 0."""

    def __init__(self, error: Exception, failing: int) -> None:
        self._error = error
        self._left = failing

    def list_keys(self, prefix: str) -> list[str]:
        return self._answer(["one", "two"])

    def delete_many(self, keys: list[str]) -> int:
        return self._answer(len(keys))

    def _answer(self, answer: Any) -> Any:
        if self._left == 0:
            raise self._error
        self._left -= 1
        return answer


class AsyncResults(Results):
    async def list_keys(self, prefix: str) -> list[str]:  # type: ignore[override]
        return super().list_keys(prefix)

    async def delete_many(self, keys: list[str]) -> int:  # type: ignore[override]
        return super().delete_many(keys)


TAGGED = [b"0", [b"3:one:k", b"inf", b"3:two:k", b"inf"]]
OPTIONS = Options(None, None, None, None, None, 30)


def check(error: DataStoreError, done: str) -> None:
    assert error.outcome_unknown
    assert done in str(error)
    assert "othing was written" not in str(error)


@pytest.mark.parametrize("name", FAILURES)
def test_a_tag_of_two_namespaces(name: str) -> None:
    failure, kind = FAILURES[name]
    driver: Any = Replies(TAGGED, 1, failure)
    with pytest.raises(kind) as caught:
        run_flow(driver, invalidate_tag(scope_of(), "tag"))
    check(caught.value, "Before that, 1 values were deleted")


def test_nothing_is_unknown_before_the_first_write() -> None:
    driver: Any = Replies(TAGGED, ReplyError("READONLY it is a replica"))
    with pytest.raises(ServerReadOnly) as caught:
        run_flow(driver, invalidate_tag(scope_of(), "tag"))
    assert not caught.value.outcome_unknown
    assert "Nothing was written" in str(caught.value)
    for failing in (0, 1):
        store: Any = Results(ConnectionLost("It broke."), failing)
        with pytest.raises(ConnectionLost) as lost:
            cached(store, check, OPTIONS).invalidate_all()
        assert not lost.value.outcome_unknown


@pytest.mark.parametrize("failing", [2, 3])
@pytest.mark.parametrize("is_async", [False, True])
def test_all_results_of_two_versions(failing: int, is_async: bool) -> None:
    """The two kinds of keys are listed and deleted one after the other."""
    error = ServerReadOnly("It is a replica. Nothing was written.")
    store: Any = Results(error, failing)
    async_function = cached_async(AsyncResults(error, failing), check, OPTIONS)  # type: ignore[arg-type]

    async def invalidate_all() -> int:
        return await async_function.invalidate_all()

    call = (lambda: asyncio.run(invalidate_all())) if is_async else cached(store, check, OPTIONS).invalidate_all
    with pytest.raises(ServerReadOnly) as caught:
        call()
    check(caught.value, "Before that, 2 values were deleted")


@pytest.mark.parametrize("name", FAILURES)
def test_evictions_after_a_write(name: str) -> None:
    failure, kind = FAILURES[name]
    scope = scope_of().moved("cache", max_keys=1)
    with pytest.raises(kind) as caught:
        play(run_put(REPLACE, scope, ("", b"key", b"1", "", "", "absent"), b"key"), [1, 500, 0], failure)
    check(caught.value, "The keys themselves were written")


@pytest.mark.parametrize("side", ["sync", "brokered"])
def test_a_right_that_ends_between_two_namespaces(
    side: str, real_server: Server, raw: redis.Redis, user: str, open_store: Callable[..., DataStore]
) -> None:
    direct = open_store(real_server.url, user)
    for namespace in ("one", "two"):
        direct.use_namespace(namespace).get_or_set("k", lambda: 1, tags=["tag"])
    allowed = [f"~user:{user}:{part}" for part in ("tag:*", "namespaces", "*:one")]
    raw.execute_command("ACL", "SETUSER", user, "on", ">secret", *allowed, "+@all")
    try:
        with (
            connect(f"{real_server.url}?username={user}&password=secret", user=user) as limited,
            blocking(limited, side) as called,
            pytest.raises(PermissionDenied) as caught,
        ):
            called.invalidate_tag("tag")
    finally:
        raw.execute_command("ACL", "DELUSER", user)
    check(caught.value, "Before that, 1 values were deleted")
    assert [name for name in ("one", "two") if "k" in direct.use_namespace(name)] == ["two"]
    assert direct.invalidate_tag("tag") == 1


def test_a_namespace_of_another_type(
    real_server: Server, raw: redis.Redis, user: str, open_store: Callable[..., DataStore]
) -> None:
    store = open_store(real_server.url, user)
    for namespace in ("one", "two"):
        store.use_namespace(namespace).get_or_set("k", lambda: 1, tags=["tag"])
    raw.set(f"user:{user}:ns:two", "by hand")
    with pytest.raises(WrongKeyType) as caught:
        store.invalidate_tag("tag")
    check(caught.value, "Before that, 1 values were deleted")
    assert caught.value.facts["redis_key"] == f"user:{user}:ns:two"


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER], ids=lambda fault: fault.name)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_connection_that_ends_between_two_namespaces(
    is_async: bool, fault: Fault, real_server: Server, user: str, open_store: Callable[..., DataStore]
) -> None:
    direct = open_store(real_server.url, user)
    for namespace in ("one", "two"):
        direct.use_namespace(namespace).get_or_set("k", lambda: 1, tags=["tag"])
    assert direct.invalidate_tag("unused") == 0

    async def invalidate_async(url: str) -> None:
        async with connect_async(url, user=user) as store:
            await store.invalidate_tag("tag")

    def invalidate(url: str) -> None:
        with connect(url, user=user) as store:
            store.invalidate_tag("tag")

    with proxied(real_server) as proxy:
        proxy.strike(f"user:{user}:ns:two", fault, times=10)
        call = (lambda: asyncio.run(invalidate_async(proxy.url))) if is_async else (lambda: invalidate(proxy.url))
        with pytest.raises(StoreUnavailable) as caught:
            call()
    check(caught.value, "Before that, 1 values were deleted")
    assert "k" not in direct.use_namespace("one")
