"""Tools for `module_card.py`: facts about a module of this Python's standard library.

Tools are functions of the host. Agents see their names, signatures and docstrings, but not their code.
"""

import asyncio
import importlib
import inspect
import sys


def describe(module: str) -> str:
    """Return the first paragraph of a module's docstring."""
    return (inspect.getdoc(load(module)) or "").partition("\n\n")[0]


def list_names(module: str) -> list[str]:
    """Return the public names of a module."""
    found = load(module)
    return sorted(getattr(found, "__all__", None) or [name for name in vars(found) if not name.startswith("_")])


async def count_lines(module: str) -> int:
    """Return how many lines of Python a module has; 0 if it is not written in Python."""
    try:
        source = await asyncio.to_thread(inspect.getsource, load(module))
    except (OSError, TypeError):
        return 0
    return source.count("\n")


def load(module: str):
    """Import a module of the standard library, and no other: an agent must not choose what its host runs."""
    if not isinstance(module, str) or module.partition(".")[0] not in sys.stdlib_module_names:
        raise LookupError(f"{module!r} is not a module of the standard library")
    return importlib.import_module(module)


TOOLS = {"describe": describe, "list_names": list_names, "count_lines": count_lines}
