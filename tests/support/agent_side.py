"""The store as an agent in the sandbox sees it, driven from outside.

One run stays alive and asks a tool of the host for its next call, so that no interpreter is started for each test. Calls and
their outcomes are sent pickled, because a test also passes values that JSON cannot represent.
"""

from __future__ import annotations

import base64
import pickle
import queue
import threading
from collections.abc import Iterator
from typing import Any

import sandbox
from redis_store.mapping import StoreMapping

AGENT = '''
import base64
import pickle
from collections.abc import Iterator, KeysView, ItemsView, ValuesView

async def run(input_dict, tools):
    answer = ""
    while request := tools["exchange"](answer):
        answer = base64.b64encode(pickle.dumps(outcome(*pickle.loads(base64.b64decode(request))))).decode()
    return {}

def outcome(namespace, method, args, kwargs):
    """Call a method of the store, or read an attribute, and return whether that went well, and the result or the error."""
    try:
        member = getattr(data_store if namespace is None else data_store.use_namespace(namespace), method)
        result = member(*args, **kwargs) if callable(member) else member
        if method == "use_namespace":
            result = result.namespace
        if isinstance(result, (Iterator, KeysView, ItemsView, ValuesView)):
            result = list(result)
        pickle.dumps(result)
        return True, result
    except BaseException as error:
        return False, error
'''

PATIENCE_S = 50.0


class AgentRun:
    """A run that carries out calls until it is closed."""

    def __init__(self, url: str, user: str, agent: str | None = None) -> None:
        self.user = user
        self._requests: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._first = True
        self._result: Any = None
        limits = sandbox.Limits(timeout_s=3600, operations=10_000_000, result_bytes=256 * 1024 * 1024)

        def work() -> None:
            try:
                self._result = sandbox.run(
                    AGENT, {}, user=user, url=url, agent=agent, tools={"exchange": self._exchange}, limits=limits
                )
            except BaseException as error:
                self._result = error
            finally:
                self._answers.put("")

        self._thread = threading.Thread(target=work, name="agent-side", daemon=True)
        self._thread.start()

    def call(self, namespace: str | None, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method in the agent and return its result, or raise its error."""
        if self._result is None:
            request = pickle.dumps((namespace, method, args, kwargs))
            self._requests.put(base64.b64encode(request).decode())
        answer = self._answers.get(timeout=PATIENCE_S)
        if not answer:
            self._answers.put("")
            raise AssertionError(f"the agent's run is over: {self._result!r}")
        went_well, outcome = pickle.loads(base64.b64decode(answer))
        if not went_well:
            raise outcome
        return outcome

    def close(self) -> None:
        self._requests.put("")
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the agent's run did not end"
        assert self._result.error is None, self._result.error

    def _exchange(self, answer: str) -> str:
        """The tool: take the outcome of the last request, and wait for the next one."""
        if not self._first:
            self._answers.put(answer)
        self._first = False
        return self._requests.get()


class AgentSide:
    """The methods of the agent's `data_store`, in one namespace."""

    name = "sandbox"

    def __init__(self, run: AgentRun, namespace: str | None) -> None:
        self._run = run
        self._namespace = namespace

    def use_namespace(self, name: str) -> AgentSide:
        return AgentSide(self._run, self._run.call(None, "use_namespace", (name,), {}))

    def as_mapping(self) -> StoreMapping:
        """The store as a dict-like object."""
        return _AgentMapping(self)  # type: ignore[return-value]

    def __getattr__(self, name: str) -> Any:
        if name in ("user", "namespace"):
            return self._run.call(self._namespace, name, (), {})
        return lambda *args, **kwargs: self._run.call(self._namespace, name, args, kwargs)


class _AgentMapping:
    """Lets the agent use its store as a mapping."""

    def __init__(self, side: AgentSide) -> None:
        self._side = side

    def __getitem__(self, key: Any) -> Any:
        return self._side.__getattr__("__getitem__")(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._side.__getattr__("__setitem__")(key, value)

    def __delitem__(self, key: Any) -> None:
        self._side.__getattr__("__delitem__")(key)

    def __contains__(self, key: Any) -> bool:
        return bool(self._side.__getattr__("__contains__")(key))

    def __len__(self) -> int:
        return int(self._side.__getattr__("__len__")())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._side.__getattr__("__iter__")())

    def __bool__(self) -> bool:
        return bool(self._side.__getattr__("__bool__")())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._side, name)
