"""Lists of keys: pages and groups of a sorted list, and lists that are kept while others write."""

from __future__ import annotations

import asyncio
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_store.admin import AsyncAdmin
from redis_store.console import key_lists
from redis_store.console.key_lists import Group, KeyLists, crumbs_of, page_of, range_of
from redis_store.errors import LimitExceeded
from tests.support.servers import Server

KEYS = sorted(["a", "a/", "a/1", "a/2/x", "a/2/y", "a:1", "b/1", "b/2", "c/only"])
TEXTS = st.text(alphabet="ab/:\U0010ffff\ud7ff", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("prefix", "rows"),
    [
        ("", ["a", Group("a/", 4), "a:1", Group("b/", 2), "c/only"]),
        ("a", ["a", Group("a/", 4), "a:1"]),
        ("a/", ["a/", "a/1", Group("a/2/", 2)]),
        ("a/2/", ["a/2/x", "a/2/y"]),
        ("zzz", []),
    ],
)
def test_keys_are_grouped_by_what_follows_the_prefix(prefix: str, rows: list[object]) -> None:
    page = page_of(KEYS, prefix, None, 100, grouped=True)
    assert page.rows == rows
    assert (page.after, page.before) == (None, None)


@given(st.lists(TEXTS, unique=True, max_size=30), TEXTS | st.just(""), st.integers(1, 5), st.booleans())
def test_pages_hold_each_key_once_forwards_and_back(keys: list[str], prefix: str, size: int, grouped: bool) -> None:
    keys = sorted(keys)
    wanted = [key for key in keys if key.startswith(prefix)]
    after, found, count, starts = None, [], 0, []
    while True:
        page = page_of(keys, prefix, after, size, grouped=grouped)
        assert page.total == len(wanted)
        assert page.first == count
        assert len(page.rows) <= size
        starts.append(after)
        for row in page.rows:
            part = [row] if isinstance(row, str) else [key for key in wanted if key.startswith(row.prefix)]
            assert isinstance(row, str) or (row.count == len(part) > 1 and row.prefix.startswith(prefix))
            found += part
            count += len(part)
        if page.after is None:
            break
        after = page.after
    assert found == wanted
    assert page.last == len(wanted)
    for at, start in reversed(list(enumerate(starts))[1:]):
        before = page_of(keys, prefix, start, size, grouped=grouped).before
        assert before is not None
        again = page_of(keys, prefix, before or None, size, grouped=grouped)
        assert again.rows == page_of(keys, prefix, starts[at - 1], size, grouped=grouped).rows


@given(st.lists(TEXTS, unique=True, max_size=30), TEXTS)
def test_range_holds_the_keys_with_a_prefix(keys: list[str], prefix: str) -> None:
    keys = sorted(keys)
    low, high = range_of(keys, prefix)
    assert keys[low:high] == [key for key in keys if key.startswith(prefix)]
    assert low <= bisect_right(keys, prefix)


def test_prefix_tells_the_groups_that_it_lies_in() -> None:
    assert list(crumbs_of("a/b:c")) == [("a/", "a/"), ("b:", "a/b:")]


class TestKept:
    """A list that is read once, and then kept."""

    @pytest.fixture(autouse=True)
    def never_read_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have every list taken for a big one."""
        monkeypatch.setattr(key_lists, "ALWAYS_READ_S", -1.0)
        monkeypatch.setattr(key_lists, "READINGS_APART", 1_000_000)
        monkeypatch.setattr(key_lists, "READINGS_APART_IF_WRONG", 1_000_000)
        monkeypatch.setattr(key_lists, "READING_WAITED_S", 30.0)

    def test_change_log_keeps_it_right(self, one_server: Server, user: str) -> None:
        async def main() -> None:
            async with AsyncAdmin(one_server.url) as admin:
                lists, store = KeyLists(admin), admin.store(user, "n")
                await store.set_many({f"k{number:03}": 1 for number in range(300)})
                async with store.watch():
                    first = await lists.latest(user, "n")
                    assert (len(first.keys), first.is_current) == (300, True)
                    await store.delete_many([f"k{number:03}" for number in range(250)])
                    await store.set_many({f"a{number:03}": 1 for number in range(250)})
                    await store.set("k299", 2)
                    await store.rename("k298", "z")
                    found = await lists.latest(user, "n")
                    assert found.keys == sorted(await store.list_keys())
                    assert (found.is_current, found.read_at) == (True, first.read_at)
                    await store.clear()
                    await store.set_many({"x": 1, "y": 1})
                    found = await lists.latest(user, "n")
                    assert (found.keys, found.is_current, found.read_at) == (["x", "y"], True, first.read_at)
                await lists.close()

        asyncio.run(main())

    def test_other_changes_are_noticed(self, one_server: Server, user: str) -> None:
        async def main() -> None:
            async with AsyncAdmin(one_server.url) as admin:
                lists, store = KeyLists(admin), admin.store(user, "n")
                await store.set_many({"a": 1, "b": 1})
                first = await lists.latest(user, "n")
                await store.set("c", 1)  # no log tells of it
                later = await lists.latest(user, "n")
                assert (first.is_current, later.is_current, later.keys) == (True, False, ["a", "b"])
                assert later.count == 3
                await store.clear()
                empty = await lists.latest(user, "n")
                assert (empty.keys, empty.is_current) == ([], True)
                lists.forget(user, "n")
                assert (await lists.latest(user, "n")).keys == []
                await lists.close()

        asyncio.run(main())

    def test_deleted_keys_go_at_once(self, one_server: Server, user: str) -> None:
        async def main() -> None:
            async with AsyncAdmin(one_server.url) as admin:
                lists, store = KeyLists(admin), admin.store(user, "n")
                await store.set_many({"a": 1, "b": 1})
                await lists.latest(user, "n")
                await store.delete("a")
                lists.forget(user, "n", ["a", "never there"])
                found = await lists.latest(user, "n")
                assert (found.keys, found.is_current) == (["b"], True)
                await lists.close()

        asyncio.run(main())

    def test_lists_are_bounded_together(self, one_server: Server, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(key_lists, "KEY_LISTS_BYTES", 3 * key_lists.KEY_BYTES + 3)

        async def main() -> None:
            async with AsyncAdmin(one_server.url) as admin:
                lists = KeyLists(admin)
                for name in ("one", "two"):
                    await admin.store(user, name).set_many({"a": 1, "b": 1})
                    await lists.latest(user, name)
                assert [place[1] for place in lists._kept] == ["two"]
                await admin.store(user, "two").set_many({"c": 1, "d": 1})
                fresh = KeyLists(admin)
                with pytest.raises(LimitExceeded, match="redis-store keys"):
                    await fresh.latest(user, "two")
                await lists.close()

        asyncio.run(main())


def test_small_namespaces_are_always_read_anew(one_server: Server, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_lists, "ALWAYS_READ_S", 30.0)  # also on a machine that is busy
    monkeypatch.setattr(key_lists, "READING_WAITED_S", 30.0)

    async def main() -> None:
        async with AsyncAdmin(one_server.url) as admin:
            lists, store = KeyLists(admin), admin.store(user, "n")
            await store.set("a", 1)
            assert (await lists.latest(user, "n")).keys == ["a"]
            await store.rename("a", "b")  # as many keys as before
            assert (await lists.latest(user, "n")).keys == ["b"]
            await lists.close()

    asyncio.run(main())
