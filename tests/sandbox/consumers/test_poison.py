"""Changes that cannot be processed, nor be put aside whole: the consumer goes on behind every one of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

import sandbox
from redis_store import AsyncDataStore, DataStore, InvalidInput
from redis_store.values import rules
from tests.sandbox.conftest import wait_until
from tests.sandbox.consumers.conftest import OnChange, kinds

AGENT = """
    def run(input_dict):
        for change in input_dict["changes"]:
            if change["value"] == "bad":
                raise ValueError("bad")
            data_store.use_namespace("seen").set(change["key"], change["value"])
        return {}
"""


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_consumer_goes_on_behind_every_unreadable_or_too_deep_value(
    on_change: OnChange, store: DataStore, seen: DataStore, server_url: str, user: str
) -> None:
    by_hand = {
        "deeper": b"[" * 300 + b"]" * 300,
        "bottomless": b"[" * 100_000,
        "not packed": b"\x01junk",
        "badly packed": b"\x01\x28\xb5\x2f\xfdjunk",
        "nan": b"NaN",
        "surrogate": b'"\\ud800"',
        "no text": b'"\xff"',
        "digits": b"1" * 5000,
        "braces": b"{",
    }
    letters = store.use_namespace("dead-letter:c")
    with on_change(AGENT, retries=0), redis.Redis.from_url(server_url) as raw:
        store.set("deepest", nested(rules.MAX_DEPTH))
        raw.hset(f"user:{user}:ns:default", mapping=by_hand)
        raw.hset(f"user:{user}:ns:default", b"k\xff", b"1")
        wait_until(lambda: len(letters) == len(by_hand) + 1 and len(seen), "all others were put aside")
        store.set("after", 1)
        wait_until(lambda: "after" in seen, "the rest goes on")
    assert seen.get_all() == {"k\\xff": 1, "after": 1}
    found = {record["change"]["key"]: record for record in letters.get_all().values()}
    assert found.keys() == {"deepest", *by_hand}
    assert all("value" not in record["change"] for record in found.values())
    assert "nested deeper than" in found["deepest"]["left_out"]["value"]
    assert "is not JSON" in found["braces"]["left_out"]["value"]
    assert found["not packed"]["error"]["type"] == "UnsupportedEncoding"
    assert found["badly packed"]["error"]["type"] == "CorruptValue"
    with on_change(AGENT) as consumer:
        store.set("later", 1)
        wait_until(lambda: "later" in seen, "the cursor has passed all of them")
    assert len(store.use_namespace(consumer.dead_letters)) == len(found)


def test_dead_letter_of_the_last_resort_has_short_texts(
    on_change: OnChange, store: DataStore, server_url: str, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An external write decides about the length of keys and about everything in the log's entry."""
    put = AsyncDataStore.set

    async def put_small(self: AsyncDataStore, key: str, value: Any, *rest: Any, **options: Any) -> None:
        if len(json.dumps(value)) > 10_000:
            raise InvalidInput("too big")
        await put(self, key, value, *rest, **options)

    monkeypatch.setattr(AsyncDataStore, "set", put_small)
    letters = store.use_namespace("dead-letter:c")
    with on_change(AGENT, retries=0), redis.Redis.from_url(server_url) as raw:
        head = {"n": 0, "agent": "x" * 20_000, "run": nested(300)}
        raw.xadd(f"user:{user}:log:default", {"": json.dumps(head), "a": b's"bad"'})
        raw.hset(f"user:{user}:ns:default", mapping={"k" * 70_000 + end: '"bad"' for end in "12"})
        wait_until(lambda: len(letters) == 3, "all were put aside")
    by_key = {record["change"]["key"][:2]: record for record in letters.get_all().values()}
    assert by_key["a"]["change"]["agent"].startswith("xxx")
    assert by_key["a"]["change"]["run"] is None, "not a text"
    assert by_key["a"]["left_out"] == {"value": "too big", "ends of long texts": "too big"}
    assert by_key["kk"]["error"]["message"] == "Agent 'c' raised ValueError: bad"


def test_consumer_waits_while_a_dead_letter_is_refused(
    on_change: OnChange,
    store: DataStore,
    seen: DataStore,
    server_url: str,
    user: str,
    events: list[sandbox.ConsumerEvent],
    caplog: pytest.LogCaptureFixture,
) -> None:
    dead = f"user:{user}:ns:dead-letter:c"
    with on_change(AGENT, retries=0), redis.Redis.from_url(server_url) as raw:
        raw.set(dead, "not a hash")
        store.set("a", "bad")
        wait_until(lambda: "waiting" in kinds(events), "it cannot be put aside")
        store.set("b", 1)
        wait_until(lambda: "b" in seen, "other keys go on")
        raw.delete(dead)
        wait_until(lambda: "dead letter" in kinds(events), "now it can")
    said = [
        record.getMessage()
        for record in caplog.records
        if "a dead letter of consumer 'c' is refused" in record.getMessage()
    ]
    assert len(said) == 1
    assert "delete what is in the way in namespace 'dead-letter:c'" in said[0]
    assert [record["change"]["key"] for record in store.use_namespace("dead-letter:c").get_all().values()] == ["a"]


def test_unforeseen_error_of_a_run_puts_the_change_aside(
    on_change: OnChange, store: DataStore, seen: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sandbox.Sandbox.arun

    class Odd(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    async def break_on_bad(self: sandbox.Sandbox, source: Any, given: Any, **options: Any) -> sandbox.RunResult:
        if any(change["value"] == "bad" for change in given["changes"]):
            raise Odd
        return await run(self, source, given, **options)

    monkeypatch.setattr(sandbox.Sandbox, "arun", break_on_bad)
    with on_change(AGENT, retries=1) as consumer:
        store.set_many({"a": "bad", "b": 1})
        letters = store.use_namespace(consumer.dead_letters)
        wait_until(lambda: len(letters) and "b" in seen, "one is put aside, the other processed")
    (record,) = letters.get_all().values()
    assert record["error"]["type"] == "Odd"
