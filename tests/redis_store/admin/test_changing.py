"""Clear, undo, rename, copy and delete: nothing is lost that was not named, and nobody else's data is touched."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import redis

from redis_store import Client
from redis_store.admin import Admin, AsyncAdmin, Deleted
from redis_store.errors import Conflict, InvalidInput
from redis_store.namespace.redis_key import parse_redis_key
from redis_store.types import Change
from redis_store.watch.sync import Watch
from tests.redis_store.admin.conftest import HARD_NAMES, HARD_USERS, Ended


def text_of(admin: Admin, user: str | None = None, namespace: str | None = None) -> bytes:
    """Return an export."""
    file = io.BytesIO()
    admin.export(file, user, namespace)
    return file.getvalue()


def state_of(raw: redis.Redis) -> dict[bytes, object]:
    """Return all data and info on the server."""
    return {key: raw.hgetall(key) for key in raw.scan_iter("user:*") if raw.type(key) == b"hash"}


def changes_until(watch: Watch, ends: Callable[[Change], bool]) -> Iterator[Change]:
    """Yield changes up to the one for which `ends` is true."""
    while True:
        change = watch.next_change(timeout=10)
        assert change is not None
        yield change
        if ends(change):
            return


@pytest.mark.parametrize("undoable", [True, False])
def test_a_clear_leaves_no_value_in_the_log(undoable: bool, client: Client, admin: Admin, raw: redis.Redis) -> None:
    store = client.store(user="alice", namespace="n")
    with store.watch():
        store.set_many({"a": "secret", "b": 2})
    # The log stays. Nobody watches any more who might begin it anew.
    store.delete("b")
    assert admin.clear("alice", "n", undoable=undoable) == 1
    store.set("c", "public")
    log = repr(raw.xrange("user:alice:log:n"))
    assert ("secret" in log, "public" in log) == (False, True)
    store.clear()
    admin.clear("alice", "n", undoable=undoable)  # nothing is there, but its log has values
    assert "public" not in repr(raw.xrange("user:alice:log:n"))
    assert raw.exists("user:alice:trash:ns:n") == undoable


def test_undo_brings_everything_back(client: Client, admin: Admin, raw: redis.Redis) -> None:
    store = client.store(user="alice", namespace="n\n*", agent="one")
    store.set_many({f"k{number}": number for number in range(300)})
    store.set("told", 1, metadata={"x": 1}, ttl=86_400)
    store.get_or_set("tagged", lambda: 1, tags=["t"])
    raw.hset("user:alice:ns:n\n*", "by hand", b" 1 ")
    before = text_of(admin, "alice")
    assert admin.clear("alice", "n\n*") == 303
    assert len(store) == 0
    assert raw.ttl("user:alice:trash:ns:n\n*") > 86_000
    with store.watch() as changes:
        assert changes.next_change(timeout=0) is None
        done = admin.undo_clear("alice", "n\n*")
        seen = [changes.next_change(timeout=10) for _ in range(50)]
    assert all(change is not None and change.source == "log" for change in seen)
    assert (done.written, done.kept) == (303, 0)
    assert text_of(admin, "alice") == before
    assert not list(raw.scan_iter("*trash*"))
    assert admin.undo_clear("alice", "n\n*").keys == 0
    assert store.invalidate_tag("t") == 1


def test_undo_does_not_overwrite_what_is_newer(client: Client, admin: Admin) -> None:
    store = client.store(user="alice")
    store.set_many({"a": 1, "b": 2})
    admin.clear("alice", "default")
    store.set("b", "newer")
    done = admin.undo_clear("alice", "default")
    assert (done.written, done.kept) == (1, 1)
    assert store.get_all() == {"a": 1, "b": "newer"}


def test_an_empty_namespace_does_not_replace_what_is_kept(client: Client, admin: Admin) -> None:
    store = client.store(user="alice")
    store.set("a", 1)
    admin.clear("alice", "default")
    admin.clear("alice", "default")
    assert admin.undo_clear("alice", "default").written == 1
    admin.clear("alice", "default")
    admin.clear("alice", "default", undoable=False)
    assert admin.undo_clear("alice", "default").keys == 0


def test_namespaces_by_prefix(client: Client, admin: Admin, raw: redis.Redis) -> None:
    for user in HARD_USERS:
        for name in HARD_NAMES:
            client.store(user=user, namespace=name).set("k", 1)
    raw.hset("user:alice:ns:*unlisted", "k", "1")
    before = state_of(raw)
    assert admin.clear_namespaces("alice", "*") == 2
    assert before.keys() - state_of(raw).keys() == {
        b"user:alice:ns:*", b"user:alice:info:*", b"user:alice:ns:*unlisted"
    }  # fmt: skip
    assert [each.outcome for each in admin.iter_audit()] == ["begun", "done"]
    assert admin.clear_namespaces("*", "", undoable=False) == len(HARD_NAMES)
    left = {one.user for one in admin.list_namespaces()}
    assert left == set(HARD_USERS) - {"*"}


def test_clearing_many_namespaces_goes_on_after_an_interruption(
    client: Client, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        client.store(user="alice", namespace=f"n{number}").set("k", 1)

    def stop(count: int) -> None:
        if len(client.store(user="alice").list_namespaces()) == 10:
            raise KeyboardInterrupt

    admin.on_step = stop
    with pytest.raises(KeyboardInterrupt):
        admin.clear_namespaces("alice", "n")
    admin.on_step = None
    assert admin.clear_namespaces("alice", "n") == 10
    assert client.store(user="alice").list_namespaces() == []


def test_rename(client: Client, admin: Admin, raw: redis.Redis) -> None:
    old, new = (client.store(user="alice", namespace=name) for name in ("old", "n\n*"))
    old.set_many({f"k{number}": number for number in range(300)})
    old.set("short", 1, metadata={"x": 1}, ttl=86_400)
    old.get_or_set("tagged", lambda: 1, tags=["t"])
    before = text_of(admin, "alice", "old")
    with old.watch() as of_old, new.watch() as of_new:
        assert of_old.next_change(timeout=0) is None
        assert of_new.next_change(timeout=0) is None
        assert admin.rename_namespace("alice", "old", "n\n*") == 302
        assert [change.op for change in changes_until(of_old, lambda change: change.key is None)] == ["clear"]
        seen = set()
        for change in changes_until(of_new, lambda change: len(seen | {change.key}) == 302):
            seen.add(change.key)
    assert text_of(admin, "alice", "n\n*").splitlines()[:-1] == before.replace(b'"old"', b'"n\\n*"').splitlines()[:-1]
    assert client.store(user="alice").list_namespaces() == ["n\n*"]
    assert new.invalidate_tag("t") == 1
    assert admin.rename_namespace("alice", "old", "n\n*") == 0  # as after an interruption
    old.set("k", 1)
    with pytest.raises(Conflict, match="holds data"):
        admin.rename_namespace("alice", "old", "n\n*")
    with pytest.raises(InvalidInput):
        admin.rename_namespace("alice", "old", "old")
    assert (len(old), len(new)) == (1, 301)


def test_a_rename_killed_before_its_end_keeps_the_tags(
    client: Client, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (client.store(user="alice", namespace=name) for name in ("old", "new"))
    old.get_or_set("tagged", lambda: 1, tags=["t"])

    def killed(found: int) -> None:
        if not len(old):
            raise KeyboardInterrupt

    admin.on_step = killed
    with pytest.raises(KeyboardInterrupt):
        admin.rename_namespace("alice", "old", "new")
    assert new.invalidate_tag("t") == 1


def test_copies_keep_everything(client: Client, admin: Admin, raw: redis.Redis) -> None:
    store = client.store(user="alice", namespace="a", agent="one")
    store.set_many({f"k{number}": number for number in range(300)})
    store.set("short", 1, metadata={"x": 1}, ttl=86_400)
    store.get_or_set("tagged", lambda: 1, tags=["t"])
    raw.hset("user:alice:ns:a", "by hand", b"\xff")
    done = admin.copy_namespace("alice", "a", "b", "bob\n*")
    assert done.written == 303
    theirs = client.store(user="bob\n*", namespace="b")
    assert theirs.info("short") == store.info("short")
    again = admin.copy_namespace("alice", "a", "b", "bob\n*")
    assert (again.written, again.already) == (0, 303)
    assert (theirs.invalidate_tag("t"), "tagged" in store) == (1, True)
    theirs.set("k0", "other")
    assert admin.copy_namespace("alice", "a", "b", "bob\n*").kept == 1
    assert admin.copy_namespace("alice", "a", "b", "bob\n*", replace=True).written == 1
    assert theirs.get("k0") == 0
    with pytest.raises(InvalidInput, match="itself"):
        admin.copy_namespace("alice", "a", "a")


@pytest.mark.parametrize("user", HARD_USERS)
def test_a_deleted_user_leaves_nothing(user: str, client: Client, admin: Admin, raw: redis.Redis) -> None:
    for other in HARD_USERS:
        for name in HARD_NAMES:
            client.store(user=other, namespace=name).set("k", 1)
    client.store(user="bob").set("k", 1)
    before = state_of(raw)
    mine = {key for key in before if _is_of(key, user)}
    store = client.store(user=user)
    with store.lock("l"), store.semaphore("s", 2), store.watch(consumer="c") as changes:
        store.get_or_set("k", lambda: 1, tags=["t"])
        assert changes.take(1, timeout=10)
    store.rate_limit("r", 5, per=1000).acquire()
    admin.clear(user, "*")
    assert any(key for key in raw.scan_iter("user:*") if b":trash:" in key)
    assert admin.delete_user(user).redis_keys > 3
    assert state_of(raw) == {key: found for key, found in before.items() if key not in mine}
    assert not [key for key in raw.scan_iter("user:*") if _is_of(key, user)]
    assert admin.delete_user(user) == Deleted(0, 0)


def _is_of(key: bytes, user: str) -> bool:
    parts = parse_redis_key(key)
    return parts is not None and parts.user == user


def test_a_user_in_both_forms_of_keys_is_deleted_in_both(admin: Admin, raw: redis.Redis) -> None:
    raw.hset("user:{alice}:ns:default", "k", "1")
    raw.hset("user:alice:ns:default", "k", "1")
    raw.hset("user:{%7Balice%7D}:ns:default", "k", "1")
    assert admin.delete_user("alice").keys == 2
    assert raw.keys("user:*:ns:*") == [b"user:{%7Balice%7D}:ns:default"]


def test_what_is_not_ours_goes_with_the_user_too(client: Client, admin: Admin, raw: redis.Redis) -> None:
    client.store(user="alice").set("k", 1)
    raw.set("user:alice:ns:x", "a string")
    raw.set("user:alice:else", 1)
    assert admin.delete_user("alice").keys == 1
    assert not raw.keys("user:alice:*")


def test_a_user_that_is_written_to_is_not_called_deleted(
    client: Client, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client.store(user="alice")
    store.set("k", 1)
    admin.on_step = lambda found: store.set("k", 1)
    with pytest.raises(Conflict, match="still being written to"):
        admin.delete_user("alice")
    assert [each.outcome for each in admin.iter_audit()] == ["begun", "failed"]


def test_set_and_delete_are_like_an_agents(client: Client, admin: Admin) -> None:
    with client.store(user="alice").watch() as changes:
        assert changes.next_change(timeout=0) is None
        admin.set_value("alice", "default", "k", [1], {"m": 1}, timedelta(days=1))
        assert admin.delete_keys("alice", "default", ["k", "none"]) == 1
        assert [change.op for change in changes_until(changes, lambda change: change.op == "delete")] == [
            "set",
            "delete",
        ]
    assert [(each.what, each.by, each.key, each.count) for each in admin.iter_audit()] == [
        ("set", "tester", "k", 1), ("delete", "tester", None, 1)
    ]  # fmt: skip


def test_asyncio(url: str, client: Client, raw: redis.Redis) -> None:
    async def main() -> None:
        async with AsyncAdmin(url) as both:
            await both.set_value("alice", "a", "k", 1)
            await both.set_value("alice", "a", "l", 1)
            assert await both.delete_keys("alice", "a", ["l"]) == 1
            assert (await both.copy_namespace("alice", "a", "b")).written == 1
            assert await both.rename_namespace("alice", "b", "c") == 1
            assert await both.clear("alice", "c") == 1
            assert (await both.undo_clear("alice", "c")).written == 1
            assert await both.clear_namespaces("alice", "c") == 1
            assert (await both.delete_user("alice")).keys == 1

    asyncio.run(main())
    assert not raw.keys("user:alice:*")


# The commands


def test_the_commands_ask_and_say(client: Client, run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    store = client.store(user="alice", namespace="n")
    run("set", "k", '{"a": 1}', "--user", "alice", "--namespace", "n", "--ttl", "12h", "--metadata", '{"m": 1}')
    assert store.get("k") == {"a": 1}
    info = store.info("k")
    assert info is not None
    assert (info.metadata, info.expires_at is not None) == ({"m": 1}, True)
    assert "quotes of its own" in run("set", "k", "text", "--user", "alice", code=2).err
    run("set", "k", "1", "--user", "alice", "--ttl", "soon", code=2)
    answers: list[str] = []
    monkeypatch.setattr("sys.stdin.readline", lambda: answers.pop(), raising=False)
    for command in (
        ("clear", "--user", "alice", "--namespace", "n"),
        ("clear", "--user", "alice", "--prefix", ""),
        ("delete", "k", "--user", "alice", "--namespace", "n"),
        ("user", "delete", "alice"),
    ):
        answers.append("no\n")
        assert "Nothing was changed" in run(*command, code=1).err
    assert store.list_keys() == ["k"]
    assert "1 key deleted" in run("clear", "--user", "alice", "--namespace", "n", "--yes").err
    assert "1 key brought back" in run("undo", "--user", "alice", "--namespace", "n").err
    run("undo", "--user", "alice", "--namespace", "n", code=3)
    run("rename", "n", "m", "--user", "alice")
    run("rename", "n", "m", "--user", "alice", code=3)
    run("copy", "m", "n", "--user", "alice")
    run("rename", "n", "m", "--user", "alice", code=4)
    run("copy", "none", "n", "--user", "alice", code=3)
    store.set("k", 2)
    run("copy", "m", "n", "--user", "alice", code=4)
    assert "1 key deleted" in run("delete", "k", "none", "--user", "alice", "--namespace", "m", "--yes").err
    run("delete", "k", "--user", "alice", "--namespace", "m", "--yes", code=3)
    assert "nothing is left" in run("user", "delete", "alice", "--yes").err
    run("user", "delete", "alice", "--yes", code=3)
    assert client.store(user="alice").list_namespaces() == []


def test_an_invalid_user_is_refused(admin: Admin) -> None:
    for call in (admin.delete_user, lambda user: admin.clear(user, "n"), lambda user: admin.undo_clear(user, "n")):
        with pytest.raises(InvalidInput):
            call("")
