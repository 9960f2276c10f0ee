"""`rediss://`: the same behaviour as without TLS, including the timeout."""

from __future__ import annotations

import asyncio
import datetime
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from redis_store import (
    ConnectionLost,
    DataStore,
    DataStoreError,
    InvalidSettings,
    StoreTimeout,
    StoreUnavailable,
    connect,
    connect_async,
)
from tests.redis_store.drivers.test_forks import check_own, forked
from tests.support.retries import in_time, in_time_async
from tests.support.servers import Server
from tests.support.threads import all_at_once

_NOW = datetime.datetime.now(datetime.UTC)
_DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority, which issues certificates into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self.path = str(folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.path)

    def server(self, host: str, **more: Any) -> dict[str, str]:
        """Return the settings of a server."""
        certificate, key = self.issue(host, **more)
        return {"cert-file": certificate, "key-file": key, "ca-cert-file": self.path, "auth-clients": "no"}

    def issue(self, host: str, **more: Any) -> tuple[str, str]:
        """Return the paths of a certificate and its key."""
        issued = self._authority.issue_cert(host, **more)
        name = secrets.token_hex(4)
        paths = str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(paths[0])
        issued.private_key_pem.write_to_path(paths[1])
        return paths


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def certificates(authority: Authority) -> dict[str, str]:
    """A certificate authority, and a server's certificate for localhost."""
    return authority.server("localhost")


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


def messages(url: str) -> list[str]:
    """Return what a thread and asyncio say when they cannot connect."""
    with connect(url, user="alice", timeout=0.5) as store, pytest.raises(StoreUnavailable) as caught:
        store.get("key")

    async def main() -> str:
        async with connect_async(url, user="alice", timeout=0.5) as store:
            with pytest.raises(StoreUnavailable) as caught:
                await store.get("key")
            assert caught.value.outcome_unknown is False
            return str(caught.value)

    return [str(caught.value), asyncio.run(main())]


@pytest.mark.parametrize(
    ("host", "more", "says"),
    [
        ("localhost", {"not_before": _NOW - 2 * _DAY, "not_after": _NOW - _DAY}, "has expired. Renew it on the server"),
        ("localhost", {"not_before": _NOW + _DAY, "not_after": _NOW + 2 * _DAY}, "is not valid yet. Check the clocks"),
        ("example.org", {}, "is for another host. Write a host of the certificate into the url"),
    ],
    ids=["expired", "not yet valid", "wrong host"],
)
def test_a_wrong_certificate_is_refused(
    start: Callable[..., Server], authority: Authority, host: str, more: dict[str, Any], says: str
) -> None:
    server = start("redis7", tls=authority.server(host, **more))
    for message in messages(f"{server.url}?ssl_ca_certs={authority.path}"):
        assert says in message
        assert "certificate verify failed" in message


def test_a_self_signed_certificate_is_refused_unless_given(
    start: Callable[..., Server], authority: Authority, tmp_path: Path
) -> None:
    certificate, key = self_signed(tmp_path)
    server = start("redis7", tls={**authority.server("localhost"), "cert-file": certificate, "key-file": key})
    for message in messages(server.url):
        assert "is self-signed and not trusted here" in message
        assert "?ssl_ca_certs=" in message
    with connect(f"{server.url}?ssl_ca_certs={certificate}", user="alice") as store:
        store.set("key", 1)


def self_signed(folder: Path) -> tuple[str, str]:
    certificate, key = str(folder / "self.pem"), str(folder / "self.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    subprocess.run([*command, *names, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


def test_the_other_scheme_is_advised(
    server: Server, start: Callable[..., Server], scheme_of: Callable[..., str]
) -> None:
    for plain, tls in (("redis", "rediss"), ("valkey", "valkeys")):
        for message in messages(scheme_of(server, plain)):
            assert f"If its port speaks TLS, write {tls}://" in message
    without = start("valkey9", tcp=True)
    for message in messages(scheme_of(without, "valkeys")):  # which waits for a line, so that time runs out
        assert "If its port does not speak TLS, write valkey://" in message
    with socket.create_server(("localhost", 0)) as other:
        answer = threading.Thread(target=answer_in_clear, args=(other,))
        answer.start()
        for message in messages(f"rediss://localhost:{other.getsockname()[1]}"):
            assert "does not speak TLS there. Write redis://" in message
        other.shutdown(socket.SHUT_RDWR)
        answer.join()


@pytest.fixture
def scheme_of() -> Callable[..., str]:
    return lambda server, scheme: f"{scheme}://{server.url.partition('://')[2]}"


def answer_in_clear(listening: socket.socket) -> None:
    with suppress(OSError):  # raised when it is shut down
        while True:
            with listening.accept()[0] as accepted, suppress(ConnectionError):
                accepted.recv(4096)
                accepted.sendall(b"-ERR unknown command\r\n")


def test_client_certificates(start: Callable[..., Server], authority: Authority, tmp_path: Path) -> None:
    server = start("redis7", tls={**authority.server("localhost"), "auth-clients": "yes"})
    url = f"{server.url}?ssl_ca_certs={authority.path}"
    for message in messages(url):
        assert "?ssl_certfile=/path/cert.pem&ssl_keyfile=/path/key.pem" in message
    (tmp_path / "other").mkdir()
    for wrong in (
        Authority(tmp_path / "other").issue("agent"),
        authority.issue("agent", not_before=_NOW - 2 * _DAY, not_after=_NOW - _DAY),
    ):
        for message in messages(f"{url}&ssl_certfile={wrong[0]}&ssl_keyfile={wrong[1]}"):
            assert "Check the dates of the one in ssl_certfile" in message
    certificate, key = authority.issue("agent")
    good = f"{url}&ssl_certfile={certificate}&ssl_keyfile={key}"
    with connect(good, user="alice", near_cache=True) as store, store.watch() as changes:
        store.set("key", 1)
        assert next(iter(changes)).value == 1
        assert store.get("key") == store.get("key") == 1
        assert store.stats().near_live

    async def main() -> None:
        async with connect_async(good, user="alice") as store:
            assert await store.get("key") == 1

    asyncio.run(main())


def test_files_that_cannot_be_used_are_refused_at_once(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("agent")
    _, another = authority.issue("agent")
    for options, says in (
        (f"ssl_ca_certs={tmp_path}/absent.pem", "ssl_ca_certs cannot be loaded .No such file"),
        (f"ssl_ca_certs={tmp_path}", "ssl_ca_certs cannot be loaded .Is a directory"),
        (f"ssl_ca_certs={key}", "ssl_ca_certs cannot be loaded .NO CERTIFICATE"),
        (f"ssl_ca_path={certificate}", "ssl_ca_path cannot be loaded .it is no folder"),
        (f"ssl_certfile={certificate}&ssl_keyfile={another}", "ssl_keyfile cannot be loaded .KEY VALUES MISMATCH"),
        (f"ssl_keyfile={key}", "no ssl_certfile: add"),
    ):
        for function in (connect, connect_async):
            with pytest.raises(InvalidSettings, match=says):
                function(f"rediss://h?{options}", user="alice")


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
