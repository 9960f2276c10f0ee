"""The store as agents see it: the whole API, with the same errors as on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import redis_store
import sandbox
from redis_store import DataStore


def test_whole_api(run: Any, store: DataStore, user: str) -> None:
    result = run(
        """
        from collections.abc import MutableMapping
        from datetime import datetime, timedelta

        async def run(input_dict, tools):
            d = data_store
            assert d.get("k") is None and d.get("k", default={}) == {} and d.get("k", 5) == 5
            assert d.set("k", {"data": [1, 2.5, None, True, "é"]}) is None
            assert d.get("k") == {"data": [1, 2.5, None, True, "é"]}
            d.set("null", None)
            assert d.get("null", 5) is None and "null" in d
            assert d.delete("null") is True and d.delete("null") is False
            d.set("file:b", 2); d.set("file:a", 1); d.set("file*", 3)
            assert d.list_keys() == ["file*", "file:a", "file:b", "k"]
            assert d.list_keys(prefix="file:") == ["file:a", "file:b"] and d.list_keys("file*") == ["file*"]
            assert sorted(d.iter_keys("file:")) == ["file:a", "file:b"]
            assert dict(d.iter_items(prefix="file:")) == {"file:a": 1, "file:b": 2}
            assert d.get_many(["file:b", "none", "file:a"]) == {"file:b": 2, "file:a": 1}
            assert d.get_many([]) == {} and d.set_many({}) == 0 and d.delete_many([]) == 0
            assert d.get_all("file:") == {"file:a": 1, "file:b": 2}
            assert d.set_many({"m1": 1, "m2": [2]}, metadata={"by": "test"}) == 2
            assert d.delete_many(["m1", "none"]) == 1
            info = d.info("m2")
            assert info.key == "m2" and info.metadata == {"by": "test"} and info.created_by == "agent"
            assert isinstance(info.created_at, datetime) and info.created_at.tzinfo and info.size == 3
            assert info.expires_at is None and d.info("none") is None
            files = d.use_namespace("files:repo")
            files.set("a", 10 ** 30)
            assert files.get("a") == 10 ** 30 and files.namespace == "files:repo" and d.get("a") is None
            assert d.list_namespaces() == ["default", "files:repo"] and d.list_namespaces("files:") == ["files:repo"]
            assert files.clear() == 1 and files.list_keys() == [] and d.list_namespaces() == ["default"]
            assert isinstance(d, MutableMapping) and bool(files) is True and len(files) == 0
            files["x"] = 1
            assert files["x"] == 1 and "x" in files and 5 not in files and list(files) == ["x"] and len(files) == 1
            files.update({"y": 2}, z=3)
            assert dict(files) == {"x": 1, "y": 2, "z": 3} and sorted(files.values()) == [1, 2, 3]
            assert files.setdefault("w", 4) == 4 and files.pop("w") == 4 and files.pop("w", None) is None
            assert sorted(files.items()) == [("x", 1), ("y", 2), ("z", 3)] and sorted(files.keys()) == ["x", "y", "z"]
            del files["x"]
            for wrong in (lambda: files["x"], lambda: files.pop("x"), lambda: files.__delitem__("x")):
                try:
                    wrong()
                except KeyError as error:
                    assert error.args == ("x",)
                else:
                    raise AssertionError("no KeyError")
            assert repr(files) == f"<DataStore user={d.user!r} namespace='files:repo'>"
            assert files != d and files == files and len({files, d}) == 2
            return {}
        """
    )
    result.check()
    assert store.get("k") == {"data": [1, 2.5, None, True, "é"]}
    assert store.user == user


def test_many_keys_are_paged(run: Any, store: DataStore) -> None:
    store.set_many({f"k{n}": n for n in range(3000)})
    result = run(
        """
        def run():
            return {
                "keys": len(set(data_store.iter_keys())),
                "items": sum(dict(data_store.iter_items()).values()),
                "all": len(data_store.get_all()),
                "list": len(data_store.list_keys("k1")),
                "many": len(data_store.get_many(f"k{n}" for n in range(5000))),
            }
        """
    )
    assert result.check() == {"keys": 3000, "items": sum(range(3000)), "all": 3000, "list": 1111, "many": 3000}
    assert len([o for o in result.operations if o.operation == "scan_page"]) > 1


def test_big_values(run: Any, store: DataStore) -> None:
    result = run("def run():\n    data_store.set('k', 'x' * 20_000_000)\n    return {'n': len(data_store.get('k'))}\n")
    assert result.check() == {"n": 20_000_000}


BAD_CALLS = [
    "set('k', {1})",
    "set('k', {'a': [1, b'']})",
    "set('k', float('nan'))",
    "set('k', 10**5000)",
    "set('k', '\\ud800')",
    "set('k', __import__('datetime').datetime.now())",
    "set('k', 1, metadata=[1])",
    "set('k', 1, metadata={'a': {1}})",
    "set('k', 1, metadata={'a': 'x' * 100_000})",
    "set('k', 1, metadata={'a': 'x' * 2_000_000})",
    "set('k', 1, ttl=0)",
    "set('k', 1, ttl='5')",
    "set('k', 1, ttl=True)",
    "set('k', 1, ttl=float('nan'))",
    "set('', 1)",
    "set(5, 1)",
    "set('\\ud800', 1)",
    "set('k' * 70_000, 1)",
    "get(None)",
    "get('')",
    "get(b'k')",
    "delete(1.5)",
    "info(())",
    "list_keys(prefix=5)",
    "list_keys('\\ud800')",
    "list_namespaces(5)",
    "get_many('abc')",
    "get_many([1])",
    "get_many(5)",
    "get_many([''])",
    "delete_many('abc')",
    "set_many([('a', 1)])",
    "set_many({'a': {1}})",
    "set_many({1: 1})",
    "set_many({'a': 1}, ttl=-1)",
    "use_namespace('')",
    "use_namespace(5)",
    "use_namespace('x' * 2000)",
    "use_namespace('\\ud800')",
    "get()",
    "pop('none')",
    "__getitem__(5)",
    "expire('k', 0)",
    "expire('k', '5')",
    "expire('', 5)",
    "persist(5)",
    "increment('k', '1')",
    "increment('k', {1})",
    "increment('', 1)",
    "append('k', 1, {1})",
    "append('k', [float('nan')])",
    "append('k', 1, max_items=0)",
    "append('k', 1, max_items='2')",
    "append(5, 1)",
    "set_if_absent('k', {1})",
    "set_if_absent('', 1)",
    "set_if_absent('k', 1, ttl=0)",
    "compare_and_set('k', {1}, 1)",
    "compare_and_set('k', 1, {1})",
    "compare_and_set(5, 1, 1)",
    "rename('', 'k')",
    "rename('k', 5)",
    "pop('')",
    "pop(5)",
    "update('k', 5)",
    "update('k')",
    "update('k', lambda _: {1})",
    "update('', len)",
    "get_or_set('', dict)",
    "get_or_set('k', 5)",
    "get_or_set('k', dict, ttl=0)",
    "get_or_set('k', dict, stale=5)",
    "get_or_set('k', dict, lock_timeout=0)",
    "get_or_set('k', dict, tags='tag')",
    "get_or_set('k', dict, tags=[5])",
    "get_or_set('k', lambda: {1})",
    "cached()(5)",
    "cached(tags='tag')",
    "cached(version=1.5)",
    "cached()(__import__('json').loads)({1})",
    "invalidate_tag('')",
    "invalidate_tag(5)",
    "transact(lambda t: t.set('k', {1}))",
    "transact(lambda t: t.get(''))",
    "transact(lambda t: [t.set(f'k{n}', n) for n in range(1001)])",
    "transact(lambda t: t.use_namespace(''))",
    "transaction().use_namespace('x', ttl=0)",
    "lock('')",
    "lock(5)",
    "lock('l', ttl=0)",
    "lock('l', timeout='1')",
    "lock('l', timeout=-1)",
    "lock('x' * 2000)",
    "lock('l').fence",
    "lock('l').release()",
    "semaphore('s', 0)",
    "semaphore('s', 1.5)",
    "semaphore('s', 1, ttl=None)",
    "rate_limit('r', 1, 0)",
    "rate_limit('', 1, 1)",
    "rate_limit('r', True, 1)",
    "use_namespace('n', ttl=0)",
    "use_namespace('n', ttl='5')",
]


def test_errors_are_equal_inside_and_outside(run: Any, store: DataStore) -> None:
    """Class, message and attributes are equal; nothing is written, and the run continues."""
    result = run(
        """
        def run(input_dict):
            said = []
            for call in input_dict["calls"]:
                try:
                    eval("data_store." + call)
                    said.append(None)
                except Exception as error:
                    facts = {k: v for k, v in vars(error).items()}
                    kinds = [kind.__name__ for kind in type(error).__mro__]
                    said.append([kinds, str(error), facts])
            return {"said": said, "keys": data_store.list_keys()}
        """,
        {"calls": BAD_CALLS},
    )
    output = result.check()
    assert output["keys"] == []
    for call, said in zip(BAD_CALLS, output["said"], strict=True):
        try:
            eval("store." + call)
        except Exception as error:
            expected = [[kind.__name__ for kind in type(error).__mro__], str(error), dict(vars(error))]
        else:
            raise AssertionError(f"{call} is not refused outside")
        if "10**400" in call:
            expected[1] = said[1]
        if "2_000_000" in call:
            expected[1:] = said[1:]
        assert said == expected, call


def test_store_errors_keep_their_classes(run: Any, store: DataStore, server_url: str, user: str) -> None:
    import redis

    with redis.Redis.from_url(server_url) as server:
        server.hset(f"user:{user}:ns:default", mapping={"corrupt": b"{\xff", "newer": b"\x01abc", "text": b"hello"})
        server.set(f"user:{user}:ns:wrong", "a string")
    result = run(
        """
        from redis_store import errors
        from redis_store.errors import CorruptValue, WrongKeyType

        def run():
            said = {}
            for key in ("corrupt", "newer", "text"):
                try:
                    data_store.get(key)
                except ValueError as error:
                    assert isinstance(error, errors.StoredDataError)
                    first = repr(getattr(error, "first_bytes", None))
                    said[key] = [type(error).__name__, str(error), error.key, error.namespace, first]
            try:
                data_store.use_namespace("wrong").set("k", 1)
            except TypeError as error:
                assert isinstance(error, WrongKeyType) and isinstance(error, errors.DataStoreError)
                said["wrong"] = str(error)
            return said
        """
    )
    output = result.check()
    for key in ("corrupt", "newer", "text"):
        with pytest.raises(redis_store.StoredDataError) as caught:
            store.get(key)
        outside = caught.value
        assert output[key][:4] == [type(outside).__name__, str(outside), key, "default"]
        assert output[key][4] == repr(getattr(outside, "first_bytes", None))
    with pytest.raises(redis_store.WrongKeyType) as wrong:
        store.use_namespace("wrong").set("k", 1)
    assert output["wrong"] == str(wrong.value)


def test_call_over_the_frame_limit_is_refused_and_the_run_continues(run: Any, store: DataStore) -> None:
    import sandbox

    store.set_many({f"k{n}": "x" * 10_000 for n in range(20)})
    result = run(
        """
        from redis_store.errors import LimitExceeded
        def run():
            said = []
            for call in (lambda: data_store.set("big", "x" * 100_000), lambda: data_store.get_all()):
                try:
                    call()
                except LimitExceeded as error:
                    said.append([error.limit, error.limit_bytes, error.size_bytes > 65536])
            return {"said": said, "one": len(data_store.get("k1"))}
        """,
        limits=sandbox.Limits(frame_bytes=65536),
    )
    assert result.check() == {"said": [["frame_bytes", 65536, True]] * 2, "one": 10_000}


def test_value_over_the_frame_limit_is_not_removed(run: Any, store: DataStore) -> None:
    import sandbox

    store.set_many({"big": "x" * 100_000, "fits": "x" * 60_000})
    with redis_store.connect(store.url, user=store.user, compress_above=1000) as compressing:
        compressing.set("packed", "x" * 100_000)
    result = run(
        """
        from redis_store.errors import LimitExceeded
        def run():
            sizes = []
            for key in ("big", "packed"):
                try:
                    data_store.pop(key)
                except LimitExceeded as error:
                    sizes.append(error.size_bytes)
            return {"refused": sizes, "fits": len(data_store.pop("fits")), "none": data_store.pop("no", 0)}
        """,
        limits=sandbox.Limits(frame_bytes=65536),
    )
    assert result.check() == {"refused": [100_002] * 2, "fits": 60_000, "none": 0}
    assert store.list_keys() == ["big", "packed"]


def test_host_stops_reading_an_oversized_reply(run: Any, store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data that a user has collected over many runs may exceed the host's memory."""
    import sandbox

    monkeypatch.setattr("sandbox.running.tree.MAX_VALUE_BYTES", 65536)
    store.set_many({f"k{n}": "x" * 5_000 for n in range(100)})
    store.use_namespace("long").set_many({f"{n}-" + "k" * 5_000: 1 for n in range(100)})
    for n in range(200):
        store.use_namespace(f"{n}-" + "n" * 1000).set("k", 1)
    result = run(
        """
        from redis_store.errors import LimitExceeded
        def run():
            said = []
            for call in (
                data_store.get_all,
                lambda: data_store.get_many([f"k{n}" for n in range(100)]),  # may come from the near cache
                lambda: data_store.get_many([f"k{n}" for n in range(200)]),
                data_store.use_namespace("long").list_keys,
                data_store.list_namespaces,
            ):
                try:
                    call()
                except LimitExceeded as error:
                    assert "takes more than 131,072 bytes" in str(error), error
                    assert "at most 65,536 can be sent to an agent at once" in str(error), error
                    said.append([error.limit, error.limit_bytes, error.size_bytes])
            return {"said": said, "one": len(data_store.get("k1")), "all": sum(1 for _ in data_store.iter_keys())}
        """,
        limits=sandbox.Limits(frame_bytes=65536),
    )
    assert result.check() == {"said": [["frame_bytes", 65536, 131072]] * 5, "one": 5_000, "all": 100}
    assert [one.error for one in result.operations].count("LimitExceeded") == 5


