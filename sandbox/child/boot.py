"""Begins an agent's process: makes the modules of `SHARED` importable, and nothing else beside the standard library.

Run as a script: ``python -I -S boot.py <data fd> <control fd> <folder of sandbox> <of redis_store> <of msgpack>``.
The packages' own ``__init__`` is not executed: it would import redis-py and more.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

SHARED = {
    "msgpack": ("_cmsgpack", "exceptions", "ext", "fallback"),
    "redis_store": ("_keys", "_plain", "_spin", "errors", "mapping", "types"),
    "sandbox": ("_frames", "_messages", "errors"),
    "sandbox.child": ("agent", "channels", "reports", "start", "store", "tools"),
}


class SharedFinder:
    """Finds the modules of `SHARED` in the folders that the host named, and refuses all others of those packages."""

    def __init__(self, folders: dict[str, str]) -> None:
        self.folders = folders

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        if package not in SHARED:
            return None
        if module not in SHARED[package]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return PathFinder.find_spec(name, [self.folders[package]])


def main() -> None:
    data_fd, control_fd, sandbox, redis_store, msgpack = sys.argv[1:]
    folders = {"msgpack": msgpack, "redis_store": redis_store, "sandbox": sandbox, "sandbox.child": f"{sandbox}/child"}
    for package in SHARED:
        stub = sys.modules[package] = ModuleType(package)
        stub.__path__ = []  # a package, with nothing for the usual finders
    sys.meta_path.insert(0, SharedFinder(folders))
    sys.argv[:] = [""]
    from sandbox.child import start

    start.main(int(data_fd), int(control_fd), folders)


if __name__ == "__main__":  # multiprocessing imports it under another name
    main()
