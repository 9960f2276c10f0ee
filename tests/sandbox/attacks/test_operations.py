"""Attacks on permissions: raw calls that reveal or delete more than the operations and namespaces that the agent was granted."""

from __future__ import annotations

from typing import Any

import pytest

import sandbox
from redis_store import DataStore
from sandbox import Permissions

from .corpus import NO_CONTROL_NEEDED, Attack

WITHOUT_GET = Attack(
    "values without the right to get them, and deletions without the right to delete",
    """
    def send(*call):
        return data_store._operations.channel.call(*call)

    token = "token-of-mine"
    for call in (
        ("claim_value", "default", "k", token, None, None, 30, 0), ("replace", "default", "k", b"0", b"1", None), ("pop", "default", "k", None),
        ("commit_transaction", "default", 0, "default", "k", b"1", None), ("commit_transaction", "default", 0, "default", "no", None, None),
        ("commit_transaction", "default", 2, "default", "k", None, None),
        ("commit_transaction", "default", 1, "default", "k", b"1", None, 3, "default", "", None, 1),
        ("bounded", "default", 1, "set", "x", b"1", None, None), ("bounded", "default", 1, "set_many", None, None, "x", b"1"),
        ("bounded", "default", 1, "set_if_absent", "x", b"1", None), ("bounded", "default", 1, "append", "x", None, None, b"1"),
    ):
        try:
            won = won or repr(send(*call))
        except Exception as error:
            assert type(error).__name__ == "AccessDenied", (call, error)
    """,
    NO_CONTROL_NEEDED,
)
GRANTED = ["get_or_set", "update", "pop", "transaction", "set", "set_many", "set_if_absent", "append"]

PROBING = Attack(
    "a writer's questions which keys there are",
    """
    for call in (
        ("rename", "k", "k"), ("expire", "k", 3e9), ("persist", "k"), ("set_if_absent", "k", b"1", None), ("contains", "k"), ("info", "k"),
        ("compare_and_set", "k", None, b"1", None), ("increment", "k", b"0", None), ("append", "k", None, None), ("pop", "k", None),
        ("commit_transaction", 0, "default", "k", b"1", None), ("count",), ("claim_value", "k", "token-of-mine", None, None, 30, 0),
    ):
        try:
            won = won or repr(data_store._operations.send(*call))
        except Exception as error:
            assert type(error).__name__ == "AccessDenied", (call, error)
    """,
    NO_CONTROL_NEEDED,
)


@pytest.mark.parametrize("broker", ["thread", "process"])
def test_attack_fails(broker: str, world: Any, store: DataStore, server_url: str, user: str) -> None:
    """Run only in the best tier: the path from agent to broker is the same in every tier."""
    store.set_many({"k": 1, "other": 2})
    for one, permissions in (
        (WITHOUT_GET, Permissions(operations=GRANTED)),
        (PROBING, Permissions(write=["*"])),
    ):
        with sandbox.Sandbox(url=server_url, permissions=permissions, broker=broker) as box:
            assert box.run(one.source, world.facts, user=user).check() == {"won": False}
        assert store.get_all() == {"k": 1, "other": 2}