def test_threads_of_an_agent_share_the_channel(run: Any) -> None:
    result = run(
        """
        from concurrent.futures import ThreadPoolExecutor
        def work(n):
            data_store.set(f"k{n}", n)
            return data_store.get(f"k{n}")
        def run():
            with ThreadPoolExecutor(8) as pool:
                return {"got": list(pool.map(work, range(200)))}
        """
    )
    assert result.check() == {"got": list(range(200))}


def test_a_signal_handler_is_refused_a_call_in_the_middle_of_another(run: Any) -> None:
    result = run(
        """
        import signal
        from redis_store import InvalidInput
        def look(*_):
            try:
                found.add(data_store.get("k"))
            except InvalidInput as error:
                found.add(str(error).split(" and ")[0])
        def run():
            global found
            found = set()
            data_store.set("k", 1)
            signal.signal(signal.SIGALRM, look)
            wrong = 0
            for _ in range(2000):
                signal.setitimer(signal.ITIMER_REAL, 0.00005)
                wrong += data_store.get("k") != 1
                if len(found) > 1:
                    break
            signal.setitimer(signal.ITIMER_REAL, 0)
            return {"found": sorted(found, key=str), "wrong": wrong}
        """
    )
    refusal = "A signal handler has interrupted a call to the host,"
    assert result.check() in ({"found": found, "wrong": 0} for found in ([refusal], [1, refusal]))


