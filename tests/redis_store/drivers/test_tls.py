"""`rediss://`: the same behaviour as without TLS, including the timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from redis_store import ConnectionLost, DataStore, DataStoreError, StoreTimeout, connect, connect_async
from tests.redis_store.drivers.test_forks import check_own, forked
from tests.support.retries import in_time, in_time_async
from tests.support.servers import Server
from tests.support.threads import all_at_once

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A certificate authority, and a server's certificate for localhost."""
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return {
        "cert-file": str(folder / "cert.pem"),
        "key-file": str(folder / "key.pem"),
        "ca-cert-file": str(folder / "ca.pem"),
        "auth-clients": "no",
    }


@pytest.fixture
def server(start: Callable[..., Server], certificates: dict[str, str]) -> Server:
    return start("redis7", tls=certificates)  # the only test server that is built with TLS


@pytest.fixture
def url(server: Server, certificates: dict[str, str]) -> str:
    return f"{server.url}?ssl_ca_certs={certificates['ca-cert-file']}"


def test_a_store_over_tls(url: str) -> None:
    with connect(url, user="alice") as store:
        big = {f"key-{number}": "x" * 10_000 for number in range(1500)}
        store.set("key", {"a": 1})
        assert store.get("key") == {"a": 1}
        assert store.set_many(big, metadata={"m": 1}) == 1500
        assert store.get_many(big) == big
        assert store.get_all() == {**big, "key": {"a": 1}}
        all_at_once([lambda number=number: check_own(store, f"thread-{number}") for number in range(4)])
        wait = forked(lambda: check_own(store, "child"))
        check_own(store, "parent")
        wait()


def test_an_async_store_over_tls(url: str) -> None:
    async def main() -> None:
        async with connect_async(url, user="alice") as store:
            await asyncio.gather(*(store.set(f"key-{number}", number) for number in range(200)))
            answers = await asyncio.gather(*(store.get(f"key-{number}") for number in range(200)))
            assert answers == list(range(200))
            await store.set_many({f"key-{number}": "x" * 10_000 for number in range(1500)})
            assert len(await store.get_all()) == 1500
            tasks = [asyncio.ensure_future(store.get(f"key-{number}")) for number in range(50)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(result == "x" * 10_000 for result in results[1::2])
            assert await store.get("key-1") == "x" * 10_000

    asyncio.run(main())


def test_a_silent_server_over_tls(server: Server, url: str) -> None:
    with connect(url, user="alice", timeout=0.2) as store:
        in_time(lambda: store.set("key", 1))
        server.pause()
        try:
            with pytest.raises(StoreTimeout, match=r"within 0\.2 s\b") as caught:
                store.get("key")
            assert caught.value.outcome_unknown is False
            with pytest.raises(StoreTimeout) as caught:
                store.set("key", "x" * 30_000_000)
        finally:
            server.resume()
        assert in_time(lambda: store.get("key")) in (1, "x" * 30_000_000)

    async def main() -> None:
        async with connect_async(url, user="alice", timeout=0.2) as store:
            await in_time_async(lambda: store.get("key"))
            server.pause()
            try:
                with pytest.raises(StoreTimeout):
                    await store.get("key")
            finally:
                server.resume()
            assert await in_time_async(lambda: store.get("absent", 7)) == 7

    asyncio.run(main())


def test_a_write_to_a_silent_server_over_tls_is_in_doubt(server: Server, url: str) -> None:
    with connect(url, user="alice", timeout=0.2) as store:
        in_time(lambda: store.set("key", 1))
        server.pause()
        try:
            with pytest.raises(StoreTimeout) as caught:
                store.set("key", 2)
        finally:
            server.resume()
        assert caught.value.outcome_unknown is True


def test_a_connection_closed_while_idle_over_tls(server: Server, url: str, raw_of: Any) -> None:
    raw = raw_of(server)
    with connect(url, user="alice") as store:
        store.set("key", 1)
        raw.client_kill_filter(_type="normal", skipme=True)
        store.set("key", 2)
        raw.client_kill_filter(_type="normal", skipme=True)
        assert store.get("key") == 2
        server.kill()
        with pytest.raises(ConnectionLost) as caught:
            store.set("key", 3)
        assert caught.value.outcome_unknown is False


def test_an_untrusted_certificate_is_refused(server: Server) -> None:
    with connect(server.url, user="alice") as store, pytest.raises(ConnectionLost, match="certificate"):
        store.get("key")

    async def main() -> DataStoreError:
        async with connect_async(server.url, user="alice") as store:
            with pytest.raises(ConnectionLost, match="certificate") as caught:
                await store.get("key")
            return caught.value

    assert asyncio.run(main())


def test_the_near_cache_over_tls(url: str, open_store: Callable[..., DataStore]) -> None:
    near, plain = open_store(url, near_cache=True), open_store(url)
    for number in range(50):
        plain.set("k", ["x" * 50_000, number])
        assert near.get("k") == near.get("k") == ["x" * 50_000, number]
        near.set("k", number)
        assert near.get("k") == number
    assert near.stats().near_hits >= 50

    async def main() -> None:
        async with connect_async(url, user="alice", near_cache=True) as store:
            for number in range(20):
                plain.set("k", number)
                assert await store.get("k") == await store.get("k") == number
            assert store.stats().near_hits >= 20

    asyncio.run(main())
