"""Stepping coroutines to their end."""

from __future__ import annotations

from typing import Any, NoReturn

from redis_store.protocol.call import Call, as_is, observed
from redis_store.protocol.drive import drive


def test_errors_are_thrown_into_an_operation_that_is_observed() -> None:
    async def ask() -> Any:
        try:
            return await Call((("PING",),), as_is)
        except ConnectionError as error:
            return f"told of {error}"

    def carry_out(call: Call[Any]) -> NoReturn:
        raise ConnectionError("the end")

    def see(call: Call[Any]) -> None:
        pass

    assert drive(ask(), carry_out, Exception) == "told of the end"
    assert drive(observed(ask(), see, see), carry_out, Exception) == "told of the end"
