"""Operations about the server itself: whether it replies, what it is, and what it lacks."""

from __future__ import annotations

from typing import Any

from redis_store.errors import PermissionDenied, ServerRefused
from redis_store.ops.first_look import cannot_run
from redis_store.protocol.call import Call, as_is, read
from redis_store.protocol.command import Argument, Command
from redis_store.server_config import NEEDED_FLAGS, facts_of, missing_flags
from redis_store.types import ServerInfo

_KEY = b"user:redis-store:probe"
"""A Redis key, and a channel, that the library uses for nothing else."""

_PROBES: tuple[tuple[str, Command, str], ...] = (
    ("EVAL", ("EVAL", "return 1", 0), "nothing can be written, because every write is a script"),
    ("streams", ("XLEN", _KEY), "changes cannot be watched or waited for"),
    ("PUBLISH", ("PUBLISH", _KEY, ""), "waiters are not woken: they poll, and are up to half a second late"),
    ("HPEXPIRE", ("HPTTL", _KEY, "FIELDS", 1, "none"), "no key can expire: ttl= raises UnsupportedByServer"),
    ("CLIENT TRACKING", ("CLIENT", "TRACKING", "OFF"), "the near cache is off: every get asks the server"),
    ("WAIT", ("WAIT", 0, 1), "min_replicas= is refused: no write waits until replicas have it"),
    ("MEMORY USAGE", ("MEMORY", "USAGE", _KEY), "memory_bytes and quotas raise UnsupportedByServer"),
)
"""What the store uses, a harmless request that tells whether the server has it, and what is done without it."""

_EVENTS = "notify-keyspace-events"
_LATE = "external writes, expiries and evictions reach watchers a second late, and overwritten values not at all"


async def ping() -> bool:
    """Return True, or raise what the server replies instead."""
    await read("PING")
    return True


async def read_if_allowed(*command: Argument) -> Any:
    """Return the reply to a command that only reads, or None if the server refuses it."""
    try:
        return await read(*command)
    except (PermissionDenied, ServerRefused):
        return None


async def server_info() -> ServerInfo:
    """Return what the server is and what it lacks."""
    facts = await _facts()
    lacks = {name: without for name, command, without in _PROBES if await _refuses(command)}
    if await _refuses(("CONFIG", "GET", _EVENTS)):
        lacks["CONFIG"] = f"{_EVENTS} can be neither read nor set here: its operator sets it to {NEEDED_FLAGS}"
    elif missing_flags("".join(map(bytes.decode, (await read("CONFIG", "GET", _EVENTS))[1:]))):
        lacks[_EVENTS] = f"{_LATE}: set it to {NEEDED_FLAGS}, or pass configure_server=True"
    return ServerInfo(
        engine=facts.get("server_name", "redis"),
        version=facts.get("valkey_version") or facts.get("redis_version", ""),
        mode=facts.get("server_mode") or facts.get("redis_mode", ""),
        lacks=lacks,
    )


async def _facts() -> dict[str, str]:
    """Return what the server reports about itself."""
    info = await read_if_allowed("INFO", "server")
    if info is not None:
        return facts_of(info)
    pairs = await read("HELLO")  # without a number it only tells; every login may run it
    told = dict(zip(pairs[::2], pairs[1::2], strict=False))
    return {
        "server_name": told[b"server"].decode(),
        "redis_version": told[b"version"].decode(),
        "redis_mode": told[b"mode"].decode(),
    }


async def _refuses(command: Command) -> bool:
    """Whether the server lacks a command, or does not let this login run it. The Redis key of a probe may be another's."""
    try:
        await Call((command,), as_is, True)
    except PermissionDenied as error:
        return cannot_run(error)
    except ServerRefused:
        return True
    return False
