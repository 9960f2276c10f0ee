"""Names from callers, and the Redis keys built from them: reversible, collision-free, and always checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
import redis
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from redis_store import InvalidName, InvalidType, LimitExceeded
from redis_store.namespace.keys import (
    MAX_KEY_BYTES,
    MAX_NAMESPACE_BYTES,
    MAX_USER_BYTES,
    UserKeys,
    decode_name,
    encode_key,
    encode_name,
    encode_prefix,
    glob_for_prefix,
)

crafted = st.text(alphabet=":%{}*?[]\\ /.-_aA3nsiflog\n\x00é🦊", max_size=12)
names = st.one_of(st.text(min_size=1, max_size=20), crafted.filter(bool))
users = names.filter(lambda name: len(name.encode()) <= MAX_USER_BYTES)


def every_key(user: str, namespace: str, hash_tag: bool = False) -> set[bytes]:
    """Return all Redis keys of a user's namespace."""
    keys = UserKeys.of(user, hash_tag=hash_tag)
    space = keys.namespace(namespace)
    return {space.data, space.info, space.log, keys.registry}


@settings(max_examples=500)
@given(users)
@example(":")
@example("%3A")
@example("é")
def test_a_user_id_is_encoded_reversibly(user: str) -> None:
    prefix = UserKeys.of(user).prefix
    encoded = re.fullmatch(rb"user:([A-Za-z0-9_.%-]+):", prefix)
    assert encoded
    assert unquote_to_bytes(encoded[1]).decode() == user
    assert not re.search(rb"%[0-9A-F]?[a-f]", encoded[1]), "upper-case hex"
    assert UserKeys.of(user, hash_tag=True).prefix == b"user:{" + encoded[1] + b"}:"


@settings(max_examples=600)
@given(users, users, names, names)
@example("a", "a:ns", "ns:x", "x")
@example("a", "a:ns:b", "b:x", "x")
@example("a", "a", "info:x", "x")
def test_different_names_have_different_keys(user: str, other_user: str, name: str, other_name: str) -> None:
    assume((user, name) != (other_user, other_name))
    for hash_tag in (False, True):
        ours, theirs = every_key(user, name, hash_tag), every_key(other_user, other_name, hash_tag)
        assert len(ours) == 4
        shared = ours & theirs
        assert shared == ({UserKeys.of(user, hash_tag=hash_tag).registry} if user == other_user else set())


def every_name_key(keys: UserKeys, name: str) -> set[bytes]:
    """Return the Redis keys of all that has this name: a lock, a semaphore, a rate limit, a tag and a consumer."""
    raw = name.encode()
    both = (each(kind, raw) for kind in (b"lock", b"limit") for each in (keys.queue, keys.tries))
    places = keys.lock(raw), keys.limit(raw), keys.rate(raw), keys.tag(raw), keys.consumer_lock(name, raw)
    return {*places, *both, keys.consumer(name), keys.fence}


@settings(max_examples=150)
@given(users, users, users, names, names)
@example("a", "b", "c", "x", "own:b:lock:x")
@example("a", "b", "b:lock", "lock:x", "x")
@example("a", "b:own", "b", "x", "own:x")
def test_no_name_reaches_what_is_an_agents_own(
    user: str, agent: str, other_agent: str, name: str, other_name: str
) -> None:
    assume(agent != other_agent)
    for hash_tag in (False, True):
        keys = UserKeys.of(user, hash_tag=hash_tag)
        own = every_name_key(keys.own(agent), name)
        assert len(own) == 11
        others = every_name_key(keys, other_name) | every_name_key(keys.own(other_agent), other_name)
        others |= every_key(user, other_name, hash_tag)
        others |= {keys.namespace(other_name).flight, keys.namespace(other_name).seen, keys.barrier(other_name)}
        assert not own & others
        assert all(key.startswith(keys.prefix + b"own:") for key in own)


