"""Memoized functions: their keys, their tags, and how results are invalidated."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redis_store import DataStore, InvalidInput, InvalidType, InvalidValue, connect_async
from tests.support.servers import Server


@pytest.fixture
def store(server: Server, open_store: Callable[..., DataStore], user: str) -> DataStore:
    return open_store(server.url, user, namespace="cache")


def test_a_result_is_kept_for_its_arguments(store: DataStore) -> None:
    calls = []

    @store.cached()
    def work(a: int, b: Any = 2, *more: int, **named: Any) -> list[Any]:
        """Return its arguments."""
        calls.append(a)
        return [a, b, list(more), named]

    for _ in range(2):
        assert work(1) == [1, 2, [], {}]
        assert work(1, 2) == work(a=1) == work(b=2, a=1) == [1, 2, [], {}]
        assert work(1, 2, 3, x=1, y=2) == work(1, 2, 3, y=2, x=1) == [1, 2, [3], {"x": 1, "y": 2}]
    assert len(calls) == 2
    for different in (1.0, True, "1", None, [1], {"a": 1}):
        work(1, different)
    assert len(calls) == 8
    assert work.__name__ == "work"
    assert work.__doc__ == "Return its arguments."
    assert list(inspect.signature(work).parameters) == ["a", "b", "more", "named"]
    assert work.cache_key(1).startswith(f"{__name__}.test_a_result_is_kept_for_its_arguments.<locals>.work(")
    assert store.get(work.cache_key(1)) == [1, 2, [], {}]


def test_decorator_without_brackets(store: DataStore, server: Server, user: str) -> None:
    calls = []

    @store.cached
    def work(a: int) -> int:
        calls.append(a)
        return a

    assert [work(1), work(1), work(2)] == [1, 1, 2]
    assert calls == [1, 2]
    assert work.invalidate(1) is True
    with pytest.raises(InvalidType, match="below @classmethod"):
        store.cached(classmethod(work))  # type: ignore[arg-type]

    async def main() -> None:
        async with connect_async(server.url, user=user) as other:

            @other.cached
            async def waits(a: int) -> int:
                calls.append(a)
                return a

            assert [await waits(7), await waits(7)] == [7, 7]

    asyncio.run(main())
    assert calls == [1, 2, 7]


def test_results_are_forgotten(store: DataStore) -> None:
    calls = []

    def work(a: int) -> int:
        calls.append(a)
        return a

    one, two = store.cached(version=1)(work), store.cached(version="two")(work)
    assert [one(1), one(2), two(1)] == [1, 2, 1]
    assert one.invalidate(1) is True
    assert one.invalidate(1) is False
    store.set("another", 1)
    assert one(1) == 1
    assert two.invalidate_all() == 3, "of every version"
    assert store.list_keys() == ["another"]
    assert len(calls) == 4


def test_new_version_ignores_old_results(store: DataStore) -> None:
    answers = ["old"]

    def answer() -> str:
        return answers[0]

    assert store.cached(version=1)(answer)() == "old"
    answers[0] = "new"
    assert store.cached(version=2)(answer)() == "new"
    assert store.cached(version=1)(answer)() == "old"


def test_captured_values_and_lambdas_have_results_of_their_own(store: DataStore) -> None:
    def scaled(factor: Any, calls: list[int]) -> Callable[[int], int]:
        count = 0

        @store.cached()
        def scale(number: int) -> int:
            nonlocal count
            count += 1
            calls.append(number)
            return int(factor * number)

        return scale

    calls: list[int] = []
    assert [scaled(factor, calls)(5) for factor in (2, 3, 2, 3, True)] == [10, 15, 10, 15, 5]
    assert len(calls) == 3, "the same captured numbers are the same function"
    twice, thrice = store.cached()(lambda number: 2 * number), store.cached()(lambda number: 3 * number)
    assert (twice(7), thrice(7), twice(7)) == (14, 21, 14)


SCRIPT = """
import sys
from pathlib import Path
from redis_store import connect

def helper(path):
    return f"{{path}} by {name}"

with connect(sys.argv[1], user=sys.argv[2]) as store:
    @store.cached()
    def load(path):
        print("computing")
        return helper(path)

    print(load("a"))
