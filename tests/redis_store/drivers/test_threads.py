"""Many threads, and interrupts in the middle of calls: every caller gets its own reply and no other."""

from __future__ import annotations

import ctypes
import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_store import DataStore
from tests.support.proxy import Fault, proxied
from tests.support.servers import Server
from tests.support.threads import all_at_once, in_thread


class Interrupt(BaseException):
    """Raised by a signal's handler, as KeyboardInterrupt is."""


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect the half-made objects that an interrupt leaves behind while its own test is still running."""
    yield
    gc.collect()


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """A function that interrupts the main thread by a signal."""
    main = threading.main_thread().ident

    def handler(*_: object) -> None:
        raise Interrupt

    former = signal.signal(signal.SIGUSR1, handler)
    yield lambda: signal.pthread_kill(main, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, former)


def mixed_work(store: DataStore, number: int) -> None:
    """Use a private namespace and a shared one, and check every answer."""
    own, shared = store.use_namespace(f"own-{number}"), store.use_namespace("shared")
    chance = random.Random(number)
    model: dict[str, Any] = {}
    for round_ in range(60):
        key = f"key-{chance.randrange(20)}"
        what = chance.randrange(8)
        if what == 0:
            own.set(key, [number, round_], metadata={"round": round_})
            model[key] = [number, round_]
        elif what == 1:
            batch = {f"key-{n}": [number, round_, n] for n in range(chance.randrange(1, 20))}
            own.set_many(batch)
            model |= batch
        elif what == 2:
            assert own.delete(key) is (model.pop(key, None) is not None)
        elif what == 3:
            assert own.get_all() == model
        elif what == 4:
            assert own.list_keys() == sorted(model)
        elif what == 5:
            wanted = [f"key-{n}" for n in range(0, 20, 3)]
            assert own.get_many(wanted) == {k: model[k] for k in wanted if k in model}
        elif what == 6:
            shared.set(key, {"writer": number})
            assert "writer" in shared.get(key)
        assert own.get(key, "absent") == model.get(key, "absent")


def test_threads_share_a_store(one_server: Server, open_store: Any, user: str) -> None:
    store = open_store(one_server.url, user)
    all_at_once([lambda number=number: mixed_work(store, number) for number in range(16)])
    assert len(store.list_namespaces()) <= 17


def test_connections_are_not_hoarded(one_server: Server, open_store: Any, raw_of: Any, user: str) -> None:
    """Each thread of a burst opens a connection; afterwards they are reused, and only a few are kept."""
    store, raw = open_store(one_server.url, user), raw_of(one_server)
    before = len(raw.client_list())
    for _ in range(2):
        all_at_once([lambda: store.set("key", 1) for _ in range(100)])
    assert len(raw.client_list()) - before <= 64


def test_an_interrupt_in_mid_reply_leaves_no_reply_behind(
    one_server: Server, open_store: Any, user: str, interrupt: Callable[[], None]
) -> None:
    with proxied(one_server) as proxy:
        store = open_store(proxy.url, user, namespace="the-ns")
        store.set_many({f"key-{number}": number for number in range(100)})
        store.get_all()
        for call in (lambda: store.get("key-1"), lambda: store.set("key-1", 1), store.get_all, store.list_keys):
            connections = proxy.connections
            rule = proxy.strike("ns:the-ns", Fault.HOLD_REPLY)
            with in_thread(lambda rule=rule: rule.struck.wait(20) and interrupt()), pytest.raises(Interrupt):
                call()
            rule.release()
            for number in range(100):
                assert store.get(f"key-{number}") == number
            assert proxy.connections == connections + 1, "the interrupted connection is dropped"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may strike in a finalizer
def test_interrupts_at_any_moment(
    one_server: Server, open_store: Any, user: str, interrupt: Callable[[], None]
) -> None:
    store = open_store(one_server.url, user)
    store.set_many({f"key-{number}": number for number in range(50)})
    chance = random.Random(7)
    stop = threading.Event()
    armed = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            if armed.wait(0.1):
                time.sleep(chance.random() * 0.0005)
                armed.clear()
                interrupt()

    interrupted = 0
    with in_thread(disturb):
        for number in range(400):
            key = number % 50
            try:
                armed.set()
                for _ in range(5):
                    assert store.get(f"key-{key}") == key
                    assert store.get_many([f"key-{key}", "absent"]) == {f"key-{key}": key}
                    store.set(f"key-{key}", key)
                while armed.is_set():
                    time.sleep(0)
                time.sleep(0.001)
            except Interrupt:
                interrupted += 1
        stop.set()
    assert interrupted > 300
    assert store.get_all() == {f"key-{number}": number for number in range(50)}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_thrown_into_a_thread(
    one_server: Server, open_store: Any, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception from `PyThreadState_SetAsyncExc` (debuggers, watchdogs) leaves no reply behind either.

    It may strike between the making of a socket and the line that keeps it: then the collector closes it, and says so.
    """
    monkeypatch.setattr(
        sys, "unraisablehook", lambda _: None
    )  # it may strike in a finalizer, and in pytest's hook for these
    store = open_store(one_server.url, user)
    store.set_many({f"key-{number}": number for number in range(50)})
    wrong: list[Any] = []

    def work() -> None:
        while True:
            for number in range(50):
                found = store.get(f"key-{number}")
                if found != number:
                    wrong.append((number, found))

    chance = random.Random(3)
    for _ in range(30):
        with in_thread(work) as running:
            time.sleep(chance.random() * 0.003)
            ident = running.ident
            while running.alive:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Interrupt))
                time.sleep(0.001)
        assert isinstance(running.error, Interrupt)
    gc.collect()  # what was left says so now, not in another test
    assert not wrong
    assert store.get_all() == {f"key-{number}": number for number in range(50)}


# An interrupt during the creation of a socket leaves it to the garbage collector, whose warning does not matter here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_keyboard_interrupt(one_server: Server, open_store: Any, user: str) -> None:
    with proxied(one_server) as proxy:
        store = open_store(proxy.url, user, namespace="the-ns")
        store.set("key", 1)
        rule = proxy.strike("ns:the-ns", Fault.HOLD_REPLY)
        main = threading.main_thread().ident
        strike = in_thread(lambda: rule.struck.wait(20) and signal.pthread_kill(main, signal.SIGINT))
        with strike, pytest.raises(KeyboardInterrupt):
            store.get("key")
        rule.release()
        assert store.get("key") == 1
