"""Stands between an operation and its driver, and sees the calls go by."""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from typing import Any, TypeVar, cast

from redis_store.protocol.call import Call, Op

T = TypeVar("T")

Sees = Callable[[Call[Any]], object]


def observed(op: Op[T], before: Sees, after: Sees) -> Op[T]:
    """Return the same operation, which shows each of its calls before it goes out, and when it has an answer or never will."""
    return cast("Op[T]", _observed(op, before, after))


@types.coroutine
def _observed(op: Op[T], before: Sees, after: Sees) -> Generator[Call[Any], Any, T]:
    try:
        call = op.send(None)
        while True:
            before(call)
            try:
                try:
                    reply = yield call
                finally:
                    after(call)
            except GeneratorExit:
                raise
            except BaseException as error:
                call = op.throw(error)
            else:
                call = op.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        op.close()
