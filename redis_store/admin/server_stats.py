"""What a server counts about itself."""

from __future__ import annotations

import re

from redis_store.admin.records import ServerStats
from redis_store.protocol.call import read
from redis_store.server_config import facts_of

_COUNT = re.compile(r"keys=(\d+)")


async def server_stats(database: int = 0) -> ServerStats:
    """Ask the server for its counts, in one request."""
    facts = facts_of(await read("INFO"))

    def number(name: str) -> int:
        text = facts.get(name, "")
        return int(text) if text.isdecimal() else 0

    keys = _COUNT.search(facts.get(f"db{database}", ""))
    return ServerStats(
        engine=facts.get("server_name", "redis"),
        version=facts.get("valkey_version") or facts.get("redis_version", ""),
        role=facts.get("role", ""),
        uptime_s=number("uptime_in_seconds"),
        clients=number("connected_clients"),
        blocked_clients=number("blocked_clients"),
        memory_bytes=number("used_memory"),
        max_memory_bytes=number("maxmemory"),
        policy=facts.get("maxmemory_policy", ""),
        redis_keys=int(keys[1]) if keys else 0,
        commands=number("total_commands_processed"),
        commands_per_s=number("instantaneous_ops_per_sec"),
        hits=number("keyspace_hits"),
        misses=number("keyspace_misses"),
        expired=number("expired_keys") + number("expired_subkeys") + number("expired_fields"),
        evicted=number("evicted_keys"),
        received_bytes=number("total_net_input_bytes"),
        sent_bytes=number("total_net_output_bytes"),
        rejected_clients=number("rejected_connections"),
        saves=facts.get("rdb_last_bgsave_status", "ok") == "ok" and facts.get("aof_last_write_status", "ok") == "ok",
    )
