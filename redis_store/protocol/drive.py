"""Stepping an operation to its end, for threads and for asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis_store.protocol.call import Call, Op, ReplyError, not_a_call
from redis_store.protocol.error_replies import raise_error_reply

T = TypeVar("T")


def drive(op: Op[T], exchange: Callable[[Call[Any]], Any]) -> T:
    """Step an operation to its end with `exchange` for each call. `SyncDriver.run` has a copy of this loop, for speed."""
    try:
        call = op.send(None)
        while True:
            if type(call) is not Call:
                raise not_a_call(call)
            try:
                reply = exchange(call)
                if type(reply) is ReplyError or len(call.commands) > 1:
                    raise_error_reply(reply, call.commands)
            except Exception as error:
                call = op.throw(error)
            else:
                call = op.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        op.close()


async def drive_async(op: Op[T], exchange: Callable[[Call[Any]], Awaitable[Any]]) -> T:
    """Step an operation to its end with `exchange` for each call."""
    try:
        call = op.send(None)
        while True:
            if type(call) is not Call:
                raise not_a_call(call)
            try:
                reply = await exchange(call)
                if type(reply) is ReplyError or len(call.commands) > 1:
                    raise_error_reply(reply, call.commands)
            except Exception as error:
                call = op.throw(error)
            else:
                call = op.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        op.close()