@pytest.mark.parametrize("kind", ["Exception", "TimeoutError", "BaseException"])
def test_signal_during_a_call_does_not_affect_the_next(run: Any, kind: str) -> None:
    result = run(
        """
        import random, signal
        class Alarm(KIND): pass
        def ring(*_):
            if armed:
                raise Alarm
        def run():
            global armed
            armed = False
            signal.signal(signal.SIGALRM, ring)
            data_store.set_many({f"k{n}": n for n in range(100)})
            alarms = wrong = 0
            for n in range(500):
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, 0.00002 + random.random() * 0.0002)
                    if n % 10 == 0:
                        data_store.set("big", "x" * 900_000)
                    got = data_store.get(f"k{n % 100}")
                    armed = False
                    wrong += got != n % 100
                except Alarm:
                    alarms += 1
                finally:
                    armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            return {"alarms": alarms > 0, "wrong": wrong}
        """.replace("KIND", kind)
    )
    assert result.check() == {"alarms": True, "wrong": 0}


def test_what_belongs_to_the_host_is_not_there(run: Any, store: DataStore) -> None:
    """The class is the store's, so its names are there; the connection, which some of them are about, is the host's."""
    result = run(
        """
        def run():
            said = []
            for read in (
                lambda: data_store.url, lambda: data_store.stats(), lambda: data_store.as_json_text(),
                lambda: data_store.memory_bytes(),
            ):
                try:
                    read()
                except AttributeError as error:
                    said.append(str(error))
            with data_store as same:
                same.set("k", 1)
            data_store.close()
            return {"said": said, "kind": type(data_store).__module__, "after": data_store.get("k")}
        """
    )
    assert result.check() == {
        "said": [
            f"An agent's data_store has no {name}: the connection belongs to its host."
            for name in ("url", "stats", "as_json_text", "memory_bytes")
        ],
        "kind": DataStore.__module__,
        "after": 1,
    }


