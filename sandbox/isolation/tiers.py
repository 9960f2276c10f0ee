"""The tiers of isolation: which there are, which this system can have, and a child in one of them.

    full            bubblewrap's room, namespaces for each run, Landlock, seccomp
    namespaces      a room of our own making, namespaces for each run, seccomp, and Landlock where the kernel has it
    restricted      Landlock and seccomp alone: what Docker's default profile leaves
    unsafe-process  a process and nothing more, on request only: the agent can do what the host's user can

A tier counts as there when a trial run in it finds every wall standing; each run tries them again before the agent begins.
"""

from __future__ import annotations

import os
import threading

from sandbox.errors import InvalidInput, InvalidType, IsolationUnavailable
from sandbox.isolation import zygotes
from sandbox.isolation.advice import advice, surroundings
from sandbox.isolation.child import Child
from sandbox.isolation.plain_process import Process
from sandbox.isolation.recipes import Recipe, recipes
from sandbox.isolation.zygote import ZygoteFailed
from sandbox.limits import Limits

__all__ = ["ENVIRONMENT", "TIERS", "UNSAFE", "available", "start_child"]

TIERS = ("full", "namespaces", "restricted")
"""Best first."""
UNSAFE = "unsafe-process"
ENVIRONMENT = "SANDBOX_ISOLATION"
"""The environment variable that says what to use where a caller does not."""

_lock = threading.Lock()
_chosen: dict[str | None, Recipe] = {}


def checked(isolation: object) -> str | None:
    """Return which tier is asked for, None for the best that can be had; raises `InvalidInput`."""
    if isolation is None:
        isolation = os.environ.get(ENVIRONMENT) or None
    if isolation is not None and not isinstance(isolation, str):
        raise InvalidType(f"isolation must be a str or None, not {type(isolation).__name__}.")
    if isolation not in (None, *TIERS, UNSAFE):
        names = ", ".join(map(repr, (*TIERS, UNSAFE)))
        raise InvalidInput(f"isolation={isolation!r} is no tier: give one of {names}, or None for the best there is.")
    return isolation


def start_child(isolation: str | None, limits: Limits, packages: tuple[str, ...] = ()) -> Child:
    """Start a process for an agent; `packages` are paths of the host that it may read as well.

    Raises `IsolationUnavailable` where the system does not give the tier asked for, or any; `StartFailed`.
    """
    if isolation == UNSAFE:
        return Process(limits)
    return zygotes.bear(_recipe_of(isolation), packages, limits)


def available(isolation: str | None = None) -> str:
    """Return the tier that runs get; raises `IsolationUnavailable`."""
    return _recipe_of(isolation).tier


def _recipe_of(isolation: str | None) -> Recipe:
    """Return how to start the zygotes of a tier. What has worked once is not given up for less within this process."""
    with _lock:
        found = _chosen.get(isolation)
        if found is None:
            found = _chosen[isolation] = _choose(TIERS if isolation is None else (isolation,))
        return found


def _choose(tiers: tuple[str, ...]) -> Recipe:
    reasons = {}
    for tier in tiers:
        for recipe in recipes(tier):
            try:
                zygotes.try_out(recipe)
            except ZygoteFailed as error:
                reasons[f"{tier} ({recipe.way})"] = str(error)
            else:
                return recipe
    what = "No isolation for agents" if len(tiers) > 1 else f"No isolation {tiers[0]!r}"
    raise IsolationUnavailable(
        f"{what} can be had on this system. {_first_advice()}`sandbox doctor` says more. To run agents that you trust as you"
        f" trust your own code, pass isolation={UNSAFE!r}, or set {ENVIRONMENT}={UNSAFE}.",
        reasons=reasons,
    )


def _first_advice() -> str:
    """Return a sentence for systems where it is known without trying."""
    where = surroundings()
    known = where.platform != "linux" or where.apparmor_restricts or where.clone_forbidden or where.no_user_namespaces
    return " ".join(advice("none", {"bubblewrap", "Landlock", "seccomp"}, where)) + " " if known else ""


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
