"""Which stores have to look at their server, and at their user, before their first operation: see `ops/first_look.py`."""

from __future__ import annotations

from typing import Any

from redis_store.connections.resolver import Resolver
from redis_store.errors import DataStoreError, InvalidInput
from redis_store.namespace.keys import FormUnknown, UserKeys
from redis_store.ops.first_look import check_user, cluster_slots, find_form, first_look
from redis_store.protocol.call import Op

MOST_SURE = 100_000
"""Bound on the users that are remembered to have been looked at."""

_sure: set[tuple[str, str]] = set()
"""Logins and users that this process has looked at: it finds their data, and reads its format."""


def unsure(user: UserKeys | None, resolver: Resolver) -> UserKeys | None:
    """Return the user of a new store if the server has to be asked before its first operation, else None.

    The first store of a process asks about the server, and the first one of each user about the user.
    """
    if user is None or (resolver.is_known and (resolver.login, user.user) in _sure):
        return None
    return user


def rehearse(op: Op[Any]) -> None:
    """Begin an operation that will not be run, as its server cannot be reached, for what it would refuse in any case."""
    try:
        op.send(None)
    except InvalidInput:
        raise
    except (StopIteration, FormUnknown, DataStoreError):
        return
    finally:
        op.close()


def looking(resolver: Resolver) -> Op[None] | None:
    """Return the operation that finds out whether the server is a cluster, for what concerns no user; None if that is known."""
    known = resolver.form.tagged
    return None if known is False or resolver.topology is not None else _look(resolver)


async def _look(resolver: Resolver) -> None:
    await find_form(resolver.form)
    if resolver.form.tagged:
        resolver.note_slots(await cluster_slots())


async def making_sure(user: UserKeys, resolver: Resolver) -> None:
    """Ask the server. Raises if the store cannot be used, or would show nothing of what the user has."""
    if resolver.is_known:
        await check_user(user)
    else:
        await first_look(user, waits=resolver.min_replicas > 0)
        resolver.note_known()
        if user.form.tagged and resolver.topology is None:
            resolver.note_slots(await cluster_slots())
    if len(_sure) >= MOST_SURE:
        _sure.clear()
    _sure.add((resolver.login, user.user))
