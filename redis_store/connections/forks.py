"""The hook after a fork: what holds locks, threads or connections of the parent starts over in the child."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Inherited(Protocol):
    """An object that its process goes on using when a forked child inherits it."""

    def leave_to_parent(self) -> None:
        """Start over in a forked child, without the parent's locks, threads and connections."""


inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()

registries_lock = threading.RLock()
"""The lock of the process's registries, such as that of the listeners. To be held for a look and an insertion only."""


def _after_fork_in_child() -> None:
    global registries_lock
    registries_lock = threading.RLock()  # the old one may be held by a thread that does not exist in the child
    for each in list(inherited):
        each.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
