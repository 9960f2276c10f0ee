"""External writes with redis-cli: JSON is read; any other text raises an error that names the key."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from redis_store import CorruptValue, KeyInfo, StoredDataError, UnsupportedEncoding, WrongKeyType
from redis_store.namespace.keys import UserKeys
from tests.support.sides import SIDES_OF_THE_HOST, Side

GOOD: dict[str, Any] = {
    ' { "a" : [ 1 , 2 ] }\n': {"a": [1, 2]},
    "12": 12,
    "1e3": 1000.0,
    "-0": 0,
    '"\\u00e9\\ud83e\\udd8a"': "é🦊",
    "123456789012345678901234567890": 123456789012345678901234567890,
    "[1.0, 18446744073709551616, 0.10000000000000000555]": [1.0, 2**64, 0.1],
    "null": None,
    '{"a":1,"a":2}': {"a": 2},
}
BAD = [
    b"", b" ", b"hello", b"'a'", b"{", b'{"a":1,}', b"[1 2]", b"nul", b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b"\xff\xfe",
    b'"\xff"', b'"\\ud800"', b"01", b"+1", b".5", b"\x00", b"\x02{}", b'"a\nb"', b"[" * 100_000, b"9" * 5000,
    '"é"'.encode("utf-16"), b"\xef\xbb\xbf1",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_externally_written_json_is_read(store: Side, raw: redis.Redis, keys: UserKeys, text: str) -> None:
    raw.hset(keys.data(b"default"), "key", text)
    expected = GOOD[text]
    assert repr(store.get("key")) == repr(expected)
    assert repr(store.get_many(["key"])) == repr({"key": expected})
    assert repr(store.get_all()) == repr({"key": expected})
    assert repr(dict(store.iter_items())) == repr({"key": expected})
    nobody = KeyInfo("key", None, None, None, None, {}, len(text.encode()), None)
    assert store.info("key") == nobody


def test_external_write_is_adopted(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    raw.hset(keys.data(b"default"), "key", "[1]")
    store.set("key", 2, metadata={"m": 1})
    assert store.get("key") == 2
    assert store.info("key").metadata == {"m": 1}
    assert store.info("key").created_by == "tester"
    assert store.list_namespaces() == ["default"]


@pytest.mark.parametrize("text", BAD, ids=lambda text: repr(text[:14]))
def test_invalid_json_is_corrupt(store: Side, raw: redis.Redis, keys: UserKeys, text: bytes) -> None:
    raw.hset(keys.data(b"name space"), "the key", text)
    namespace = store.use_namespace("name space")
    for read in (
        lambda: namespace.get("the key"),
        lambda: namespace.get_many(["the key"]),
        namespace.get_all,
        namespace.iter_items,
    ):
        with pytest.raises(CorruptValue) as caught:
            read()
        error = caught.value
        assert isinstance(error, (StoredDataError, ValueError))
        assert (error.namespace, error.key, error.first_bytes) == ("name space", "the key", text[:32])
        assert "'name space'" in str(error)
        assert "'the key'" in str(error)
        assert repr(text[:32]) in str(error)
    assert namespace.list_keys() == ["the key"]
    assert namespace.info("the key").size == len(text)
    namespace.set("the key", 1)
    assert namespace.get("the key") == 1


def test_one_corrupt_value_leaves_the_others(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    store.set("good", 1)
    raw.hset(keys.data(b"default"), "bad", "?")
    assert store.get("good") == 1
    assert store.get_many(["good"]) == {"good": 1}
    assert store.delete("bad") is True
    assert store.get_all() == {"good": 1}


def test_future_encoding_is_unsupported(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    raw.hset(keys.data(b"default"), "key", b"\x01\x00zipped")
    for read in (lambda: store.get("key"), lambda: store.get_many(["key"]), store.get_all, store.iter_items):
        with pytest.raises(UnsupportedEncoding, match="upgrade") as caught:
            read()
        assert (caught.value.namespace, caught.value.key) == ("default", "key")
        assert not isinstance(caught.value, CorruptValue)


def test_a_key_that_is_not_utf_8_is_listed(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    raw.hset(keys.data(b"default"), mapping={b"bad-\xff": "1", "good": "2"})
    assert store.list_keys() == ["bad-\\xff", "good"]
    assert store.get_all() == {"bad-\\xff": 1, "good": 2}


def test_externally_written_info_is_harmless(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    info_key = keys.namespace("default").info
    for text in ("", "?", "[1]", "{}", '{"metadata":[1]}', '{"created":"soon"}', '{"created":1e400}', "\xff"):
        store.set("key", 1)
        raw.hset(info_key, "key", text)
        try:
            found = store.info("key")
        except StoredDataError:
            pass
        else:
            assert (found.key, found.size) == ("key", 1)
        store.set("key", 2, metadata={"m": 1})
        assert store.get("key") == 2
        assert store.info("key").metadata == {"m": 1}
        store.delete("key")


READS: dict[str, Any] = {
    "get": lambda store: store.get("key"),
    "get_many": lambda store: store.get_many(["key"]),
    "iter_keys": lambda store: store.iter_keys(),
    "list_keys": lambda store: store.list_keys(),
    "list_keys(prefix)": lambda store: store.list_keys("a"),
    "get_all": lambda store: store.get_all(),
    "iter_items": lambda store: store.iter_items(),
    "info": lambda store: store.info("key"),
}


@pytest.mark.parametrize("read", READS)
def test_reading_a_key_of_another_type(store: Side, raw: redis.Redis, keys: UserKeys, read: str) -> None:
    raw.set(keys.data(b"default"), "a string")
    with pytest.raises(WrongKeyType) as caught:
        READS[read](store)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("side", SIDES_OF_THE_HOST, indirect=True)
@pytest.mark.parametrize("read", READS)
def test_the_key_of_another_type_is_named(store: Side, raw: redis.Redis, keys: UserKeys, read: str) -> None:
    raw.set(keys.data(b"default"), "a string")
    with pytest.raises(WrongKeyType) as caught:
        READS[read](store)
    assert caught.value.redis_key == keys.data(b"default").decode()
    assert keys.data(b"default").decode() in str(caught.value)


def test_a_registry_of_another_type(store: Side, raw: redis.Redis, keys: UserKeys) -> None:
    raw.set(keys.registry, "a string")
    with pytest.raises(WrongKeyType):
        store.list_namespaces()
