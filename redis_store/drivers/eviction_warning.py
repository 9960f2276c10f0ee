"""Says once what a full server would throw away: some policies take whole namespaces, and no error tells anybody.

It asks on a connection that has just done its work, so that a server that forbids the question, or breaks at it, disturbs
nobody.
"""

from __future__ import annotations

import logging

from redis_store.protocol.call import Command

logger = logging.getLogger("redis_store")

QUESTION: Command = ("INFO", "memory")
"""What a server tells about itself to nearly everybody; ``CONFIG GET`` is often forbidden."""

_asked: set[str] = set()


def is_due(shown: str) -> bool:
    """Whether this process has not asked the server at this url (without secrets) yet; from now on it has."""
    if shown in _asked:
        return False
    _asked.add(shown)
    return True


def note(shown: str, answer: object) -> None:
    """Log what the answer means; one that is an error, or tells nothing, means nothing."""
    if not isinstance(answer, bytes):
        return
    facts = dict(line.split(":", 1) for line in answer.decode(errors="replace").splitlines() if ":" in line)
    policy, limit = facts.get("maxmemory_policy", ""), facts.get("maxmemory", "0")
    if not limit.isdecimal() or limit == "0":
        return
    if policy.startswith("allkeys-"):
        logger.warning(
            "the server at %s throws whole namespaces away when it has used %s bytes (maxmemory-policy %s), and no error says"
            " so: set noeviction, and bound caches with use_namespace(max_keys=) or a ttl",
            shown,
            limit,
            policy,
        )
    elif policy.startswith("volatile-"):
        logger.info(
            "the server at %s throws locks, claims and logs of changes away when it has used %s bytes (maxmemory-policy %s);"
            " namespaces stay. noeviction keeps both",
            shown,
            limit,
            policy,
        )
