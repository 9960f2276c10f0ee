"""Handles with restricted rights: every forbidden use is refused before anything is sent."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_store import AccessDenied, AsyncDataStore, DataStore, InvalidInput, InvalidName, connect, connect_async
from redis_store.namespace.access import Access, Pattern
from tests.support.sides import AsyncSide, SyncSide
from tests.support.steps import Steps

READS: dict[str, tuple[Any, ...]] = {
    "get": ("k",),
    "get_many": (["k"],),
    "get_all": (),
    "list_keys": (),
    "iter_keys": (),
    "iter_items": (),
    "scan_page": (),
    "scan_items_page": (),
    "info": ("k",),
    "infos": (["k"],),
    "contains": ("k",),
    "count": (),
    "memory_bytes": (),
}
WRITES: dict[str, tuple[Any, ...]] = {
    "set": ("k", 1),
    "set_many": ({"k": 1},),
    "delete": ("k",),
    "delete_many": (["k"],),
    "clear": (),
}
CHANGES: dict[str, tuple[Any, ...]] = {
    "increment": ("k",),
    "append": ("list", 1),
    "update": ("k", lambda value: 1),
    "pop": ("k",),
    "compare_and_set": ("k", 0, 1),
    "expire": ("k", 5),
    "persist": ("k",),
    "set_if_absent": ("new", 1),
    "rename": ("k", "k"),
    "get_or_set": ("k", lambda: 1),
}
"""Operations that read and write, or whose answers tell what is there, and so need both rights."""
OF_THE_USER: dict[str, tuple[Any, ...]] = {
    "lock": ("name",),
    "semaphore": ("name", 2),
    "rate_limit": ("name", 2, 1),
    "invalidate_tag": ("tag",),
}
"""Operations outside any namespace, which need the right to write to at least one."""
NEITHER = {
    *("url", "user", "namespace", "use_namespace", "as_json_text", "close", "list_namespaces", "stats"),
    *("read_only", "sequence", "restricted", "cached", "transaction", "transact"),
}
WATCHES = {"watch", "watch_all", "wait_for", "wait_until"}
OF_MAPPINGS = {"items", "keys", "values", "popitem", "setdefault"}


@pytest.fixture
def store(server_url: str, user: str) -> Iterator[DataStore]:
    with connect(server_url, user=user) as data_store:
        data_store.set("k", 0)
        for name in ("shared", "files:a", "files:b", "files"):
            data_store.use_namespace(name).set("k", name)
        yield data_store


@pytest.fixture(params=["sync", "async"])
def side(request: pytest.FixtureRequest, store: DataStore) -> Iterator[Any]:
    """The store through each facade, with blocking methods."""
    if request.param == "sync":
        yield SyncSide(store)
        return
    loop = asyncio.new_event_loop()
    opened = AsyncSide(connect_async(store.url, user=store.user), loop)
    yield opened
    loop.run_until_complete(opened.store.close())
    loop.close()


def moved(side: Any, change: Callable[[Any], Any]) -> Any:
    """Return the side with another store in it."""
    changed = change(side.store)
    return SyncSide(changed) if side.name == "sync" else AsyncSide(changed, side._loop)


AsyncSide.name = "async"  # type: ignore[attr-defined]


def test_every_method_reads_or_writes_or_does_neither() -> None:
    for kind in (DataStore, AsyncDataStore):
        public = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")} - OF_MAPPINGS
        assert public == READS.keys() | WRITES.keys() | CHANGES.keys() | OF_THE_USER.keys() | NEITHER | WATCHES, kind


@pytest.mark.parametrize("method", READS)
def test_read_without_right_is_refused(side: Any, method: str) -> None:
    only_writes = moved(side, lambda store: store.restricted(write=["default"]))
    with pytest.raises(AccessDenied, match="Reading namespace 'default' is not allowed here") as caught:
        getattr(only_writes, method)(*READS[method])
    assert isinstance(caught.value, PermissionError)
    assert isinstance(caught.value, InvalidInput)
    assert caught.value.facts == {"action": "read", "namespace": "default", "readable": [], "writable": ["default"]}


@pytest.mark.parametrize(
    ("method", "more"),
    [
        *((method, {}) for method in WRITES),
        *((method, more) for method in ("set", "set_many") for more in ({"metadata": {"a": 1}}, {"ttl": 5})),
    ],
)
def test_write_without_right_is_refused(side: Any, method: str, more: dict[str, Any]) -> None:
    with pytest.raises(AccessDenied, match="Writing to namespace 'default' is not allowed here") as caught:
        getattr(moved(side, lambda store: store.read_only()), method)(*WRITES[method], **more)
    assert str(caught.value).endswith("allowed are reading everything, writing nothing.")
    assert side.get("k") == 0


@pytest.mark.parametrize("method", CHANGES)
def test_read_write_operation_needs_both_rights(side: Any, method: str) -> None:
    for rights, action in (({"read": ["*"]}, "Writing to"), ({"write": ["*"]}, "Reading")):
        handle = moved(side, lambda store, rights=rights: store.restricted(**rights))  # type: ignore[misc]
        with pytest.raises(AccessDenied, match=f"{action} namespace 'default'"):
            getattr(handle, method)(*CHANGES[method])
    assert side.list_keys() == ["k"]
    assert side.get("k") == 0


@pytest.mark.parametrize("method", OF_THE_USER)
def test_user_wide_operation_needs_write_right(side: Any, method: str) -> None:
    with pytest.raises(AccessDenied):
        getattr(moved(side, lambda store: store.read_only()), method)(*OF_THE_USER[method])
    getattr(moved(side, lambda store: store.restricted(write=["shared"])), method)(*OF_THE_USER[method])


def test_values_with_a_tag_stay_where_a_handle_may_not_write(side: Any) -> None:
    for name in ("cache:a", "cache:b", "other"):
        side.use_namespace(name).get_or_set("k", lambda: 1, tags=["t"])

    def invalidated(*write: str) -> Any:
        return moved(side, lambda store: store.restricted(write=write)).invalidate_tag("t")

    assert invalidated("default") == 0
    assert invalidated("cache:a") == 1
    assert (side.use_namespace("cache:a").list_keys(), side.use_namespace("cache:b").list_keys()) == ([], ["k"])
    assert invalidated("cache:*") == 1
    assert side.invalidate_tag("t") == 1


def test_transactions_are_checked_by_namespace(store: DataStore) -> None:
    handle = store.restricted(read=["shared"], write=["files:a"])
    with handle.transaction() as transaction:
        plan = transaction.use_namespace("shared").get("k")
        transaction.use_namespace("files:a").set("plan", plan)
        for forbidden in (
            lambda: transaction.get("k"),
            lambda: transaction.use_namespace("shared").set("k", 1),
            lambda: transaction.use_namespace("shared").delete("k"),
            lambda: transaction.use_namespace("files:a").get("plan"),
        ):
            with pytest.raises(AccessDenied):
                forbidden()
    assert store.use_namespace("files:a").get("plan") == "shared"
    assert store.use_namespace("shared").get("k") == "shared"


def test_broker_steps_are_checked(store: DataStore) -> None:
    token = "0123456789abcdef"
    for handle in (store.read_only(), store.restricted(write=["default"])):
        steps = Steps(handle)
        for forbidden in (
            lambda steps=steps: steps.replace("k", 0, 1),  # type: ignore[misc]
            lambda steps=steps: steps.claim_value("new", token),  # type: ignore[misc]
            lambda steps=steps: steps.commit_value("new", token, 1),  # type: ignore[misc]
            lambda steps=steps: steps.renew_value("new", token),  # type: ignore[misc]
            lambda steps=steps: steps.fail_value("new", token),  # type: ignore[misc]
        ):
            with pytest.raises(AccessDenied):
                forbidden()
    with pytest.raises(AccessDenied):
        Steps(store.read_only()).acquire_lock("name", token)


def test_cached_functions_are_checked(store: DataStore) -> None:
    called = []

    @store.read_only().cached()
    def compute(n: int) -> int:
        called.append(n)
        return n

    with pytest.raises(AccessDenied):
        compute(1)
    assert called == []


def test_refused_operation_sends_nothing(server_url: str, user: str) -> None:
    with connect("redis://127.0.0.1:1", user=user) as nowhere:
        for method, arguments in {**WRITES, **CHANGES, **OF_THE_USER}.items():
            with pytest.raises(AccessDenied):
                getattr(nowhere.read_only(), method)(*arguments)
        with pytest.raises(AccessDenied):
            nowhere.restricted(read=[]).get("k")
        with pytest.raises(AccessDenied):
            nowhere.restricted(read=[]).use_namespace("x")["k"]


def test_mapping_operations_are_checked(store: DataStore) -> None:
    reader, writer = store.read_only(), store.restricted(write=["default"])
    for forbidden in (
        lambda: reader.update(a=1),
        lambda: reader.setdefault("new", 1),
        lambda: reader.__delitem__("k"),
        lambda: writer["k"],
        lambda: "k" in writer,
        lambda: len(writer),
        lambda: list(writer.items()),
    ):
        with pytest.raises(AccessDenied):
            forbidden()
    writer["new"] = 1
    assert reader["new"] == 1


def test_only_readable_namespaces_are_listed(side: Any) -> None:
    def listed(**rights: Any) -> Any:
        return moved(side, lambda store: store.restricted(**rights)).list_namespaces()

    assert listed(read=["shared", "files:*"]) == ["files:a", "files:b", "shared"]
    assert listed(namespaces=["files"]) == ["files"]
    assert listed(read=["files*"]) == ["files", "files:a", "files:b"]
    assert listed(write=["*"]) == []
    assert listed(read=["none"]) == []
    assert moved(side, lambda store: store.read_only()).list_namespaces("files:") == ["files:a", "files:b"]


def test_rights_are_inherited_and_only_shrink(store: DataStore) -> None:
    handle = store.restricted(read=["files:*"], write=["files:a"])
    files = handle.use_namespace("files:a")
    files.set("k", 1)
    assert files.as_json_text().get("k") == b"1"
    with pytest.raises(AccessDenied, match=r"reading 'files:\*', writing 'files:a'"):
        files.use_namespace("shared").get("k")
    for wider in (
        handle.restricted(read=["*"], write=["*"]),
        handle.restricted(),
        handle.restricted(namespaces=["files:*", "shared"]),
    ):
        assert wider.list_namespaces() == ["files:a", "files:b"]
        with pytest.raises(AccessDenied):
            wider.use_namespace("files:b").set("k", 1)
    with pytest.raises(AccessDenied):
        handle.read_only().use_namespace("files:a").set("k", 1)
    narrower = handle.restricted(read=["files:b", "shared"])
    assert narrower.use_namespace("files:b").get("k") == "files:b"
    assert narrower.list_namespaces() == ["files:b"]


def test_patterns_are_literal_but_for_a_last_star(store: DataStore) -> None:
    for name in ("a*b", "axb", "[ab]", "a"):
        store.use_namespace(name).set("k", 1)
    assert store.restricted(read=["a*b"]).list_namespaces() == ["a*b"]
    assert store.restricted(read=["[ab]", "?"]).list_namespaces() == ["[ab]"]
    assert store.restricted(read=["a*"]).list_namespaces() == ["a", "a*b", "axb"]


@pytest.mark.parametrize("wrong", ["shared", b"shared", 5, [5], [None], [""], ["\ud800"], ["x" * 2000]])
def test_invalid_patterns(store: DataStore, wrong: Any) -> None:
    for what in ("read", "write", "namespaces"):
        with pytest.raises(InvalidInput):
            store.restricted(**{what: wrong})


def test_a_wrong_pattern_says_what_to_do(store: DataStore) -> None:
    with pytest.raises(InvalidInput, match="read must be a list of namespace patterns, not str: put a single one"):
        store.restricted(read="shared")
    with pytest.raises(InvalidName, match="namespace pattern must not be empty"):
        store.restricted(read=[""])


def test_the_error_survives_pickling(store: DataStore) -> None:
    with pytest.raises(AccessDenied) as caught:
        store.read_only().set("k", 1)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.facts) == (AccessDenied, str(caught.value), caught.value.facts)


names = st.text("ab*", min_size=1, max_size=4)
patterns = st.lists(names, max_size=3)


@given(patterns, patterns, names)
def test_narrowing_intersects_rights(ours: list[str], theirs: list[str], name: str) -> None:
    one, other = Access.of(read=ours, write=theirs), Access.of(read=theirs, write=ours)
    both = one.narrowed(other)
    assert both.may_read(name) == (one.may_read(name) and other.may_read(name))
    assert both.may_write(name) == (one.may_write(name) and other.may_write(name))


@given(names)
def test_a_pattern_reads_as_it_was_written(written: str) -> None:
    assert str(Pattern.of(written)) == written
    assert Pattern.of(written).matches(written)


def test_watching_keeps_to_the_rights_of_a_handle(
    server_url: str, user: str, open_store: Callable[..., DataStore]
) -> None:
    store = open_store(server_url, user)
    store.use_namespace("files:a").set("key", 1)
    handle = store.restricted(read=["files:*", "shared"])
    for refused in (
        handle.use_namespace("secret").watch,
        handle.watch_all,
        lambda: handle.watch_all(prefix="f"),
        lambda: handle.watch_all(prefix="shared"),
        lambda: handle.use_namespace("secret").wait_for("key", timeout=1),
    ):
        with pytest.raises(AccessDenied):
            refused()
    with handle.watch_all(prefix="files:", initial=True) as changes:
        assert next(changes).namespace == "files:a"
    with store.read_only().watch_all(initial=True) as changes:
        assert next(changes).namespace == "files:a"
