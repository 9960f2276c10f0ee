"""The namespaces that the agents of a run, and all runs of a user in this process, watch together."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

from redis_store.brokers.watches import NamespaceBudget

MOST_OF_A_RUN = 4_000
"""Limit of the namespaces that the agents of one run watch together."""

MOST_OF_A_USER = 20_000
"""Limit of the namespaces that all agents of a user watch together, in one host process; each takes about 5 KB in the server."""

_of_users: weakref.WeakValueDictionary[tuple[str, str], NamespaceBudget] = weakref.WeakValueDictionary()


def budget_of_run(url: str, user: str, spend: Callable[[Sequence[bytes]], None]) -> NamespaceBudget:
    """Return a budget for a run, which shares that of its user on this server. `spend` is told what the run watches."""
    of_user = _of_users.setdefault((url, user), NamespaceBudget(MOST_OF_A_USER))
    return NamespaceBudget(MOST_OF_A_RUN, of_user, spend)
