"""A warning, once per server, about its eviction policy: some policies evict whole namespaces without any error.

The query runs on a connection that has just finished its call. So a server that refuses the query, or breaks the connection,
affects no caller.
"""

from __future__ import annotations

import logging

from redis_store.protocol.command import Command
from redis_store.server_config import facts_of

logger = logging.getLogger("redis_store")

QUESTION: Command = ("INFO", "memory")
"""The query for the policy. Nearly every login may run it; ``CONFIG GET`` is often forbidden."""

_asked: set[str] = set()


def is_due(shown: str) -> bool:
    """Whether this process has not yet queried the server at this url (without secrets). Marks it as queried."""
    if shown in _asked:
        return False
    _asked.add(shown)
    return True


def note(shown: str, answer: object) -> None:
    """Log a warning if the reply shows a policy that evicts. Ignore error replies and replies without a policy."""
    if not isinstance(answer, bytes):
        return
    facts = facts_of(answer)
    policy, limit = facts.get("maxmemory_policy", ""), facts.get("maxmemory", "0")
    if not limit.isdecimal() or limit == "0":
        return
    if policy.startswith("allkeys-"):
        logger.warning(
            "the server at %s evicts whole namespaces without an error when it has used %s bytes (maxmemory-policy %s): set"
            " noeviction, and bound caches with use_namespace(max_keys=) or a ttl",
            shown,
            limit,
            policy,
        )
    elif policy.startswith("volatile-"):
        logger.info(
            "the server at %s evicts locks, claims and change logs, but no namespaces, when it has used %s bytes"
            " (maxmemory-policy %s): set noeviction to keep them",
            shown,
            limit,
            policy,
        )
