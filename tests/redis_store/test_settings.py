"""A store's settings, and where it looks for its server."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
import redis

import sandbox
from redis_store import AsyncClient, Client, InvalidInput, InvalidSettings, connect, connect_async
from redis_store.connections.address import DEFAULT_TIMEOUT_S, parse_address, without_secrets
from redis_store.limits import shown
from redis_store.namespace.scope import Writer
from redis_store.settings import EMBEDDED_VARIABLE, URL_VARIABLE, Settings, resolve_url
from tests.support.servers import Server


def test_the_argument_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, "redis://from-the-environment")
    assert URL_VARIABLE == "REDIS_URL"
    assert resolve_url("redis://given") == "redis://given"
    assert resolve_url(None) == "redis://from-the-environment"
    monkeypatch.setenv(URL_VARIABLE, "")
    assert resolve_url(None) is None
    monkeypatch.delenv(URL_VARIABLE)
    assert resolve_url(None) is None


def test_a_store_finds_the_url_of_the_environment(monkeypatch: pytest.MonkeyPatch, server_url: str, user: str) -> None:
    monkeypatch.setenv(URL_VARIABLE, server_url)
    with connect(user=user) as store:
        store.set("key", 1)
        assert store.url == server_url


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0}, {"timeout": -1}, {"timeout": "1"}, {"timeout": True}, {"timeout": float("inf")},
        {"timeout": float("nan")}, {"durability": "never"}, {"max_value_bytes": 0}, {"max_batch_bytes": 1.5},
        {"max_value_bytes": True}, {"log_entries": 0}, {"log_bytes": -1}, {"log_days": None}, {"configure_server": 1},
        {"near_cache": "yes"}, {"near_cache_bytes": 0}, {"near_cache_bytes": True},
        {"log_entries": 2**53 + 1}, {"log_days": 36_501}, {"log_bytes": 10**5000}, {"max_value_bytes": -(10**5000)},
        {"timeout": 10**5000}, {"compress_above": 10**5000}, {"log_values": 0},
    ],
    ids=shown,
)  # fmt: skip
def test_bad_settings(options: dict[str, Any]) -> None:
    for function in (connect, connect_async):
        with pytest.raises(InvalidSettings, match=next(iter(options))) as caught:
            function("redis://h", user="alice", **options)
        assert isinstance(caught.value, InvalidInput)


@pytest.mark.parametrize("function", [connect, connect_async])
def test_unknown_options(function: Any) -> None:
    with pytest.raises(TypeError, match=r"There is no option 'near_cach': did you mean 'near_cache'\?"):
        function("redis://h", user="alice", near_cach=True)
    names = "there are 'url', 'user', 'namespace', 'agent', 'run', 'timeout', "
    with pytest.raises(TypeError, match=f"There is no option 'x': {names}"):
        function("redis://h", user="alice", x=1)
    with pytest.raises(TypeError, match="user"):
        function("redis://h")


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings().url = "redis://"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "timeout_s", "expected"),
    [
        ("redis://h", None, DEFAULT_TIMEOUT_S),
        ("redis://h?socket_timeout=2.5", None, 2.5),
        ("redis://h?socket_timeout=2.5", 1, 1),
        ("unix:///s?socket_timeout=3", None, 3),
    ],
)
def test_which_timeout_counts(url: str, timeout_s: float | None, expected: float) -> None:
    address = parse_address(url, timeout_s)
    assert address.timeout_s == expected
    assert address.options["socket_timeout"] == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", {"host": "localhost", "port": 6379}),
        ("redis://:7/", {"host": "localhost", "port": 7}),
        ("redis://h:", {"host": "h", "port": 6379}),
        ("redis://h/0", {"db": 0}),
        ("redis://h/12", {"db": 12}),
        ("redis://h/12/", {"db": 12}),
        ("redis://h?db=2", {"db": 2}),
        ("redis://h/2?db=2", {"db": 2}),
        ("redis://[::1]:7/1", {"host": "::1", "port": 7, "db": 1}),
        ("redis://bob:p%40w%2F%3a@h:1234/3", {"username": "bob", "password": "p@w/:", "db": 3}),
        ("redis://b%C3%B6b@h", {"username": "böb"}),
        ("redis://:a+b@h", {"password": "a+b"}),
        ("redis://h?username=bob&password=p%2Bw", {"username": "bob", "password": "p+w"}),
        ("redis://h?client_name=me&socket_keepalive=no&socket_connect_timeout=3", {
            "client_name": "me", "socket_keepalive": False, "socket_connect_timeout": 3.0, "socket_timeout": 5.0,
        }),
        ("redis://h?socket_timeout=0.5", {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}),
        ("rediss://h:1/0?ssl_cert_reqs=none&ssl_check_hostname=no", {
            "ssl_cert_reqs": "none", "ssl_check_hostname": False,
        }),
        ("rediss://h?ssl_ca_certs=/a&ssl_ca_path=/b&ssl_ca_data=c&ssl_certfile=d&ssl_keyfile=e&ssl_password=f", {
            "ssl_ca_certs": "/a", "ssl_ca_path": "/b", "ssl_ca_data": "c", "ssl_certfile": "d", "ssl_keyfile": "e",
            "ssl_password": "f",
        }),
        ("rediss://h?ssl_min_version=772&ssl_ciphers=ALL", {"ssl_min_version": ssl.TLSVersion.TLSv1_3}),
        ("rediss://h?ssl_include_verify_flags=VERIFY_X509_STRICT&ssl_exclude_verify_flags=[VERIFY_CRL_CHECK_LEAF]", {
            "ssl_include_verify_flags": [ssl.VerifyFlags.VERIFY_X509_STRICT],
            "ssl_exclude_verify_flags": [ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF],
        }),
        ("valkey://bob:pw@h:7/3", {"username": "bob", "password": "pw", "host": "h", "port": 7, "db": 3}),
        ("valkeys://h?ssl_check_hostname=no", {"host": "h", "port": 6379, "ssl_check_hostname": False}),
        ("unix:///a%20b/redis.sock?db=2", {"path": "/a b/redis.sock", "db": 2}),
        ("unix://bob:pw@/path/to.sock", {"path": "/path/to.sock", "username": "bob", "password": "pw"}),
    ],
)  # fmt: skip
def test_what_a_url_says(url: str, expected: dict[str, Any]) -> None:
    address = parse_address(url, None)
    assert {name: address.options[name] for name in expected} == expected
    assert address.database == expected.get("db", 0)
    for connection in (address.new_connection(), address.new_async_connection()):
        assert (connection.encoder.decode_responses, connection.db) == (False, address.database)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://h", "must begin with redis://, rediss://, valkey://, valkeys://, unix://"),
        ("h:6379", "must begin with"),
        ("", "must be a non-empty str"),
        ("redis", "must begin with"),
        ("redis+cluster://h:1,", "has a node without a host"),
        ("redis+cluster://h:1/2", "a cluster has no database but 0"),
        ("redis+cluster://h:1,i:0", "there is no port 0"),
        ("redis://h:1,i:2", "write +cluster or +sentinel before the '://'"),
        ("redis://h:port", "host, port or %XX cannot be read"),
        ("redis://h:99999", "cannot be read"),
        ("redis://h:-1", "cannot be read"),
        ("redis://h:0", "there is no port 0"),
        ("redis://a:1,b:2/0", "several hosts"),
        ("redis://a,b/0", "several hosts"),
        ("redis://[::1/0", "cannot be read"),
        ("redis://bob:%ff@h", "%XX cannot be read"),
        ("redis://h/prod", "its path is no database"),
        ("redis://h/5abc", "its path is no database"),
        ("redis://h/1/foobar", "its path is no database"),
        ("redis://h/1/2", "its path is no database"),
        ("redis://h//1", "its path is no database"),
        ("redis://h//", "its path is no database"),
        ("redis://h/-1", "its path is no database"),
        ("redis://h/1.0", "its path is no database"),
        ("redis://h/1;x", "its path is no database"),
        ("redis://h/%D9%A1", "its path is no database"),
        ("redis://h/0#x", "a '#'"),
        (" redis://h", "must begin with"),
        ("redis://h/0\n", "white space"),
        ("redis://h/0 ", "white space"),
        ("redis://h\t/0", "control character"),
        ("unix://", "names no socket"),
        ("unix:///", "names no socket"),
        ("unix://tmp/redis.sock", "three slashes"),
        ("redis://h?nonsense=1", "'nonsense' does not exist"),
        ("redis://h?host=other", "'host' does not exist"),
        ("redis://h?path=/a", "'path' does not exist"),
        ("redis://h?parser_class=x", "'parser_class' does not exist"),
        ("redis://h?db=x", "'db' must be a whole number"),
        ("redis://h?db=-1", "'db' must be a whole number"),
        ("redis://h?db=1_0", "'db' must be a whole number"),
        ("redis://h?db=", "'db' must be a whole number"),
        ("redis://h?db", "'db' must be a whole number"),
        ("redis://h?db=1&db=2", "'db' twice"),
        ("redis://h/1?db=2", "'db' says something else"),
        ("redis://bob@h?username=alice", "'username' says something else"),
        ("redis://h?client_name=", "'client_name' must be a text"),
        ("redis://h?socket_timeout=0", "'socket_timeout' must be a number of seconds above 0"),
        ("redis://h?socket_timeout=-1", "'socket_timeout' must be"),
        ("redis://h?socket_timeout=inf", "'socket_timeout' must be"),
        ("redis://h?socket_timeout=nan", "'socket_timeout' must be"),
        ("redis://h?socket_timeout=5s", "'socket_timeout' must be"),
        ("redis://h?socket_connect_timeout=0", "'socket_connect_timeout' must be"),
        ("redis://h?socket_keepalive=off", "'socket_keepalive' must be yes or no"),
        ("unix:///s?socket_keepalive=yes", "not for sockets on this machine"),
        ("redis://h?ssl_ca_certs=/a", "for rediss:// and valkeys:// urls"),
        ("unix:///s?ssl_cert_reqs=none", "for rediss:// and valkeys:// urls"),
        ("valkey://h?ssl_ca_certs=/a", "for rediss:// and valkeys:// urls"),
        ("valkey://h/prod", "its path is no database"),
        ("rediss://h?ssl_cert_reqs=never", "none, optional or required"),
        ("rediss://h?ssl_check_hostname=maybe", "yes or no"),
        ("rediss://h?ssl_min_version=1.2", "771 for TLS 1.2"),
        ("rediss://h?ssl_include_verify_flags=NO_SUCH", "names of ssl.VerifyFlags"),
        ("rediss://h?ssl_validate_ocsp=yes", "revoked certificates are not looked up"),
        ("redis://h?max_connections=5", "'max_connections' has no effect here: a store opens a connection for each"),
        ("redis://h?health_check_interval=9", "'health_check_interval' has no effect here: the store checks"),
        ("redis://h?timeout=3", "Use socket_timeout"),
        ("redis://h?retry_on_timeout=yes", "decides itself what it repeats"),
        ("redis://h?protocol=3", "'protocol' has no effect here"),
        ("redis://h?decode_responses=yes", "values are JSON"),
    ],
)
def test_what_a_url_cannot_say(url: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (connect, connect_async):
        with pytest.raises(InvalidSettings) as caught:
            function(url, user="alice")
        assert reason in str(caught.value)
    if url:
        monkeypatch.setenv(URL_VARIABLE, url)
        with pytest.raises(InvalidSettings):
            connect(user="alice")


def test_every_option_that_redis_py_parses_is_known() -> None:
    """A new one must be carried out or refused with its reason."""
    for name in redis.connection.URL_QUERY_ARGUMENT_PARSERS:
        with pytest.raises(InvalidSettings) as caught:
            parse_address(f"rediss://h?{name}=%20", None)
        assert "does not exist" not in str(caught.value), name


def test_the_options_of_a_url_reach_the_server(server_url: str, user: str, raw_of: Any, one_server: Server) -> None:
    with connect(f"{server_url}?db=1&client_name=of-a-test", user=user) as store:
        store.set("key", 1)
        clients = raw_of(one_server).client_list()
        assert [client["db"] for client in clients if client["name"] == "of-a-test"] == ["1"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://bob:secret@h:1/3?password=secret", "redis://h:1/3"),
        ("redis://:secret@[::1]:7/0", "redis://[::1]:7/0"),
        ("rediss://h", "rediss://h"),
        ("valkeys://bob:secret@h:1/3?password=secret", "valkeys://h:1/3"),
        ("unix://bob:secret@/a/b.sock?password=secret", "unix:///a/b.sock"),
        ("redis://:12?secret@h", "redis://..."),
        ("redis://:12#secret@h", "redis://..."),
        ("redis://:12/secret@h", "redis://..."),
    ],
)
def test_a_url_as_it_is_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_agent_name_in_script_forms() -> None:
    assert Writer.of(None, None) == Writer("", "{")
    assert Writer.of("a", None) == Writer('"a"', '{"agent":"a",', '"a"')
    assert Writer.of("a", "r").log_head == '{"agent":"a","run":"r",'
    assert Writer.of(None, "r") == Writer("", '{"run":"r",', ',"run":"r"')
    assert Writer.of('a,"run":', "r").author == '"a,\\u0022run\\u0022:","run":"r"'
    tricky = Writer.of('"\\\n,"metadata":{é', None).agent_json
    assert tricky == '"\\u0022\\u005c\\n,\\u0022metadata\\u0022:{\\u00e9"'


def test_data_dir_may_be_text_or_a_path(tmp_path: Path, server_url: str) -> None:
    for folder in (tmp_path, str(tmp_path)):
        connect(server_url, user="alice", data_dir=folder).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["localhost", "localhost:6379", "redis.example.com:7/0", "redis.example.com", "[::1]:6379"]
)
def test_host_without_a_scheme(url: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        connect(url, user="alice")
    assert str(caught.value) == (
        f"The url {url!r} cannot be used: it must begin with redis://, rediss://, valkey://, valkeys://, unix://, redis+sentinel://,"
        " redis+cluster://."
        f" Write 'redis://{url}'."
    )


@pytest.mark.parametrize("url", ["alice:hunter2@localhost:6379", "hunter2", ":hunter2@localhost", "alice:hunter2"])
def test_text_that_may_be_a_password_is_not_shown(url: str) -> None:
    with pytest.raises(InvalidSettings, match="Write a url such as 'redis://localhost:6379'") as caught:
        connect(url, user="alice")
    assert "hunter2" not in str(caught.value)


@pytest.fixture
def without_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment without a server, and the folder that the embedded one would use."""
    for variable in (URL_VARIABLE, EMBEDDED_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("REDIS_STORE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


_WAYS = {
    "connect": lambda **options: connect(user="alice", **options),
    "connect_async": lambda **options: connect_async(user="alice", **options),
    "Client": lambda **options: Client(**options),
    "AsyncClient": lambda **options: AsyncClient(**options),
}


@pytest.mark.parametrize("way", _WAYS)
def test_the_embedded_server_is_refused(way: str, without_server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettings, match=r"embedded=False refuses the embedded server\. Set REDIS_URL"):
        _WAYS[way](embedded=False)
    with pytest.raises(InvalidSettings, match="embedded must be True, False or None"):
        _WAYS[way](embedded=0)
    for text in ("0", "no", "False", " off "):
        monkeypatch.setenv(EMBEDDED_VARIABLE, text)
        with pytest.raises(
            InvalidSettings, match=r"REDIS_STORE_EMBEDDED=0 refuses the embedded server\. Set REDIS_URL"
        ):
            _WAYS[way](data_dir=without_server)
    monkeypatch.setenv(EMBEDDED_VARIABLE, "maybe")
    with pytest.raises(InvalidSettings, match="REDIS_STORE_EMBEDDED must be 0 or 1, not 'maybe'"):
        _WAYS[way]()
    assert not without_server.exists()
    monkeypatch.setenv(EMBEDDED_VARIABLE, "0")
    monkeypatch.setenv(URL_VARIABLE, "redis://localhost:1")
    assert _WAYS[way](embedded=False).url == "redis://localhost:1"


@pytest.mark.parametrize("broker", ["thread", "process"])
def test_a_run_does_not_fall_back_to_the_embedded_server(
    broker: str, without_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EMBEDDED_VARIABLE, "0")
    with sandbox.Sandbox(broker=broker) as box, pytest.raises(InvalidSettings, match="REDIS_URL"):
        box.run("def run(): return {}", {}, user="alice").check()
    assert not without_server.exists()


@pytest.mark.server
def test_where_the_data_is_is_logged_once(
    without_server: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(EMBEDDED_VARIABLE, "0")
    with caplog.at_level(logging.INFO, "redis_store"):
        for _ in range(2):
            with Client(embedded=True) as client, connect(user="alice", embedded=True) as store:
                assert client.ping()
                assert store.get("k") is None
    lines = [record for record in caplog.records if "embedded server" in record.getMessage()]
    assert [record.levelno for record in lines] == [logging.INFO]
    assert str(without_server) in lines[0].getMessage()
    assert "REDIS_URL" in lines[0].getMessage()
