"""Entry point of an agent's process: makes the modules of `SHARED` importable, besides the standard library and given packages.

Run as a script: ``python -I -S boot.py <the folders of FOLDERS_OF> <role>``. The role is ``run <data fd> <control fd> <limits>``,
``zygote <fd> <settings>``, ``room <settings>`` (limits and settings as JSON), or ``probe``.
The packages' own ``__init__`` is not executed: it would import redis-py and more.
"""

import json
import os
import signal
import sys
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

FOLDERS_OF = ("sandbox", "redis_store", "msgpack", "msgspec", "orjson")
"""The packages of `SHARED`, in the order in which their folders are given."""

OF_OTHERS = frozenset({"msgpack", "msgspec", "orjson"})
"""Those that are not ours. An agent can import them only if it is given them as packages."""

SHARED = {
    "msgpack": ("_cmsgpack", "exceptions", "ext", "fallback"),
    "msgspec": ("_core", "_utils"),
    "orjson": ("orjson",),
    "redis_store": (
        "errors", "limits", "locks", "mapping", "memo", "sequence", "stats", "store", "transaction", "types",
    ),
    "redis_store.connections": ("spin",),
    "redis_store.flows": ("clock", "compute_once", "flow", "hold", "optimistic", "renewing", "run_async", "run_sync"),
    "redis_store.namespace": ("access", "keys"),
    "redis_store.protocol": ("drive",),
    "redis_store.values": ("printable", "rules", "typed"),
    "sandbox": ("errors",),
    "sandbox.child": (
        "advice", "agent", "agents", "awaitables", "birth", "channels", "functions", "given", "json_text", "refusals", "reply",
        "reports", "scratch", "start", "zygote",
    ),
    "sandbox.child.store": ("compute_once", "hold", "operations", "run_flows", "watch"),
    "sandbox.child.walls": (
        "kernel", "landlock", "namespaces", "probe", "rlimits", "room", "seccomp", "syscalls", "walls",
    ),
    "sandbox.protocol": ("answers", "arguments", "charges", "frames", "messages", "operations"),
}  # fmt: skip
"""The modules that an agent process may import, by their package. A package's own ``__init__`` is never executed there."""


class SharedFinder:
    """Import finder for the modules of `SHARED`, in the folders that the host named; refuses other modules of our packages."""

    def __init__(self, folders: dict[str, str]) -> None:
        self.folders = folders

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        if package not in SHARED:
            return None
        top, _, below = package.partition(".")
        if module not in SHARED[package]:
            if top in OF_OTHERS:  # of a package that the agent was given
                return None
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        folder = "/".join((self.folders[top], *filter(None, below.split("."))))
        return PathFinder.find_spec(name, [folder])


_PUBLIC = {"redis_store": ("redis_store.errors", "redis_store.types"), "sandbox": ("sandbox.errors",)}


def public_name(package: str, name: str) -> object:
    """Return a public name of a package that agents have too: an error, a type, `MISSING` or `NEVER`."""
    modules = [import_module(module) for module in _PUBLIC[package]]
    if name == "__all__":
        return [public for module in modules for public in module.__all__]
    if not name.startswith("_") and name not in SHARED[package]:
        for module in modules:
            if name in module.__all__:
                return getattr(module, name)
    from sandbox.child.advice import of_the_host

    advice = of_the_host(package, name)
    raise AttributeError(
        f"module {package!r} has no attribute {name!r} in an agent{advice and ': '}{advice}", name=name
    )


def reset_signals() -> None:
    """Undo what a process inherits from the host's: blocked and ignored signals. Python ignores two signals itself."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    kept = {getattr(signal, name, None) for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ")}
    for number in signal.valid_signals() - kept:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> None:
    reset_signals()
    os.umask(0o022)
    folders = dict(zip(FOLDERS_OF, sys.argv[1:], strict=False))
    role, *arguments = sys.argv[1 + len(FOLDERS_OF) :]
    for package in SHARED:
        stub = sys.modules[package] = ModuleType(package)
        stub.__path__ = []  # marks it as a package, with no folder for the standard finders
        parent, _, name = package.rpartition(".")
        if parent:
            setattr(sys.modules[parent], name, stub)
    for package in _PUBLIC:
        vars(sys.modules[package])["__getattr__"] = partial(public_name, package)
    sys.meta_path.insert(0, SharedFinder(folders))
    sys.argv[:] = [""]
    sys.orig_argv[:] = sys.orig_argv[:1]
    if role == "zygote":
        from sandbox.child import zygote

        zygote.main(int(arguments[0]), json.loads(arguments[1]), folders)
    elif role == "room":
        from sandbox.child.walls import room

        room.main(json.loads(arguments[0]))
    elif role == "probe":
        from sandbox.child.walls import probe

        probe.main()
    else:
        from sandbox.child import start
        from sandbox.child.walls import rlimits

        rlimits.place(int(arguments[0]), int(arguments[1]))
        os.closerange(rlimits.FIRST_FREE_DESCRIPTOR, rlimits.MOST_DESCRIPTORS)
        rlimits.limit(json.loads(arguments[2]), rlimits.memory_in_use(), count_threads=False)
        start.main(rlimits.DATA, rlimits.CONTROL, folders, os.environ["HOME"])


if __name__ == "__main__":  # multiprocessing imports it under another name
    main()