"""


@pytest.mark.parametrize("server", ["valkey9"], indirect=True)
def test_scripts_of_one_name_have_results_of_their_own(server: Server, user: str, tmp_path: Path) -> None:
    """Also where the cached functions are the same to the letter, and only what they call differs."""

    def ran(folder: str, name: str) -> list[str]:
        file = tmp_path / folder / "worker.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(SCRIPT.format(name=name))
        command = [sys.executable, str(file), server.url, user]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\n")[:-1]

    assert ran("one", "nightly") == ["computing", "a by nightly"]
    assert ran("two", "hourly") == ["computing", "a by hourly"]
    assert ran("three", "nightly") == ["a by nightly"], "the same script, wherever it lies"


def test_template_tells_all_arguments_apart(store: DataStore) -> None:
    @store.cached(key="doc:{owner}:{name}")
    def load(owner: str, name: str) -> list[str]:
        return [owner, name]

    pairs = [("team:a", "plan"), ("team", "a:plan"), ("team%3Aa", "plan"), ("team%", "3Aa:plan"), ("", ":"), (":", "")]
    assert [load(*pair) for pair in pairs] == [list(pair) for pair in pairs]
    assert load.cache_key("team", "http://a:80/") == "doc:team:http://a:80/", (
        "a key that needs nothing changed is as written"
    )
    for template in ("{owner}{name}", "a{owner!r}{name:>5}"):
        with pytest.raises(InvalidInput, match="touch in the key"):
            store.cached(key=template)(lambda owner, name: 1)


def test_objects_in_a_template_need_a_text(store: DataStore) -> None:
    class Silent:
        name = "n"

        @store.cached(key="item:{self}:{number}")
        def work(self, number: int) -> int:
            return number

        @store.cached(key="item:{self.name}:{number}", tags=["{self}"])
        def tagged(self, number: int) -> int:
            return number

    class Speaking(Silent):
        def __str__(self) -> str:
            return "speaking"

    assert Speaking().work(3) == 3
    for call in (lambda: Silent().work(3), lambda: Silent.work.cache_key([Silent()], 3), lambda: Silent().tagged(3)):
        with pytest.raises(InvalidInput, match=r"address of a .*such as \{self.id\}"):
            call()
    assert store.list_keys() == ["item:speaking:3"]


def test_a_key_of_ones_own(store: DataStore) -> None:
    @store.cached(key="item:{name}")
    def text(name: str, detail: int = 0) -> str:
        return f"{name}-{detail}"

    @store.cached(key=lambda name, detail=0: f"made:{name}:{detail}", version=3)
    def function(name: str, detail: int = 0) -> str:
        return f"{name}-{detail}"

    assert text("a") == text(name="a", detail=5) == "a-0"
    assert function("a", detail=5) == "a-5"
    assert store.list_keys() == ["item:a", "made:a:5@3"]
    assert text.invalidate("a") is True
    with pytest.raises(InvalidInput, match="tag"):
        text.invalidate_all()


@pytest.mark.parametrize("template", ["item:{nme}", "item:{", "item:{0}", "item:{}", "item:{name.part}"])
def test_key_template_not_filled_by_arguments(store: DataStore, template: str) -> None:
    by_key = store.cached(key=template)(_named)
    by_tag = store.cached(tags=[template])(_named)
    for call in (by_key, by_key.cache_key, by_key.invalidate, by_tag):
        with pytest.raises(InvalidInput, match=re.escape(repr(template)) + ".*_named.*there are name;"):
            call("a")
    assert store.list_keys() == []


def _named(name: str) -> str:
    return name


def test_tags_of_a_function(store: DataStore) -> None:
    @store.cached(tags=["all", "repo:{repo}"])
    def one(repo: str) -> str:
        return repo

    @store.cached(tags=lambda repo: [f"repo:{repo}"])
    def two(repo: str) -> str:
        return repo

    for repo in "xy":
        one(repo)
        two(repo)
    assert store.invalidate_tag("repo:x") == 2
    assert store.invalidate_tag("all") == 1
    assert store.list_keys() == [two.cache_key("y")]


def test_tags_that_can_be_iterated_once_only(store: DataStore) -> None:
    @store.cached(tags=(tag for tag in ("one", "two")))
    def work(a: int) -> int:
        return a

    work(1)
    work(2)
    assert (store.invalidate_tag("one"), store.invalidate_tag("two")) == (2, 0)


def test_a_method_has_a_key_without_its_object(store: DataStore) -> None:
    class Repository:
        def __init__(self, name: str) -> None:
            self.name = name

        @store.cached(key=lambda self, path: f"{self.name}:{path}")
        def read(self, path: str) -> str:
            return f"{self.name} {path}"

        @store.cached()
        def bad(self) -> int:
            return 1

    assert Repository("a").read("p") == "a p"
    assert store.list_keys() == ["a:p"]
    with pytest.raises(InvalidValue, match="give key="):
        Repository("a").bad()


def test_partial_arguments_are_in_the_key(store: DataStore) -> None:
    def fetch(host: str, path: str, scheme: str = "http") -> str:
        return f"{scheme}://{host}{path}"

    ours, theirs = (store.cached()(functools.partial(fetch, host, scheme="https")) for host in ("ours", "theirs"))
    assert (ours("/a"), theirs("/a")) == ("https://ours/a", "https://theirs/a")
    assert ours.invalidate("/a")
    assert store.list_keys() == [theirs.cache_key("/a")]
    assert store.cached()(functools.partial(store.cached()(fetch), "again"))("/a") == "http://again/a"


def test_objects_do_not_share_results(store: DataStore) -> None:
    class Scale:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        def of(self, number: int) -> int:
            return self.factor * number

        def __call__(self, number: int) -> int:
            return self.factor * number

        @classmethod
        def name(cls, number: int) -> str:
            return f"{cls.__name__} {number}"

    class Finer(Scale):
        pass

    for function in (Scale(2).of, Scale(2), functools.partial(Scale(2).of, 1), "abc".upper):
        with pytest.raises(InvalidInput, match=r"belongs to an object.*give key="):
            store.cached()(function)
    assert [store.cached(key=f"{n}:{{number}}")(Scale(n).of)(10) for n in (2, 3)] == [20, 30]
    assert [store.cached()(kind.name)(1) for kind in (Scale, Finer)] == ["Scale 1", "Finer 1"]
    assert store.cached()(len)("four") == 4


def test_arguments_that_make_no_key(store: DataStore) -> None:
    @store.cached()
    def work(a: Any) -> int:
        return 1

    for bad in (object(), {1}, float("nan"), {1: 2}, [{None: 1}], b"bytes"):
        with pytest.raises(InvalidValue, match="give key="):
            work(bad)
    with pytest.raises(TypeError):
        work()  # type: ignore[call-arg]
    assert store.list_keys() == []
    work("x" * 5000)
    work("y" * 5000)
    assert len(store.list_keys()) == 2
    assert all(len(key) < 300 for key in store.list_keys())


def test_bad_input(store: DataStore) -> None:
    async def asynchronous() -> int:
        return 1

    for make in (
        lambda: store.cached(key=5),  # type: ignore[arg-type]
        lambda: store.cached(version=1.5),  # type: ignore[arg-type]
        lambda: store.cached(version=True),
        lambda: store.cached(tags="tag"),
        lambda: store.cached(tags=5),  # type: ignore[arg-type]
        lambda: store.cached()(staticmethod(lambda: 1)),
        lambda: store.cached()(max),
        lambda: store.cached()("no function"),  # type: ignore[arg-type]
        lambda: store.cached()(asynchronous),
        lambda: store.cached(key=lambda: 5)(lambda: 1)(),  # type: ignore[arg-type,return-value]
        lambda: store.cached(tags=[5])(lambda: 1)(),  # type: ignore[list-item]
    ):
        with pytest.raises(InvalidType):
            make()
    with pytest.raises(InvalidType, match="below @classmethod"):
        store.cached()(classmethod(lambda cls: 1))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        store.cached(ttl=-1)(lambda: 1)()
    assert store.list_keys() == []


def test_asyncio(server: Server, user: str) -> None:
    async def main() -> None:
        async with connect_async(server.url, user=user) as store:
            calls = []

            @store.cached(tags=["tag"], version=2)
            async def waits(a: int) -> int:
                calls.append(a)
                await asyncio.sleep(0)
                return a

            @store.cached(key="plain:{a}")
            def plain(a: int) -> int:
                return a

            assert await asyncio.gather(*[waits(1) for _ in range(20)]) == [1] * 20
            assert calls == [1]
            assert await plain(2) == 2
            assert sorted(await store.list_keys()) == sorted([waits.cache_key(1), "plain:2"])
            assert await plain.invalidate(2) is True
            assert await waits.invalidate_all() == 1
            await waits(3)
            assert await store.invalidate_tag("tag") == 1
            with pytest.raises(ZeroDivisionError):
                await store.get_or_set("key", lambda: 1 / 0)
            with pytest.raises(InvalidType):
                store.cached()(5)  # type: ignore[arg-type]

    asyncio.run(main())


def test_a_cancelled_computation_is_taken_over(server: Server, user: str) -> None:
    async def main() -> None:
        async with connect_async(server.url, user=user) as store:
            begun, go_on = asyncio.Event(), asyncio.Event()
            calls = []

            async def make() -> int:
                calls.append(1)
                begun.set()
                await go_on.wait()
                return len(calls)

            first = asyncio.create_task(store.get_or_set("key", make))
            await begun.wait()
            others = [asyncio.create_task(store.get_or_set("key", make)) for _ in range(10)]
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            others[3].cancel()
            go_on.set()
            results = await asyncio.gather(*others, return_exceptions=True)
            assert [result for result in results if not isinstance(result, asyncio.CancelledError)] == [2] * 9
            assert len(calls) == 2
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    asyncio.run(main())


def test_task_left_behind_by_a_computation_may_ask_for_its_key(server: Server, user: str) -> None:
    async def main() -> list[Any]:
        async with connect_async(server.url, user=user) as store:
            ask, finish = asyncio.Event(), asyncio.Event()
            left_behind: list[asyncio.Task[Any]] = []

            async def asked_later() -> Any:
                await ask.wait()
                return await store.get_or_set("key", lambda: "computed by the task")

            async def first() -> str:
                left_behind.append(asyncio.create_task(asked_later()))
                return "first"

            async def second() -> str:
                ask.set()
                await finish.wait()
                return "second"

            assert await store.get_or_set("key", first) == "first"
            await store.delete("key")
            computing = asyncio.create_task(store.get_or_set("key", second))
            while not (waits := store.stats().waits) and not left_behind[0].done():
                await asyncio.sleep(0.001)
            finish.set()
            return [waits, await computing, await left_behind[0]]

    assert asyncio.run(main()) == [1, "second", "second"]
