"""Users on shared connections: whatever happens to one user's calls, no other user sees it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from redis_store import (
    AsyncClient,
    AsyncDataStore,
    Client,
    Conflict,
    DataStore,
    InvalidValue,
    LockTimeout,
    StoreUnavailable,
    WaitTimeout,
    WrongValueType,
)
from redis_store.near import side
from tests.redis_store.drivers.test_forks import forked
from tests.support.proxy import Fault, proxied
from tests.support.servers import Server
from tests.support.threads import all_at_once

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

USERS = side.MOST_USERS + 16
"""More than the near cache keeps at once, so that it starts over in the middle."""


class Part:
    """One user's calls, in which every value names the user, and what they must find."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.last = 0

    def value(self) -> list[Any]:
        self.last += 1
        return [self.name, self.last]

    def check(self, *found: Any) -> None:
        """Values that were written or read must be this user's, or missing."""
        for value in found:
            assert value is None or value[0] == self.name, (self.name, value)


async def _act(store: AsyncDataStore, part: Part, kind: int) -> None:
    match kind:
        case 0:
            part.check(await store.get("k"), *(await store.get_many(["k", "l", "m"])).values())
        case 1:
            await store.set("k", part.value())
            part.check(await store.get("k"))
        case 2:
            await store.set_many({"l": part.value(), "m": part.value()})
            part.check(*(await store.get_all()).values())
        case 3:
            part.check(await store.update("u", lambda value: [part.name, (value or [0, 0])[1] + 1]))
        case 4:
            async with store.transaction() as transaction:
                part.check(await transaction.get("k"))
                transaction.set("t", part.value())
        case 5:
            part.check(await store.get_or_set("c", lambda: part.value(), ttl=0.01))
        case 6:
            async with store.lock("l", timeout=10):
                part.check(await store.pop("k", None))
        case 7:
            await store.wait_for("never", timeout=0.01)
        case 8:
            with pytest.raises(InvalidValue):
                await store.set("k", {"no": object()})
            await store.set("text", [part.name])
            with pytest.raises(WrongValueType):
                await store.increment("text")
        case 9:
            assert set(await store.list_keys()) <= {"k", "l", "m", "u", "t", "c", "text", "n"}
            assert await store.list_namespaces() in ([], [store.namespace])


_KINDS = 10
_MAY_FAIL = (asyncio.CancelledError, Conflict, LockTimeout, WaitTimeout)


@pytest.mark.parametrize("near_cache", [False, True])
def test_users_of_an_event_loop_never_meet(near_cache: bool, one_server: Server, user: str) -> None:
    """Calls of all kinds, of all users at once, a third of them cancelled at any moment."""
    chance = random.Random(14)

    async def main() -> None:
        async with AsyncClient(one_server.url, near_cache=near_cache) as client:
            parts = [Part(f"{user}-{number}") for number in range(USERS)]
            for _ in range(6):
                tasks = []
                for part in parts:
                    store = client.store(user=part.name, agent=part.name)
                    tasks += [asyncio.ensure_future(_act(store, part, chance.randrange(_KINDS))) for _ in range(2)]
                chance.shuffle(tasks)
                for number, task in enumerate(tasks):
                    if chance.random() < 0.33:
                        task.cancel()
                    if number % 20 == 0:
                        await asyncio.sleep(0)
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    if outcome is not None and not isinstance(outcome, _MAY_FAIL):
                        raise outcome
            for part in parts:
                store = client.store(user=part.name)
                part.check(*(await store.get_all()).values())
                for key in ("k", "l"):
                    info = await store.info(key)
                    assert info is None or info.updated_by in (part.name, None)

    asyncio.run(main())


@pytest.mark.parametrize("near_cache", [False, True])
def test_users_of_threads_never_meet(near_cache: bool, one_server: Server, user: str) -> None:
    """Four connections, and twelve threads that change between the users; two watch what one user gets."""
    with Client(one_server.url, near_cache=near_cache, max_connections=4, timeout=20) as client:
        parts = [Part(f"{user}-{number}") for number in range(USERS)]
        over = threading.Event()

        def work(number: int) -> None:
            chance = random.Random(number)
            for part in chance.sample(parts, 40):
                _act_blocking(client.store(user=part.name), part, chance.randrange(6))

        def watch(part: Part) -> None:
            with client.store(user=part.name).watch() as changes:
                while not over.is_set():
                    for change in changes.take(100, timeout=0.05):
                        part.check(change.value)

        def all_work() -> None:
            try:
                all_at_once([lambda number=number: work(number) for number in range(12)])  # type: ignore[misc]
            finally:
                over.set()

        all_at_once([all_work, lambda: watch(parts[0]), lambda: watch(parts[1])])
        for part in parts:
            part.check(*client.store(user=part.name).get_all().values())


def _act_blocking(store: DataStore, part: Part, kind: int) -> None:
    match kind:
        case 0:
            part.check(store.get("k"), *store.get_many(["k", "l"]).values())
        case 1:
            store.set("k", part.value())
            part.check(store.get("k"))
        case 2:
            store.set_many({"l": part.value(), "m": part.value()})
            part.check(*store.get_all().values())
        case 3:
            part.check(store.update("u", lambda value: [part.name, (value or [0, 0])[1] + 1]))
        case 4:
            with store.transaction() as transaction:
                transaction.set("t", [part.name, transaction.get("absent")])
        case 5:
            with store.lock("l", timeout=20):
                part.check(store.get_or_set("c", part.value))


@pytest.mark.parametrize("fault", [Fault.CUT_AFTER, Fault.CUT_IN_REPLY, Fault.CUT_BEFORE])
def test_a_broken_connection_of_one_user_gives_nothing_to_another(fault: Fault, one_server: Server, user: str) -> None:
    async def main(url: str, strike: Callable[[], object]) -> None:
        async with AsyncClient(url) as client:
            stores = [client.store(user=f"{user}-{number}") for number in range(30)]
            await asyncio.gather(*(store.set("k", number) for number, store in enumerate(stores)))
            strike()
            calls: list[Awaitable[Any]] = [store.get("k") for store in stores]
            calls.insert(10, stores[10].set("struck", "value"))
            found = await asyncio.gather(*calls, return_exceptions=True)
            del found[10]
            for number, value in enumerate(found):
                assert value == number or isinstance(value, StoreUnavailable)
            assert [await store.get("k") for store in stores] == list(range(30))

    with proxied(one_server) as proxy:
        asyncio.run(main(proxy.url, lambda: proxy.strike("struck", fault)))


def test_forked_children_share_a_client_with_their_parent(one_server: Server, user: str) -> None:
    """As with gunicorn's preload: the client was used in the parent, and children and parent go on at once."""
    with Client(one_server.url, near_cache=True, max_connections=2) as client:

        def work(name: str) -> None:
            store = client.store(user=f"{user}-{name}")
            for number in range(60):
                store.set("k", [name, number])
                assert store.get("k") == store.get("k") == [name, number]

        work("parent")
        waits = [forked(lambda number=number: work(f"child-{number}")) for number in range(3)]  # type: ignore[misc]
        work("parent")
        for wait in waits:
            wait()
        assert client.store(user=f"{user}-child-0").get("k") == ["child-0", 59]
