"""The globals of an agent, for its editor and type checker.

An agent has `data_store` and `agents` without an import. To let a checker know them, put this into the agent's file::

    from typing import TYPE_CHECKING

    if TYPE_CHECKING:
        from sandbox.agent import agents, data_store
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from redis_store import DataStore
from sandbox.child.agents import Agents

data_store: DataStore
agents: Agents

if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        if name in ("agents", "data_store"):
            raise ImportError(
                f"{name!r} is there only while an agent runs in the sandbox, where it needs no import: import it below"
                " `if TYPE_CHECKING:`."
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
