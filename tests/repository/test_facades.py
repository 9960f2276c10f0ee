"""The two facades: the same methods, arguments, defaults and docstrings, each a line over the same operations."""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import redis_store
import sandbox
from redis_store import AsyncDataStore, DataStore, connect, connect_async
from redis_store.admin import Admin, AsyncAdmin
from redis_store.mapping import StoreMapping

DESIGNED = {
    "get", "set", "delete", "list_keys", "list_namespaces", "get_many", "set_many", "clear", "use_namespace", "get_all",
    "delete_many", "iter_keys", "iter_items", "info", "contains", "count",
}  # fmt: skip
MAPPING = set(dir(StoreMapping)) - DESIGNED


def public(kind: type) -> dict[str, Any]:
    """The public members of a class by name."""
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any, Any]]:
    """Return the parameters of a function: names, kinds, defaults and annotations."""
    return [(p.name, p.kind, p.default, p.annotation) for p in inspect.signature(function).parameters.values()]


def annotations(function: Callable[..., Any]) -> list[str]:
    """Return the annotations of a function's parameters and result, as written."""
    signature = inspect.signature(function)
    return [str(part) for part in (*(p.annotation for p in signature.parameters.values()), signature.return_annotation)]


def without_awaiting(annotation: str) -> str:
    """Return the blocking counterpart of an asynchronous annotation."""
    plain = re.sub(r"Awaitable\[(\w+)\]", r"\1", annotation.replace("Async", ""))
    return plain.replace("Callable[P, R] | Callable[P, R]", "Callable[P, R]")


def test_both_have_the_designed_methods() -> None:
    assert public(DataStore).keys() >= DESIGNED
    assert public(AsyncDataStore).keys() >= DESIGNED


def test_both_have_the_same_members() -> None:
    assert public(DataStore).keys() - MAPPING == public(AsyncDataStore).keys() - MAPPING


@pytest.mark.parametrize("name", sorted(public(DataStore).keys() - MAPPING))
def test_members_match(name: str) -> None:
    ours, theirs = public(DataStore)[name], public(AsyncDataStore)[name]
    assert type(ours) is type(theirs)
    assert ours.__doc__ == theirs.__doc__
    assert ours.__doc__
    if isinstance(ours, property):
        return
    assert [part[:3] for part in parameters(ours)] == [part[:3] for part in parameters(theirs)]
    for annotation, async_annotation in zip(annotations(ours), annotations(theirs), strict=True):
        assert annotation == without_awaiting(async_annotation)


@pytest.mark.parametrize("name", sorted(public(Admin).keys() | public(AsyncAdmin).keys()))
def test_operations_for_operators_match(name: str) -> None:
    ours, theirs = public(Admin)[name], public(AsyncAdmin)[name]
    assert ours.__doc__ == theirs.__doc__
    assert ours.__doc__
    assert [part[:3] for part in parameters(ours)] == [part[:3] for part in parameters(theirs)]
    for annotation, async_annotation in zip(annotations(ours), annotations(theirs), strict=True):
        assert annotation == without_awaiting(async_annotation)


def test_records_for_operators_are_exported() -> None:
    for name, member in public(Admin).items():
        own = set(re.findall(r"\b[A-Z]\w{2,}", str(inspect.signature(member).return_annotation)))
        known = {*redis_store.admin.__all__, *redis_store.__all__, "Iterator", "None"}
        assert own <= known, (name, own - known)


def test_connect_functions_match() -> None:
    assert parameters(connect) == parameters(connect_async)


@pytest.mark.parametrize("kind", [DataStore, AsyncDataStore], ids=lambda kind: kind.__name__)
def test_types_that_are_returned_are_exported(kind: type) -> None:
    exported = {*redis_store.__all__, *dir(builtins), "Self"}
    for name, member in public(kind).items():
        function = member.fget if isinstance(member, property) else member
        written = re.sub(r"'[^']*'", "", str(inspect.signature(function).return_annotation))
        own = set(re.findall(r"\b[A-Z]\w{2,}", written)) - {"Any", "Iterator", "AsyncIterator"}
        assert own <= exported, (name, own - exported)


def test_version_is_that_of_the_distribution() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", redis_store.__version__)
    assert sandbox.__version__ == redis_store.__version__
    changes = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    latest = re.search(r"^## (\S+)", changes, re.MULTILINE)
    assert latest is not None
    assert latest[1] == redis_store.__version__


def test_everything_public_is_exported_and_documented() -> None:
    for name in redis_store.__all__:
        exported = getattr(redis_store, name)
        assert getattr(exported, "__doc__", None), name
