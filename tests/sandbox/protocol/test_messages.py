"""Checks of messages: which are accepted, whatever their parts."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_store import operations
from redis_store.brokers import steps
from sandbox.protocol.frames import FrameError
from sandbox.protocol.messages import FROM_CHILD, Shape, read_from_child
from sandbox.protocol.operations import BOUNDED, OPERATIONS, read_request

SAMPLES: dict[type, Any] = {str: "x", bytes: b"1", int: 1, float: 0.5, type(None): None, bool: True}
parts = st.sampled_from(list(SAMPLES.values())) | st.text() | st.integers() | st.binary()


def fitting(shape: Shape, repeats: int = 2) -> list[Any]:
    return [SAMPLES[min(kinds, key=lambda kind: kind.__name__)] for kinds in (*shape.fixed, *shape.repeated * repeats)]


def test_each_operation_can_be_carried_out() -> None:
    carried_out = (
        steps._STEPS.keys() | operations._READS.keys() | operations._OPERATIONS.keys() | operations._FLOWS.keys()
    )
    assert OPERATIONS.keys() <= carried_out | {"look_value"}, "`steps.carry_out` has this one itself"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_arity_and_types_of_each_operation(operation: str) -> None:
    shape = OPERATIONS[operation].shape
    good = fitting(shape)
    assert read_request([1, operation, "default", *good]) == (1, operation, "default", None, good)
    with pytest.raises(FrameError, match=operation):
        read_request([1, operation, "default", *good, True])
    if shape.fixed:
        with pytest.raises(FrameError):
            read_request([1, operation, "default", *good[: len(shape.fixed) - 1]])
    for place in range(len(good)):
        with pytest.raises(FrameError):
            read_request([1, operation, "default", *good[:place], True, *good[place + 1 :]])


def test_only_operations_that_may_add_keys_take_a_bound() -> None:
    for operation, row in OPERATIONS.items():
        good = fitting(row.shape)
        request = [1, BOUNDED, "default", 5, operation, *good]
        if row.adds:
            assert read_request(list(request)) == (1, operation, "default", 5, good)
            for wrong in ([*request[:3], True, *request[4:]], [*request[:3], None, *request[4:]], request[:4]):
                with pytest.raises(FrameError):
                    read_request(wrong)
        else:
            with pytest.raises(FrameError, match="bound"):
                read_request(request)
    with pytest.raises(FrameError):
        read_request([1, BOUNDED, "default", 5, BOUNDED, 5, "set", "k", b"1", None, None])


@pytest.mark.parametrize("kind", FROM_CHILD)
def test_arity_and_types_of_each_message_of_the_child(kind: str) -> None:
    good = fitting(FROM_CHILD[kind])
    assert read_from_child([kind, *good]) == (kind, good)
    for wrong in ([*good, 1], good[:-1] if good else [1], [True, *good[1:]]):
        with pytest.raises(FrameError):
            read_from_child([kind, *wrong])


@given(st.lists(parts, max_size=8))
def test_only_known_operations_and_messages_are_accepted(frame: list[Any]) -> None:
    with suppress(FrameError):
        assert read_request(frame)[1] in OPERATIONS
    with suppress(FrameError):
        assert read_from_child(frame)[0] in FROM_CHILD


@pytest.mark.parametrize(
    "operation",
    [
        "__class__",
        "close",
        "_driver",
        "url",
        "as_json_text",
        "use_namespace",
        "execute",
        "GET",
        "get\0",
        "",
        "x" * 10_000,
    ],
)
def test_operation_names_do_not_reach_attributes(operation: str) -> None:
    with pytest.raises(FrameError) as caught:
        read_request([1, operation, "default"])
    assert len(str(caught.value)) < 300
