"""Tiers of isolation: choose the best one that this system offers, and start an agent process in it.

    full            a room made by bubblewrap, namespaces for each run, Landlock, seccomp
    namespaces      a room made by our own code, namespaces for each run, seccomp, and Landlock if the kernel has it
    restricted      Landlock and seccomp only: what Docker's default profile permits
    unsafe-process  a process without isolation, only on request: the agent can do whatever the host's user can

A tier is available if every layer passes the test in a trial run. Each run tests the layers again before the agent starts.
"""

from __future__ import annotations

import os
import threading

from sandbox.errors import InvalidInput, InvalidType, IsolationUnavailable
from sandbox.isolation import zygotes
from sandbox.isolation.advice import advice, surroundings
from sandbox.isolation.child import Child
from sandbox.isolation.lacks import start_failures
from sandbox.isolation.layout import Pair
from sandbox.isolation.plain_process import Process
from sandbox.isolation.recipes import Recipe, recipes
from sandbox.isolation.zygote import ZygoteFailed
from sandbox.limits import Limits

TIERS = ("full", "namespaces", "restricted")
"""Best first."""
UNSAFE = "unsafe-process"
ENVIRONMENT = "SANDBOX_ISOLATION"
"""Environment variable that names the tier to use if the caller does not."""

_lock = threading.RLock()
_chosen: dict[str | None, Recipe] = {}


def checked(isolation: object) -> str | None:
    """Return the requested tier, or None for the best available; raise `InvalidInput` if there is no such tier."""
    if isolation is None:
        isolation = os.environ.get(ENVIRONMENT) or None
    if isolation is not None and not isinstance(isolation, str):
        raise InvalidType(f"isolation must be a str or None, not {type(isolation).__name__}.")
    if isolation not in (None, *TIERS, UNSAFE):
        names = ", ".join(map(repr, (*TIERS, UNSAFE)))
        raise InvalidInput(
            f"isolation={isolation!r} is not a tier: give one of {names}, or None for the best available."
        )
    return isolation


def start_child(isolation: str | None, limits: Limits, packages: tuple[Pair, ...] = ()) -> Child:
    """Start a process for an agent; `packages` are further paths of the host that it may read.

    Raises `IsolationUnavailable` if the system offers no tier or not the requested one, and `StartFailed`.
    """
    with start_failures():
        if isolation == UNSAFE:
            return Process(limits)
        return zygotes.bear(_recipe_of(isolation), packages, limits)


def available(isolation: str | None = None) -> str:
    """Return the tier that runs get, or raise `IsolationUnavailable`, or `StartFailed` if it cannot be tested at the moment."""
    with start_failures():
        return _recipe_of(isolation).tier


def _recipe_of(isolation: str | None) -> Recipe:
    """Return the recipe of a tier. Once chosen it stays the same in this process, so that isolation never gets weaker."""
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
        f"{what} is available on this system. {_first_advice()}Run `sandbox doctor` for details. To run agents that you"
        f" trust as much as your own code, pass isolation={UNSAFE!r}, or set {ENVIRONMENT}={UNSAFE}.",
        reasons=reasons,
    )


def _first_advice() -> str:
    """Return the advice that is certain without testing any layer, or an empty text."""
    where = surroundings()
    known = where.platform != "linux" or where.apparmor_restricts or where.clone_forbidden or where.no_user_namespaces
    return " ".join(advice("none", {"bubblewrap", "Landlock", "seccomp"}, where)) + " " if known else ""


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
