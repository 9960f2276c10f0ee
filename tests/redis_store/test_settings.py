"""A store's settings, and where it looks for its server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redis_store import InvalidInput, InvalidSettings, connect, connect_async
from redis_store.connections.address import DEFAULT_TIMEOUT_S, parse_address, without_secrets
from redis_store.namespace.scope import Writer
from redis_store.settings import URL_VARIABLE, Settings, resolve_url


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
    ],
    ids=repr,
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
    with pytest.raises(TypeError, match="There is no option 'x': there are 'namespace', 'agent', 'run', 'timeout', "):
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


def test_every_option_of_redis_py_may_stand_in_a_url() -> None:
    for url in (
        "redis://bob:pw@h:1234/3?client_name=me&socket_keepalive=yes&socket_connect_timeout=3&health_check_interval=9",
        "redis://h/0?max_connections=5&retry_on_timeout=yes&decode_responses=yes&encoding=latin-1&protocol=3",
        "rediss://h:1/0?ssl_cert_reqs=none&ssl_check_hostname=no",
        "unix://bob:pw@/path/to.sock?db=2",
    ):
        address = parse_address(url, None)
        connection = address.new_connection()
        assert (connection.encoder.decode_responses, address.options["protocol"]) == (False, 2)
        assert address.new_async_connection()
    assert parse_address("redis://bob:p%40w@h:1234/3", None).new_connection().db == 3
    assert parse_address("redis://bob:p%40w@h:1234/3", None).new_connection().password == "p@w"


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "h:6379",
        "",
        "redis",
        "redis://h:port",
        "redis://h?nonsense=1",
        "redis://h?db=x",
        "redis+cluster://h:1",
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(InvalidSettings):
        connect(url, user="alice")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://bob:secret@h:1/3?password=secret", "redis://h:1/3"),
        ("redis://:secret@[::1]:7/0", "redis://[::1]:7/0"),
        ("rediss://h", "rediss://h"),
        ("unix://bob:secret@/a/b.sock?password=secret", "unix:///a/b.sock"),
    ],
)
def test_a_url_as_it_is_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_agent_name_in_script_forms() -> None:
    assert Writer.of(None, None) == Writer("", "{")
    assert Writer.of("a", None) == Writer('"a"', '{"agent":"a",')
    assert Writer.of("a", "r").log_head == '{"agent":"a","run":"r",'
    assert Writer.of(None, "r") == Writer("", '{"run":"r",')
    tricky = Writer.of('"\\\n,"metadata":{é', None).agent_json
    assert tricky == '"\\u0022\\u005c\\n,\\u0022metadata\\u0022:{\\u00e9"'


def test_data_dir_may_be_text_or_a_path(tmp_path: Path, server_url: str) -> None:
    for folder in (tmp_path, str(tmp_path)):
        connect(server_url, user="alice", data_dir=folder).close()
    assert list(tmp_path.iterdir()) == []