def test_pages_by_hand(run: Any, store: DataStore) -> None:
    store.set_many({f"k{n}": n for n in range(1200)})
    result = run(
        """
        def run():
            names, items, cursor = [], {}, "0"
            while True:
                cursor, page = data_store.scan_page(cursor, "k")
                names += page
                if cursor == "0":
                    break
            while True:
                cursor, page = data_store.scan_items_page(cursor)
                items.update(page)
                if cursor == "0":
                    break
            refused = []
            for wrong in (5, "x", "1" * 30):
                try:
                    data_store.scan_page(wrong)
                except ValueError as error:
                    refused.append(str(error)[-40:])
            return {"names": len(set(names)), "sum": sum(items.values()), "refused": refused}
        """
    )
    end = "with the cursor that the last page returned."[-40:]
    assert result.check() == {"names": 1200, "sum": sum(range(1200)), "refused": [end] * 3}


SUMMARY = """
WHO = {who!r}

@data_store.cached()
def summary(path):
    print("computing")
    return f"{{path}} by {{WHO}}"

def run():
    return {{"text": summary("a")}}
"""


def test_cached_functions_of_agents_of_one_name_do_not_answer_for_each_other(
    server_url: str, user: str, tmp_path: Path
) -> None:
    """The functions are the same to the letter; what they read differs. The same agent finds its own results."""

    def ran(source: Any) -> tuple[str, str]:
        result = sandbox.run(source, {}, user=user, url=server_url, agent="worker")
        return result.check()["text"], result.stdout

    texts = {who: SUMMARY.format(who=who) for who in ("planner", "critic")}
    for kind in ("text", "file"):
        for computed in ("computing\n", ""):
            for who, text in texts.items():
                source: Any = text
                if kind == "file":
                    source = tmp_path / who / "worker.py"
                    source.parent.mkdir(exist_ok=True)
                    source.write_text(text)
                assert ran(source) == (f"a by {who}", computed), (kind, who)


