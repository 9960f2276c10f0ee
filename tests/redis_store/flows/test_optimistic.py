"""The flow of an optimistic change that is retried, step by step and without a server."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Literal

import pytest

from redis_store.flows.flow import Do, Pause
from redis_store.flows.optimistic import TRIES_AT_ONCE, change_value


def result_of(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a flow that never waits."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


def test_write_during_back_off_is_read_before_next_try() -> None:
    """Otherwise each try after a pause would fail where there are many writers."""
    stands = b"0"
    tried: list[bytes | None] = []

    async def look() -> bytes | None:
        return stands

    async def change(there: bytes | None) -> bytes:
        tried.append(there)
        return b"mine"

    async def replace(text: bytes, there: bytes | None) -> Literal[True] | bytes | None:
        nonlocal stands
        if len(tried) <= TRIES_AT_ONCE:
            stands = b"%d" % len(tried)  # another writer was faster
        return True if there == stands else stands

    flow = change_value("key", stands, look, change, replace, lambda: 0.5)
    step = flow.send(None)
    while not isinstance(step, Pause):
        assert isinstance(step, Do)
        step = flow.send(result_of(step.op))
    stands = b"written in the pause"
    read = flow.send(None)
    assert isinstance(read, Do)
    written = flow.send(result_of(read.op))
    assert isinstance(written, Do)
    with pytest.raises(StopIteration) as stop:
        flow.send(result_of(written.op))
    assert stop.value.value == b"mine"
    assert tried == [b"0", b"1", b"2", b"written in the pause"]