@given(users, names)
def test_a_namespace_stands_last_and_as_it_is(user: str, name: str) -> None:
    keys = UserKeys.of(user)
    space = keys.namespace(name)
    assert space.name == name.encode()
    assert space.data == keys.prefix + b"ns:" + name.encode() == keys.data(name.encode())
    assert space.info == keys.prefix + b"info:" + name.encode()
    assert space.log == keys.prefix + b"log:" + name.encode()
    assert space.registry == keys.prefix + b"namespaces"


def test_the_keys_of_the_design() -> None:
    keys = UserKeys.of("a b:é").namespace("files:my repo")
    assert keys.data == b"user:a%20b%3A%C3%A9:ns:files:my repo"
    assert UserKeys.of("AZaz09_.-").prefix == b"user:AZaz09_.-:"


@given(names)
def test_a_key_is_its_text_in_utf_8(key: str) -> None:
    assert decode_name(encode_key(key)) == key


@pytest.mark.parametrize(
    ("kind", "limit", "check"),
    [
        ("key", MAX_KEY_BYTES, encode_key),
        ("user id", MAX_USER_BYTES, UserKeys.of),
        ("namespace", MAX_NAMESPACE_BYTES, UserKeys.of("a").namespace),
        ("name", 10, lambda name: encode_name(name, "name", 10)),
    ],
)
def test_valid_and_invalid_names(kind: str, limit: int, check: Callable[[Any], object]) -> None:
    for good in ("a", "\x00", "\n", " ", "é" * (limit // 2), "x" * limit):
        check(good)
    for bad, error in (
        ("", InvalidName),
        ("a\ud800", InvalidName),
        ("x" * (limit + 1), LimitExceeded),
        ("é" * (limit // 2 + 1), LimitExceeded),
        (None, InvalidType),
        (1, InvalidType),
        (b"a", InvalidType),
    ):
        with pytest.raises(error, match=kind) as caught:
            check(bad)
        assert len(str(caught.value)) < 300
        assert str(caught.value).encode()


@given(st.binary(min_size=1, max_size=20))
def test_any_stored_name_can_be_shown(raw: bytes) -> None:
    shown = decode_name(raw)
    assert shown.encode()
    try:
        assert shown == raw.decode()
    except UnicodeDecodeError:
        assert "\\x" in shown


@pytest.fixture(scope="module")
def raw(servers: Any) -> Any:
    clients = [servers.get(kind).client() for kind in ("redis7", "valkey9")]
    yield clients
    for client in clients:
        client.close()


glob_text = st.text(alphabet="ab*?[]\\^-!{}\n\x00é", max_size=5)


@settings(max_examples=150)
@given(prefix=glob_text, fields=st.lists(st.tuples(st.booleans(), glob_text), min_size=1, max_size=12))
@example(prefix="\\", fields=[(True, "x"), (False, "x")])
@example(prefix="[a", fields=[(True, "]"), (False, "a")])
@example(prefix="*", fields=[(True, ""), (False, "a")])
def test_a_prefix_matches_literally_on_a_real_server(raw: list[redis.Redis], prefix: str, fields: list[Any]) -> None:
    names = {field for starts, text in fields if (field := prefix + text if starts else text)}
    assume(names)
    for client in raw:
        client.delete("globs")
        client.hset("globs", mapping=dict.fromkeys(names, "1"))
        found: set[bytes] = set()
        for field, _ in client.hscan_iter("globs", match=glob_for_prefix(prefix), count=1000):
            found.add(field)
        assert found == {name.encode() for name in names if name.startswith(prefix)}


@pytest.mark.parametrize("prefix", [1, b"a", True, ["a"]])
def test_a_prefix_of_another_type_is_refused(prefix: Any) -> None:
    with pytest.raises(InvalidType):
        encode_prefix(prefix)


def test_prefixes_that_match_everything() -> None:
    assert encode_prefix(None) == encode_prefix("") == ""
    with pytest.raises(InvalidName):
        encode_prefix("\ud800")
