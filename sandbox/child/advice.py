"""Advice for an agent's author: one sentence about an error that the agent did not catch."""

from __future__ import annotations

import builtins
import difflib
import re
import sys
from collections.abc import Iterable
from itertools import islice

from redis_store.errors import DataStoreError
from redis_store.store import DataStore

_MOST_NAMES = 2000

_NO_MODULE = (
    "An agent can import the standard library and what the host gives it: installed packages with packages=[...]"
    " (--package NAME), modules of the host with modules={...} (--modules MODULE:ATTRIBUTE)."
)
_NO_FILE = (
    "An agent sees no files beside its own empty folder: pass the content in the input, give a tool that reads the file, or"
    " put the data into data_store."
)
_NO_AWAIT = "Write await before the call that returned the coroutine."
_A_COROUTINE = re.compile(r"(?<!\ba )\bcoroutine\b")
"""How Python names a coroutine that stands in the place of its result: a function that takes one says "a coroutine"."""
_ARGUMENTS_OF_RUN = (
    "{} is an argument of run: pass it on to this function, or define the function inside run, which sees it."
)
_NO_TERMINAL = "An agent has no terminal: pass what it asks for in the input."


_HOST_ONLY = {
    "redis_store": (
        ("connect", "connect_async", "Client", "AsyncClient", "DataStore", "AsyncDataStore", "server"),
        "an agent opens no store: it has data_store, which is open already, without an import",
    ),
    "sandbox": (
        ("run", "arun", "Sandbox", "on_change", "Limits", "Permissions"),
        "an agent starts no runs: await agents.call(name, input_dict) runs another agent",
    ),
}
_ASYNC_SLIPS = {
    "can't be used in 'await' expression": "A value is not awaited, and all calls of data_store return one: remove `await`.",
    "'async for' requires an object with __aiter__ method": "data_store is not asynchronous: remove `async`.",
    "does not support the asynchronous context manager protocol": (
        "data_store and its transactions are not asynchronous: remove `async`."
    ),
}
"""What Python says when an agent awaits what is not asynchronous, and what to do."""
_OF_OTHER_STORES = {
    **dict.fromkeys(("exists", "has", "has_key", "contains", "hexists"), "key in data_store"),
    **dict.fromkeys(("size", "count", "length", "hlen"), "len(data_store)"),
    **dict.fromkeys(("put", "save", "store", "insert", "write", "hset"), "data_store.set(key, value)"),
    **dict.fromkeys(("load", "read", "fetch", "find", "hget"), "data_store.get(key)"),
    **dict.fromkeys(("remove", "discard", "unset", "hdel"), "data_store.delete(key)"),
    **dict.fromkeys(("list", "hkeys"), "data_store.list_keys()"),
    **dict.fromkeys(("scan", "scan_iter", "hscan_iter"), "data_store.iter_items()"),
    **dict.fromkeys(("all", "hgetall"), "data_store.get_all()"),
    **dict.fromkeys(("flush", "flushdb", "flushall"), "data_store.clear()"),
    **dict.fromkeys(("incr", "incrby", "hincrby"), "data_store.increment(key, by=1)"),
    **dict.fromkeys(("decr", "decrby", "decrement"), "data_store.increment(key, -1)"),
    **dict.fromkeys(("push", "rpush", "lpush"), "data_store.append(key, item)"),
    **dict.fromkeys(("mget", "hmget", "get_multi"), "data_store.get_many(keys)"),
    **dict.fromkeys(("mset", "hmset", "set_multi"), "data_store.set_many(items)"),
    **dict.fromkeys(("cache", "memoize"), "@data_store.cached(ttl=60)"),
    **dict.fromkeys(("publish", "subscribe"), "data_store.watch()"),
    "setex": "data_store.set(key, value, ttl=60)",
    "setnx": "data_store.set_if_absent(key, value)",
    "ttl": "data_store.info(key)",
}
"""Names of methods that other stores have, and what to write here."""
_CANNOT_IMPORT = re.compile(r"cannot import name '(\w{1,200})' from '([\w.]{1,200})'")


def of_the_host(package: str, name: str) -> str:
    """Return what an agent has instead of a public name that only hosts have, or an empty text."""
    names, advice = _HOST_ONLY.get(package, ((), ""))
    return advice if name in names else ""


def advice_for(error: BaseException) -> str:
    """Return a sentence that helps with an error, or an empty text."""
    if isinstance(error, ModuleNotFoundError):
        return _NO_MODULE
    if isinstance(error, (FileNotFoundError, PermissionError)) and error.filename is not None:
        return _NO_FILE
    if isinstance(error, DataStoreError):
        return ""  # its message is ours, and says what to do
    if isinstance(error, (TypeError, AttributeError)) and _A_COROUTINE.search(str(error)):
        return _NO_AWAIT
    if isinstance(error, NameError) and error.name in ("input_dict", "tools"):
        return _ARGUMENTS_OF_RUN.format(error.name)
    if isinstance(error, TypeError):
        return next((advice for said, advice in _ASYNC_SLIPS.items() if said in str(error)), "")
    if isinstance(error, EOFError) and str(error) == "EOF when reading a line":
        return _NO_TERMINAL
    if isinstance(error, ImportError) and (found := _CANNOT_IMPORT.match(str(error))):
        name, package = found.groups()
        module = sys.modules.get(package)
        instead = of_the_host(package, name)
        return f"{instead[:1].upper()}{instead[1:]}." if instead else did_you_mean(name, _public_names(module))
    if isinstance(error, AttributeError) and isinstance(error.obj, DataStore) and error.name in _OF_OTHER_STORES:
        return f"Write `{_OF_OTHER_STORES[error.name]}`."
    if isinstance(error, (AttributeError, NameError)):
        return did_you_mean(error.name, _known_names(error))
    return ""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return a question about the known name that is most similar to an unknown one, or an empty text."""
    if not isinstance(name, str) or not name:
        return ""
    names = [one for one in islice(known, _MOST_NAMES) if not one.startswith("_") and one != name]
    near = difflib.get_close_matches(name[:100], names, 1)
    return f"Did you mean {near[0]!r}?" if near else ""


def _public_names(module: object) -> Iterable[str]:
    return (*dir(module), *getattr(module, "__all__", ()))


def _known_names(error: AttributeError | NameError) -> Iterable[str]:
    if isinstance(error, AttributeError):
        return dir(error.obj)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ()
    return (*trace.tb_frame.f_locals, *trace.tb_frame.f_globals, *dir(builtins))
