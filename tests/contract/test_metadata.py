"""Metadata: merged into the key's existing metadata, singly and in batches, even with concurrent writers."""

from __future__ import annotations

import threading

import pytest

from redis_store import InvalidType, InvalidValue, LimitExceeded
from tests.support.servers import KINDS_WITH_TTL
from tests.support.sides import OpenSide, Side


def test_metadata_is_merged(store: Side) -> None:
    store.set("key", 1, metadata={"a": 1, "b": [1, {"c": None}]})
    store.set("key", 2, metadata={"b": 2, "d": "é\n\x00"})
    store.set("key", 3, {"e": {}})
    assert store.get("key") == 3
    assert store.info("key").metadata == {"a": 1, "b": 2, "d": "é\n\x00", "e": {}}


def test_merging_is_of_the_top_level_only(store: Side) -> None:
    store.set("key", 1, metadata={"a": {"x": 1}})
    store.set("key", 1, metadata={"a": {"y": 2}})
    assert store.info("key").metadata == {"a": {"y": 2}}


def test_a_write_without_metadata_keeps_it(store: Side) -> None:
    store.set("key", 1, metadata={"a": 1})
    store.set("key", 2)
    store.set("key", 3, metadata={})
    store.set("key", 3, metadata=None)
    store.set_many({"key": 4})
    store.set_many({"key": 5}, metadata={})
    assert store.info("key").metadata == {"a": 1}
    assert store.get("key") == 5


def test_metadata_of_numbers_is_exact(store: Side) -> None:
    metadata = {"big": 2**70, "digits": 10**300, "float": 0.1, "minus": -0.0, "empty": [], "text": ',"metadata":{"}'}
    store.set("key", 1, metadata=metadata)
    store.set("key", 1, metadata={"more": []})
    assert repr(store.info("key").metadata) == repr({**metadata, "more": []})


def test_a_batch_merges_metadata_into_each_key(store: Side) -> None:
    store.set("a", 0, metadata={"own": "a", "both": 0})
    store.set("untouched", 0, metadata={"x": 1})
    assert store.set_many({"a": 1, "b": 2}, metadata={"both": 1, "batch": True}) == 2
    assert store.info("a").metadata == {"own": "a", "both": 1, "batch": True}
    assert store.info("b").metadata == {"both": 1, "batch": True}
    assert store.info("untouched").metadata == {"x": 1}


def test_a_batch_of_several_scripts_merges_metadata(store: Side) -> None:
    assert store.set_many({f"k{n}": n for n in range(2500)}, metadata={"first": 1}) == 2500
    store.set("k1700", "own", metadata={"own": 1})
    assert store.set_many({f"k{n}": -n for n in range(2501)}, metadata={"second": 2}) == 2501
    assert store.get_all() == {f"k{n}": -n for n in range(2501)}
    for key, expected in {
        "k0": {"first": 1, "second": 2},
        "k1700": {"first": 1, "own": 1, "second": 2},
        "k2499": {"first": 1, "second": 2},
        "k2500": {"second": 2},
    }.items():
        assert store.info(key).metadata == expected


@pytest.mark.parametrize("side", ["sync"], indirect=True)
def test_concurrent_writers_lose_no_metadata(open_side: OpenSide, user: str) -> None:
    stores = [open_side(user, agent=f"writer-{number}") for number in range(4)]
    stores[0].set_many({f"k{n}": 0 for n in range(1200)})
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for round_ in range(5):
                stores[number].set("k7", number, metadata={f"set-{number}-{round_}": 1})
                stores[number].set_many({"k7": number, "k8": 1}, metadata={f"few-{number}-{round_}": 1})
            if number == 0:
                stores[number].set_many({f"k{n}": 1 for n in range(1200)}, metadata={"many": 1})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    expected = {f"{kind}-{n}-{r}" for kind in ("set", "few") for n in range(4) for r in range(5)} | {"many"}
    assert set(stores[0].info("k7").metadata) == expected
    assert stores[0].info("k1100").metadata == {"many": 1}


@pytest.mark.parametrize("metadata", [[], "text", 1, [("a", 1)], True, b"x"], ids=repr)
def test_metadata_must_be_a_dict(store: Side, metadata: object) -> None:
    with pytest.raises(InvalidType, match="dict"):
        store.set("key", 1, metadata=metadata)
    with pytest.raises(InvalidType, match="dict"):
        store.set_many({"key": 1}, metadata=metadata)
    assert store.list_keys() == []


def test_metadata_is_checked_like_a_value(store: Side) -> None:
    with pytest.raises(InvalidValue):
        store.set("key", 1, metadata={"a": {1, 2}})
    with pytest.raises(InvalidValue):
        store.set_many({"key": 1}, metadata={"a": float("nan")})
    with pytest.raises(LimitExceeded):
        store.set("key", 1, metadata={"a": "x" * 70_000})
    assert store.list_keys() == []


@pytest.mark.parametrize("server", KINDS_WITH_TTL, indirect=True)
def test_a_ttl_and_metadata_together(store: Side) -> None:
    store.set("key", 1, metadata={"a": 1}, ttl=100)
    store.set("key", 2, metadata={"b": 2}, ttl=200)
    info = store.info("key")
    assert info.metadata == {"a": 1, "b": 2}
    assert 190 < (info.expires_at - info.updated_at).total_seconds() <= 200


def test_merged_metadata_keeps_to_its_limit(store: Side) -> None:
    store.set("key", 1, metadata={"first": "x" * 60_000})
    for write in (
        lambda: store.set("key", 2, metadata={"second": "y" * 60_000}),
        lambda: store.set_many({"key": 2}, metadata={"second": "y" * 60_000}),
    ):
        with pytest.raises(LimitExceeded, match="metadata"):
            write()
    assert store.get("key") == 1
    assert list(store.info("key").metadata) == ["first"]


def test_infos_of_several_keys(store: Side) -> None:
    store.set("a", 1, metadata={"m": 1})
    store.set("b", "x")
    found = store.infos(["b", "none", "a", "b"])
    assert list(found) == ["b", "a"]
    assert found == {"a": store.info("a"), "b": store.info("b")}
    assert store.infos([]) == {}


def test_whether_a_key_is_there_and_how_many_are(store: Side) -> None:
    assert not store.contains("a")
    assert store.count() == 0
    store.set_many({"a": None, "b": 2})
    assert store.contains("a")
    assert not store.contains("c")
    assert store.count() == 2
