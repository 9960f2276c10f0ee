"""Bounds on single calls of an agent's store, so that the server serves others meanwhile. The host's own stores have none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_store import DataStore, limits
from redis_store.brokers import steps
from redis_store.brokers.lease import lease
from redis_store.changelog.ops import parts_to_note
from redis_store.errors import LimitExceeded
from redis_store.flows.hold import Taken
from redis_store.flows.optimistic import TransactionParts
from redis_store.namespace.access import Access
from redis_store.operations import operations_of
from redis_store.ops import listing
from redis_store.ops.bounds import Bound, ending
from redis_store.ops.run_script import run_script
from redis_store.scripts import EVICT
from tests.support.servers import Server

MOST = 100_000
BIG, HALF, SMALL = (b'"%b"' % (b"x" * size) for size in (MOST, MOST // 2, 100))
TOKEN = "token-of-mine"


@pytest.fixture
def store(server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(server.url, user)


@pytest.fixture
def texts(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataStore]:
    """The store of an agent whose scripts may copy little."""
    monkeypatch.setattr(limits, "MAX_SCRIPT_BYTES", MOST)
    monkeypatch.setattr(limits, "MAX_READ_BYTES", 2 * MOST)
    monkeypatch.setattr(limits, "MAX_STEP_BYTES", 4 * MOST)
    monkeypatch.setattr(limits, "MAX_CALL_KEYS", 10)
    with lease(store, user=store.user, namespace=store.namespace, max_read_bytes=10**9) as leased:
        yield leased.as_json_text()


def call(store: DataStore, operation: str, *arguments: object) -> object:
    return steps.carry_out(store, operation, *arguments)


def parts(*sets: bytes, expected: bytes = b"1") -> TransactionParts:
    return TransactionParts(
        [("default", "key", expected)], [("default", f"k{at}", text, None) for at, text in enumerate(sets)], [], {}
    )


REFUSED: dict[str, Callable[[DataStore], object]] = {
    "rename": lambda store: call(store, "rename", "big", "new"),
    "rename, bounded": lambda store: call(store.use_namespace("default", max_keys=5), "rename", "big", "new"),
    "set with metadata": lambda store: call(store, "set", "key", BIG, {"a": 1}, None),
    "set, bounded": lambda store: call(store.use_namespace("default", max_keys=5), "set", "key", BIG, None, None),
    "set_many, bounded": lambda store: store.use_namespace("default", max_keys=5).set_many({"a": HALF, "b": HALF}),
    "set_many with metadata": lambda store: store.set_many({"a": HALF, "b": HALF}, metadata={"a": 1}),
    "set_if_absent": lambda store: store.set_if_absent("new", BIG),
    "append to a big value": lambda store: store.append("big", b"1"),
    "append big items": lambda store: store.append("new", HALF),
    "append big items to a list": lambda store: [store.append("list", b'"%b"' % (b"x" * 20_000)) for _ in range(3)],
    "append, bounded list": lambda store: store.append("biglist", b"1", max_items=1),
    "increment": lambda store: store.increment("big", b"1"),
    "compare_and_set": lambda store: store.compare_and_set("key", HALF, HALF),
    "pop": lambda store: call(store, "pop", "big", BIG),
    "replace": lambda store: call(store, "replace", "big", HALF, HALF),
    "commit_value": lambda store: call(store, "commit_value", "key", TOKEN, BIG),
    "transaction": lambda store: call(store, "commit_transaction", parts(HALF, HALF)),
    "transaction, expected": lambda store: call(store, "commit_transaction", parts(HALF, expected=HALF)),
}

TAGS = [f"tag-{number}" for number in range(20)]


@pytest.fixture
def few(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataStore]:
    """The store of an agent whose calls may move 40 entries of tags, about, and free little."""
    monkeypatch.setattr(limits, "MAX_INFO_BYTES", 40_000)
    monkeypatch.setattr(limits, "MAX_FREED_BYTES", MOST)
    monkeypatch.setattr(limits, "MAX_RENAMED_BYTES", 1000)
    with lease(store, user=store.user, namespace=store.namespace, max_read_bytes=10**9) as leased:
        yield leased.as_json_text()


def compute(store: DataStore, key: str, tags: list[str]) -> None:
    """Store a computed value with tags."""
    call(store, "claim_value", key, TOKEN, None, None, 30, 0, tags)
    assert call(store, "commit_value", key, TOKEN, b"1", None, None, tags) is True


def sets_of(store: DataStore, keys: list[str]) -> TransactionParts:
    return TransactionParts([], [(store.namespace, key, b"2", None) for key in keys], [], {})


def refused(limit: str, work: Callable[[], object]) -> LimitExceeded:
    with pytest.raises(LimitExceeded) as caught:
        work()
    assert caught.value.limit == limit
    assert caught.value.facts["size_bytes"] > caught.value.facts["limit_bytes"]
    return caught.value


@pytest.mark.parametrize("work", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("server", ["fakeredis"], indirect=True)
def test_no_script_copies_more_for_an_agent(
    store: DataStore, texts: DataStore, work: Callable[[DataStore], object]
) -> None:
    store.as_json_text().set_many({"big": BIG, "biglist": b"[%b]" % BIG, "key": b"1"})
    before = store.get_many(["big", "biglist", "key", "new"])
    with pytest.raises(LimitExceeded) as caught:
        work(texts)
    assert (caught.value.limit, caught.value.facts["limit_bytes"]) == ("max_script_bytes", MOST)
    assert caught.value.facts["size_bytes"] > MOST
    assert store.get_many(["big", "biglist", "key", "new"]) == before


def test_values_of_any_size_are_still_set_read_compared_and_deleted(store: DataStore, texts: DataStore) -> None:
    """Where the value need not go through a script."""
    call(texts, "set", "big", b'"%b"' % (b"y" * 2_000_000), None, None)
    assert store["big"] == "y" * 2_000_000
    assert texts.get("big") == b'"%b"' % (b"y" * 2_000_000)
    call(texts, "set_many", {"one": BIG, "two": BIG, "small": b"1"}, None, None)
    assert store.get_many(["one", "small"]) == {"one": "x" * MOST, "small": 1}
    assert texts.compare_and_set("one", b"2", b"3") is False
    assert call(texts, "replace", "one", b"2", b"3") == (False, BIG)
    assert call(texts, "pop", "one", b"2") == (False, BIG)
    assert call(texts, "pop", "one") == (False, BIG)
    assert call(texts, "claim_value", "one", TOKEN) == (BIG,)
    assert texts.delete("one") is True


@pytest.mark.parametrize("size", [100, 65_536, 200_000])
def test_a_value_is_compared_whatever_its_size(store: DataStore, size: int) -> None:
    text = b'"%b"' % (b"x" * size)
    other = b'"%b"' % (b"y" * size)
    texts = store.as_json_text()
    texts.set("key", text)
    assert call(texts, "replace", "key", other, b"1") == (False, text)
    assert call(texts, "replace", "key", b"1", b"1") == (False, text)
    assert call(texts, "pop", "key", other) == (False, text)
    assert call(texts, "replace", "key", text, other) == (True, other)
    assert texts.pop("key") == other
    assert texts.pop("key", b"none") == b"none"


def test_reads_are_measured_before_the_server_builds_its_reply(store: DataStore, texts: DataStore) -> None:
    store.as_json_text().set_many({"one": BIG, "two": HALF, "three": BIG})
    assert texts.get_many(["one", "two", "none"]) == {"one": BIG, "two": HALF}
    with pytest.raises(LimitExceeded) as caught:
        texts.get_many(["one", "two", "three"])
    assert caught.value.limit == "max_read_bytes"
    store.as_json_text().set("huge", b'"%b"' % (b"x" * 3 * MOST))
    assert len(texts.get_many(["huge"])["huge"]) == 3 * MOST + 2, "as get does"


@pytest.mark.parametrize("server", ["fakeredis"], indirect=True)
def test_names_of_the_keys_of_one_call_are_measured(
    store: DataStore, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_CALL_NAME_BYTES", 1000)
    names = ["a" * 600, "b" * 600]
    with lease(store, user=user, namespace=store.namespace, max_read_bytes=10**9) as leased:
        for refused in (
            lambda: leased.set_many(dict.fromkeys(names, 1)),
            lambda: leased.get_many(names),
            lambda: leased.delete_many(names),
        ):
            with pytest.raises(LimitExceeded) as caught:
                refused()
            assert caught.value.limit == "max_call_name_bytes"
        leased.set("a" * 2000, 1)
        leased.set_many(dict.fromkeys([names[0], "b" * 400], 1))
    assert len(store.list_keys()) == 3


@pytest.mark.parametrize("server", ["fakeredis"], indirect=True)
def test_names_of_a_transaction_are_measured(store: DataStore, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CALL_NAME_BYTES", 1000)
    names = ["a" * 600, "b" * 600]
    with lease(store, user=user, namespace=store.namespace, max_read_bytes=10**9) as leased:
        for transaction in (
            sets_of(store, names),
            TransactionParts([], [], [(store.namespace, name) for name in names], {}),
            TransactionParts([(store.namespace, name, b"1") for name in names], [], [], {}),
        ):
            refused(
                "max_call_name_bytes",
                lambda parts=transaction: call(leased.as_json_text(), "commit_transaction", parts),
            )
    assert store.list_keys() == []


@pytest.mark.parametrize("server", ["fakeredis"], indirect=True)
def test_tags_of_one_value_are_measured_with_the_key_that_each_stores(store: DataStore, few: DataStore) -> None:
    compute(few, "key", TAGS)
    for key, tags in (("k" * 2000, TAGS), ("key", ["t" * 400 + tag for tag in TAGS])):
        refused(
            "max_info_bytes", lambda key=key, tags=tags: call(few, "claim_value", key, TOKEN, None, None, 30, 0, tags)
        )
        refused("max_info_bytes", lambda key=key, tags=tags: call(few, "renew_value", key, TOKEN, 30, tags))
        refused(
            "max_info_bytes", lambda key=key, tags=tags: call(few, "commit_value", key, TOKEN, b"1", None, None, tags)
        )
    assert store.list_keys() == ["key"]


def test_keys_with_tags_are_written_few_at_once(store: DataStore, few: DataStore) -> None:
    """Their entries in the tags move with them."""
    keys = ["one", "two", "three"]
    for key in keys:
        compute(few, key, TAGS)
    for work in (
        lambda: few.set_many(dict.fromkeys(keys, b"2")),
        lambda: few.set_many(dict.fromkeys(keys, b"2"), metadata={"a": 1}),
        lambda: few.use_namespace("default", max_keys=9).set_many(dict.fromkeys(keys, b"2")),
        lambda: call(few, "commit_transaction", sets_of(few, keys)),
    ):
        assert "Write fewer keys at once" in str(refused("max_info_bytes", work))
    assert store.get_all() == dict.fromkeys(keys, 1)
    assert few.set_many({"one": b"2", "new": b"2"}) == 2
    assert call(few, "commit_transaction", sets_of(few, ["two"])) == 1
    call(few, "set", "three", b"2", None, None)
    assert store.set_many(dict.fromkeys(keys, 3)) == 3, "the host may"
    assert few.delete_many(keys) == 3, "what is deleted moves nothing"
    assert store.invalidate_tag(TAGS[0]) == 0


def test_keys_with_long_metadata_are_written_few_at_once(store: DataStore, few: DataStore) -> None:
    keys = ["one", "two", "three"]
    store.set_many(dict.fromkeys(keys, 1), metadata={"a": "x" * 8000})
    refused("max_info_bytes", lambda: few.set_many(dict.fromkeys(keys, b"2")))
    assert few.set_many(dict.fromkeys(keys[:2], b"2")) == 2


@pytest.mark.parametrize("server", ["fakeredis"], indirect=True)
def test_a_key_with_tags_gets_no_long_name(store: DataStore, few: DataStore) -> None:
    compute(few, "key", TAGS)
    refused("max_renamed_bytes", lambda: call(few, "rename", "key", "n" * 51))
    assert store.list_keys() == ["key"]
    call(few, "rename", "key", "n" * 50)
    call(few, "rename", "n" * 50, "short")
    assert store.invalidate_tag(TAGS[3]) == 1


def test_values_are_replaced_or_deleted_few_at_once(store: DataStore, few: DataStore) -> None:
    """The server frees their memory."""
    keys = ["one", "two", "three"]
    compute(few, "one", ["tag"])
    compute(few, "two", ["tag"])
    store.as_json_text().set_many(dict.fromkeys(keys, HALF))
    for work in (
        lambda: few.set_many(dict.fromkeys(keys, b"2")),
        lambda: few.delete_many(keys),
        lambda: call(few, "commit_transaction", sets_of(few, keys)),
    ):
        refused("max_freed_bytes", work)
    assert len(store) == 3
    assert few.delete("three") is True
    assert call(few, "invalidate_tag", "tag", Access.of(["*"], ["*"])) == (2, 0), "one by one"


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_a_namespace_of_few_big_values_is_not_cleared_at_once(store: DataStore, few: DataStore) -> None:
    """The server frees those of more keys in the background."""
    store.as_json_text().set_many({"one": BIG, "two": SMALL})
    refused("max_freed_bytes", few.clear)
    assert few.delete("two") is True
    assert few.clear() == 1
    store.as_json_text().set_many({f"k{number}": b'"%b"' % (b"x" * 2000) for number in range(65)})
    assert few.clear() == 65


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_expired_entries_of_tags_are_deleted_a_few_at_a_time(store: DataStore, server: Server, raw_of: Any) -> None:
    """A call with a thousand tags finds those of others there."""
    texts, raw = store.as_json_text(), raw_of(server)
    redis_key = f"user:{store.user}:tag:tag"
    raw.zadd(redis_key, {f"7:default:old{number}": 1 for number in range(30)})
    compute(texts, "key", ["tag"])
    assert 30 - 2 * 10 + 1 - 2 <= raw.zcard(redis_key) <= 30 - 2 * 10 + 1, "the sweep of dead members may take two more"
    assert raw.ttl(redis_key) == -1


def test_a_tag_lives_as_long_as_its_last_value(store: DataStore, server: Server, raw_of: Any) -> None:
    raw, redis_key = raw_of(server), f"user:{store.user}:tag:tag"
    texts = store.as_json_text()

    def claim(key: str, period_s: int) -> float:
        call(texts, "claim_value", key, TOKEN, None, None, period_s, 0, ["tag"])
        return float(raw.pttl(redis_key)) / 1000

    assert 90 < claim("one", 100) <= 100
    assert 90 < claim("two", 50) <= 100
    assert 190 < claim("three", 200) <= 200
    call(texts, "commit_value", "one", TOKEN, b"1", None, None, ["tag"])
    assert raw.pttl(redis_key) == -1
    assert claim("four", 50) < 0
    assert raw.zscore(redis_key, "7:default:one") == float("inf")


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_a_tag_with_long_names_is_invalidated_page_by_page(store: DataStore) -> None:
    """Every value goes, also of namespaces whose other values have no tag; values that may not be written stay."""
    texts = store.as_json_text()
    for number in range(150):
        compute(texts.use_namespace(f"n{number % 3}"), f"{number:03}".ljust(3000, "x"), ["tag"])
    with lease(store, user=store.user, namespace="n0", max_read_bytes=10**9) as agent:
        assert call(agent.as_json_text(), "invalidate_tag", "tag", Access.of(["*"], ["n0", "n1"])) == (100, 50)
        assert steps.moved_bytes(agent) > 150 * 3000
    assert [len(store.use_namespace(f"n{number}")) for number in range(3)] == [0, 0, 50]
    assert store.invalidate_tag("tag") == 50


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
@pytest.mark.parametrize("what", ["names", "infos"])
def test_one_step_evicts_few_long_keys(store: DataStore, what: str) -> None:
    on = operations_of(store.use_namespace("long"))
    keys = [f"{number:03}".ljust(20_000 if what == "names" else 3, "x") for number in range(300)]
    metadata = {"a": "x" * 20_000} if what == "infos" else None
    store.use_namespace("long").set_many(dict.fromkeys(keys, 1), metadata=metadata)
    bound = Bound(on.scope.keys, 1, ())
    done = on.driver.run(run_script(EVICT, on.scope.script_keys, (*on.scope.script_head, *ending(*bound.arguments()))))
    _, left, moved = done
    assert 100 < left < 290
    assert 2 * 2**20 < moved < 4 * 2**20
    with lease(store, user=store.user, namespace="long", max_read_bytes=10**9) as agent:
        agent.use_namespace("long", max_keys=1).set("new", 1)
        assert steps.moved_bytes(agent) > 2 * 2**20
    assert store.use_namespace("long").list_keys() == ["new"]


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_namespaces_of_one_transaction_share_what_it_may_evict(store: DataStore, server: Server, raw_of: Any) -> None:
    names = [f"n{number}" for number in range(3)]
    for name in names:
        store.use_namespace(name).set_many({f"k{number}": 1 for number in range(700)})
    raw = raw_of(server)
    raw.config_resetstat()
    with store.transaction() as tx:
        for name in names:
            tx.use_namespace(name, max_keys=1).set("new", 1)
    stats = raw.info("commandstats")
    assert sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha")) > 3, (
        "the rest goes later"
    )
    assert [store.use_namespace(name).list_keys() for name in names] == [["new"]] * 3


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_the_queue_for_a_lock_has_an_end(store: DataStore, server: Server, raw_of: Any) -> None:
    """A script walks over the waiters that are dead."""
    raw, tokens = raw_of(server), [f"waiter-{number}" for number in range(10_000)]
    queue = f"user:{store.user}:queue:lock:name"
    assert isinstance(call(store, "acquire_lock", "name", TOKEN, 30, True), Taken)
    raw.rpush(queue, *tokens[1:])
    assert call(store, "acquire_lock", "name", tokens[0], 30, True).place == 9_999
    assert call(store, "acquire_lock", "name", "one-too-many", 30, True).place == 10_000
    assert raw.llen(queue) == 10_000
    assert raw.hlen(f"user:{store.user}:tries:lock:name") == 1
    assert call(store, "release_lock", "name", tokens[0]) is False
    assert call(store, "acquire_lock", "name", "one-too-many", 30, True).place == 9_999


def test_long_names_are_noted_in_parts() -> None:
    long = [bytes([number]) * 400_000 for number in range(5)]
    assert list(parts_to_note(long)) == [long[:2], long[2:4], long[4:]]
    assert [len(part) for part in parts_to_note([b"x"] * 1001)] == [500, 500, 1]
    assert list(parts_to_note([b"x" * 2_000_000])) == [[b"x" * 2_000_000]]
    assert list(parts_to_note([])) == []


def test_what_calls_move_beside_their_bytes_is_counted(store: DataStore, few: DataStore) -> None:
    assert steps.moved_bytes(few) == 0
    compute(few, "one", TAGS)
    assert steps.moved_bytes(few) > 2 * 20 * 512
    few.set_many({"one": b"2", "new": b"2"})
    assert steps.moved_bytes(few) > 20 * 512
    few.set_many({"new": b"2", "newer": b"2"})
    assert steps.moved_bytes(few) < 1000


def test_keys_of_one_call_are_counted(store: DataStore, texts: DataStore) -> None:
    keys = [f"k{number}" for number in range(11)]
    for work in (
        lambda: texts.get_many(keys),
        lambda: texts.delete_many(keys),
        lambda: texts.set_many(dict.fromkeys(keys, b"1")),
        lambda: texts.set_many(dict.fromkeys(keys, b"1"), metadata={"a": 1}),
    ):
        with pytest.raises(LimitExceeded) as caught:
            work()
        assert (caught.value.limit, caught.value.facts["limit_count"]) == ("max_call_keys", 10)
    with pytest.raises(LimitExceeded) as caught:
        texts.set_many(dict.fromkeys(keys[:5], BIG))
    assert (caught.value.limit, caught.value.facts["limit_bytes"]) == ("max_batch_bytes", 4 * MOST)
    assert texts.set_many({"one": b'"%b"' % (b"x" * 5 * MOST)}) == 1
    assert texts.delete("one") is True
    assert texts.set_many(dict.fromkeys(keys[:10], b"1")) == 10
    assert len(texts.get_many(keys[:10])) == texts.delete_many(keys[:10]) == 10


def test_the_host_has_no_such_bounds(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SCRIPT_BYTES", MOST)
    texts = store.as_json_text()
    texts.set("key", BIG, metadata={"a": 1})
    assert texts.rename("key", "new") is True
    texts.set("list", b"[%b]" % BIG)
    texts.append("list", BIG)
    assert store.pop("list") == ["x" * MOST] * 2


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_a_few_big_values_among_many_small_ones_are_found(store: DataStore) -> None:
    """A script that reads a small namespace whole copies it; a sample of its memory nearly always missed them."""
    on = operations_of(store)
    store.set_many(
        {**{f"k{number}": number for number in range(490)}, **{f"big{n}": "x" * 6_000_000 for n in range(3)}}
    )
    count, memory_bytes, whole = on.driver.run(listing._small(on.scope, "items"))
    assert (count, whole) == (493, None)
    assert memory_bytes > 18_000_000
    assert len(store.get_all()) == 493


@pytest.mark.parametrize("server", ["redis7"], indirect=True)
def test_pages_of_keys_are_small_where_their_values_come_along(store: DataStore) -> None:
    store.set_many({f"k{number}": "x" * 100_000 for number in range(100)})
    _, keys = store._operations.call("scan_page", "0", None)
    assert 0 < len(keys) < 50
    assert len(list(store.iter_keys())) == len(store.list_keys()) == 100


@pytest.mark.parametrize("server", ["fakeredis"], indirect=True)
def test_a_replacement_that_is_too_big_names_the_bound_on_both_values(store: DataStore, texts: DataStore) -> None:
    store.as_json_text().set("big", BIG)
    with pytest.raises(LimitExceeded) as caught:
        texts.compare_and_set("big", BIG, HALF)
    said = str(caught.value)
    assert f"takes {len(BIG):,} bytes and the new one {len(HALF):,}" in said
    assert f"at most {MOST:,} are allowed for both together" in said
    assert said.endswith("Keep the value in several keys, or replace it with set.")