TYPED = """
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.agent import data_store

@dataclass
class Point:
    x: int

def run():
    data_store.set("point", {"x": 3})
    return {"x": data_store.get("point", as_type=Point).x}
"""


def test_values_as_types_need_a_package(run: Any) -> None:
    assert run(TYPED, packages=["msgspec"]).check() == {"x": 3}
    without = run(TYPED).error
    assert "InvalidInput: as_type needs the package msgspec" in str(without)
    assert "packages=['msgspec']" in str(without)


def test_a_batch_again_takes_no_memory_that_must_be_mapped_anew(run: Any, store: DataStore) -> None:
    store.set_many({f"k{number}": "x" * 2000 for number in range(1000)})
    source = """
        from resource import RUSAGE_SELF, getrusage

        def run():
            values, faults = data_store.get_all(), []
            for _ in range(6):
                before = getrusage(RUSAGE_SELF).ru_minflt
                data_store.set_many(values)
                faults.append(getrusage(RUSAGE_SELF).ru_minflt - before)
            return {"faults": min(faults)}
        """
    assert run(source).check()["faults"] < 100  # a page has 4 KiB, so the texts alone take 500


def test_the_garbage_collector_does_not_run_while_values_are_made_and_stays_as_it_was(
    run: Any, store: DataStore
) -> None:
    store.set_many({f"key-{number}": [[] for _ in range(100)] for number in range(100)})
    result = run(
        """
        import gc

        def run(input_dict, tools):
            begun = []
            gc.callbacks.append(lambda phase, info: begun.append(phase))
            value = data_store.get_all("key-")
            during, on = len(begun), gc.isenabled()
            gc.disable()
            data_store.get("key-1")
            return {"values": len(value), "during": during, "states": [on, gc.isenabled()]}
        """
    )
    got = result.check()
    assert got["values"] == 100
    assert got["states"] == [True, False]
    assert got["during"] < 8  # one run after the call has begun and ended; while the values are made there would be 14
