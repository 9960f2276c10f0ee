"""What each operation of the data channel needs, as docs/security.md lists it: a new row of the table must decide."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from redis_store import AccessDenied, DataStore, DataStoreError
from redis_store.brokers.lease import lease
from redis_store.namespace.access import Access, Names
from sandbox.permissions import AGENTS_NAMES, KNOWN_OPERATIONS, Granted, Permissions
from sandbox.protocol.arguments import BOUND, DELETE, EXPECT, READ, SET
from sandbox.protocol.messages import FROM_CHILD, WATCHES, WATCHING
from sandbox.protocol.operations import BOUNDED, OPERATIONS
from tests.support.brokered_side import FakeTree, brokered

TOKEN = "token-of-mine"
CALLS: dict[str, tuple[Any, ...]] = {
    "get": ("k",),
    "set": ("k", b"2", None, None),
    "set_if_version": ("k", b"2", None, None, 1),
    "delete": ("k",),
    "delete_if_version": ("k", 1),
    "delete_many": ("k",),
    "list_keys": (None,),
    "scan_page": ("0", None),
    "scan_items_page": ("0", None),
    "list_namespaces": (None,),
    "get_many": ("k",),
    "get_all": (None,),
    "get_many_info": ("k",),
    "get_all_info": (None,),
    "scan_infos_page": ("0", None),
    "set_many": (None, None, "k", b"2"),
    "clear": (),
    "info": ("k",),
    "infos": ("k",),
    "contains": ("k",),
    "count": (),
    "get_touched": ("k", 5),
    "get_sliding": ("k", 5),
    "get_many_sliding": (5, "k"),
    "expire": ("k", 5),
    "persist": ("k",),
    "increment": ("k", b"1", None),
    "append": ("list", None, None, b"1"),
    "set_if_absent": ("new", b"1", None),
    "compare_and_set": ("k", b"1", b"2", None),
    "rename": ("k", "k2"),
    "pop": ("k", b"1"),
    "sequence_append": (None, b"1"),
    "sequence_append_bounded": (1, None, b"1"),
    "sequence_last": (1,),
    "sequence_range": (0, None),
    "sequence_page": (0,),
    "sequence_pop": ("", None),
    "replace": ("k", b"1", b"2", None),
    "look_value": ("k",),
    "claim_value": ("new", TOKEN, None, None, 30, 0),
    "renew_value": ("new", TOKEN, 30),
    "commit_value": ("new", TOKEN, b"1", None, None),
    "fail_value": ("new", TOKEN, "", ""),
    "invalidate_tag": ("t", 0, "*", 1, "*"),
    "commit_transaction": (1, "default", "k", b"2", None),
    "acquire_lock": ("x", TOKEN, 30, 0),
    "renew_lock": ("x", TOKEN, 30),
    "release_lock": ("x", TOKEN),
    "acquire_place": ("x", TOKEN, 1, 30, 0),
    "renew_place": ("x", TOKEN, 1, 30),
    "release_place": ("x", TOKEN, 1),
    "take_moment": ("x", 1, 1, 0),
}
KINDS = {"lock": "locks", "place": "locks", "moment": "limits", "tag": "tags"}


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return the right of each operation, and the operations that it also needs, from the table in docs/security.md."""
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
    table = page.partition("## What operations need and reveal")[2].partition("\n## ")[0]
    found = {}
    for names, right, needs, _ in re.findall(r"^\| (`.+?) \| (.+?) \| (.+?) \| (.+?) \|$", table, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            found[name] = right, set(re.findall(r"`(\w+)`", needs))
    return found


def called(store: DataStore, granted: Granted, operation: str, *parts: Any, max_keys: int | None = None) -> Any:
    """Send a call as a hostile agent can: without the checks in its own process."""
    head = (operation,) if max_keys is None else (BOUNDED, max_keys, operation)
    with (
        lease(store, user=store.user, namespace="default", access=granted.access) as lent,
        brokered(lent, FakeTree(store, granted)) as bound,
    ):
        return bound.channel.call(head[0], "default", *head[1:], *parts)


def refused(store: DataStore, granted: Granted, operation: str, *parts: Any, max_keys: int | None = None) -> bool:
    """Whether a call is refused for want of a right; then it must have changed nothing."""
    store.clear()
    store.set_many({"k": 1, "k2": 1, "k3": 1})
    try:
        called(store, granted, operation, *parts, max_keys=max_keys)
    except AccessDenied:
        assert store.get_all() == {"k": 1, "k2": 1, "k3": 1}
        return True
    except DataStoreError:  # this server lacks a ttl for each key
        pass
    return False


def method(operation: str) -> str:
    """Return the name by which agents call an operation, and permissions name it."""
    return AGENTS_NAMES.get(operation, operation)


def test_every_operation_is_in_the_table() -> None:
    assert documented().keys() == KNOWN_OPERATIONS
    assert CALLS.keys() == OPERATIONS.keys()
    assert {"watch", "next", "unwatch", "wait"} == WATCHING
    assert set(WATCHES) == {"watch", "watch_all", "wait_for"}
    assert FROM_CHILD.keys() - WATCHING == {
        *("started", "call", "agent", "cancel", "refused_write", "result", "raised"),
        *("invalid_agent", "invalid_result", "result_too_big", "exited"),
    }, "a message that reaches the store needs rights, and a row in the table"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_needs_each_of_its_rights(store: DataStore, operation: str) -> None:
    right, needs = documented()[method(operation)]
    parts, row = CALLS[operation], OPERATIONS[operation]

    def of(*names: str) -> Granted:
        return Permissions(operations=names).granted({})

    others = KNOWN_OPERATIONS - {method(operation)}
    assert refused(store, of(*others), operation, *parts)
    if operation == "commit_transaction":
        needs = set()  # the steps of this one need nothing
    assert not refused(store, of(method(operation), *needs), operation, *parts)
    for missing in needs:
        assert refused(store, of(method(operation), *needs - {missing}), operation, *parts)
    if row.adds:
        assert refused(store, of(method(operation), *needs), operation, *parts, max_keys=1)
        assert not refused(store, of(method(operation), *needs, "delete"), operation, *parts, max_keys=1)

    rights = {"read": Granted(Access.of(write=["*"])), "write": Granted(Access.of(read=["*"]))}
    wanted = {name for name in rights if name in right}
    if operation != "commit_transaction":
        assert (row.reads, row.writes) == ("read" in right, right in ("write", "read, write"))
        assert {name for name, granted in rights.items() if refused(store, granted, operation, *parts)} >= wanted
    kind = KINDS.get(operation.split("_")[-1])
    if kind is not None:
        nothing = Access(names=Names("agent", **{kind: ()}))  # type: ignore[arg-type]
        assert refused(store, Granted(nothing), operation, *parts)
        assert kind == "tags" or f"`{kind}`" == right


@pytest.mark.parametrize(
    ("step", "needed"),
    [
        ((READ, "default", "k", b"1", None), "get"),
        ((READ, "default", "new", None, None), "get"),
        ((DELETE, "default", "k", None, None), "delete"),
        ((EXPECT, "default", "k", None, 1), "info"),
        ((SET, "default", "k", b"2", None, BOUND, "default", "", None, 1), "delete"),
    ],
)
def test_steps_of_a_transaction_need_what_they_do(store: DataStore, step: tuple[Any, ...], needed: str) -> None:
    for names, is_refused in (({"transaction"}, True), ({"transaction", needed}, False)):
        granted = Permissions(operations=names).granted({})
        assert refused(store, granted, "commit_transaction", *step) == is_refused
    assert needed in documented()["transaction"][1]


def test_error_says_which_operation_is_missing(store: DataStore) -> None:
    granted = Permissions(operations=["set"]).granted({})
    with pytest.raises(AccessDenied) as caught:
        called(store, granted, "set", "k", b"1", None, None, max_keys=1)
    assert str(caught.value) == (
        "The operation 'delete', which this 'set' needs, is not allowed here; allowed operations: 'set'."
    )
    assert caught.value.action == "delete"


def test_answers_tell_a_writer_nothing_about_keys_that_remain(store: DataStore) -> None:
    """The same answers whether the key was there or not, for all that leaves it there."""
    granted = Granted(Access.of(write=["default"]))
    for operation, row in OPERATIONS.items():
        if not row.writes or row.reads or operation in ("delete", "delete_many", "clear"):
            continue
        answers = []
        for there in ({}, {"k": 1}):
            store.clear()
            store.set_many({"k2": 1, **there})
            answers.append(called(store, granted, operation, *CALLS[operation]))
        assert answers[0] == answers[1], operation
