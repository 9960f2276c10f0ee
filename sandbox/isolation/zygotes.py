"""The zygotes of this process: one of each kind, started by the first run that needs it, shared by all runs, ended at exit."""

from __future__ import annotations

import atexit
import os
import threading

from sandbox.errors import StartFailed
from sandbox.isolation import zygote_child
from sandbox.isolation.lacks import is_lack
from sandbox.isolation.layout import Pair
from sandbox.isolation.recipes import Recipe
from sandbox.isolation.zygote import Zygote, ZygoteFailed, ZygoteGone, files_at
from sandbox.isolation.zygote_child import BornChild
from sandbox.limits import Limits

_TRIAL_TIMEOUT_S = 20.0
_ATTEMPTS = 5

_lock = threading.RLock()
_zygotes: dict[tuple[str, str, tuple[Pair, ...]], Zygote] = {}
_superseded: list[Zygote] = []


def bear(recipe: Recipe, packages: tuple[Pair, ...], limits: Limits) -> BornChild:
    """Return a child of the zygote for a recipe and packages.

    Starts a zygote if there is none, the old one has retired, or other files have come to the paths of the packages.

    Raises `StartFailed`, and a bare `OSError` for what the system lacks at the moment.
    """
    for _ in range(_ATTEMPTS):
        try:
            zygote = _zygote_of(recipe, packages)
        except ZygoteFailed as error:
            raise StartFailed(f"The zygote that starts agents ({recipe.tier}) failed: {error}", output="") from None
        now = files_at(packages)
        gone = [path for path, before in zygote.files.items() if before is not None and now[path] is None]
        if gone:
            raise StartFailed(f"The file {gone[0]!r} of a package is missing: install the package again.", output="")
        try:
            if zygote.files == now:
                return zygote.bear(limits)
        except ZygoteGone:
            pass
        _replace(recipe, packages, zygote)
    raise StartFailed(f"The zygote that starts agents ({recipe.tier}) ended {_ATTEMPTS} times in a row.", output="")


def try_out(recipe: Recipe) -> None:
    """Start the zygote for a recipe and test every layer in a trial run; raise `ZygoteFailed` if one fails."""
    zygote = _zygote_of(recipe, ())
    try:
        trial(zygote)
    except ZygoteFailed:
        _replace(recipe, (), zygote)
        raise


def trial(zygote: Zygote) -> None:
    """Make a trial run, which tests every layer and has no agent; raise `ZygoteFailed` if a layer fails the test.

    Raises a bare `OSError` if the system lacks something at the moment, which says nothing about the layers.
    """
    said = b""
    try:
        with zygote.bear(Limits(), trial=True) as child:
            child.output.settimeout(_TRIAL_TIMEOUT_S)
            assert child.pidfd is not None
            while data := child.output.recv(4096):
                said += data
    except ZygoteGone:
        raise ZygoteFailed("the zygote ended before the first run") from None
    except (StartFailed, OSError) as error:
        if isinstance(error, OSError) and is_lack(error):
            raise  # nothing is known about the tier
        raise ZygoteFailed(str(error)) from None
    if said != b"ok":
        raise ZygoteFailed(said.decode(errors="replace") or "the trial run ended without a message")


def process_ids() -> set[str]:
    """Return the ids of the running processes that this process started as zygotes."""
    with _lock:
        return {str(one.process_id) for one in (*_zygotes.values(), *_superseded) if not one.is_closed}


def close_all() -> None:
    """End the zygotes; the next run starts another."""
    with _lock:
        zygotes = [*_zygotes.values(), *_superseded]
        _zygotes.clear()
        _superseded.clear()
    for zygote in zygotes:
        zygote.close()


def _zygote_of(recipe: Recipe, packages: tuple[Pair, ...]) -> Zygote:
    with _lock:
        key = (recipe.tier, recipe.way, packages)
        zygote = _zygotes.get(key)
        if zygote is None:
            zygote = _zygotes[key] = Zygote(recipe, packages)
        return zygote


def _replace(recipe: Recipe, packages: tuple[Pair, ...], zygote: Zygote) -> None:
    with _lock:
        key = (recipe.tier, recipe.way, packages)
        if _zygotes.get(key) is zygote:
            del _zygotes[key]
            _superseded[:] = [one for one in _superseded if not one.is_closed] + [zygote]
    zygote.supersede()


atexit.register(close_all)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    for zygote in (*_zygotes.values(), *_superseded):
        zygote.forget()
    _zygotes.clear()
    _superseded.clear()
    zygote_child.forget_all()


os.register_at_fork(after_in_child=_after_fork_in_child)
