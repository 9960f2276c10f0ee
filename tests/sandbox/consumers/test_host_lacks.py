"""What the host lacks for a moment: runs raise `StartFailed`, and a consumer waits without counting a try."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import sandbox
from redis_store import ConnectionLost, DataStore
from sandbox.isolation import tiers, zygotes
from sandbox.isolation.zygote import Zygote
from tests.sandbox.conftest import wait_until
from tests.sandbox.consumers.conftest import OnChange, kinds

AGENT = """
    def run(input_dict):
        for change in input_dict["changes"]:
            data_store.use_namespace("seen").set(change["key"], change["value"])
        return {}
"""


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Host:
    """A folder of agents and an installed package."""

    def __init__(self, folder: Path) -> None:
        self.agents = folder / "agents"
        self.agents.mkdir()
        self.helper = self.agents / "helper.py"
        self.helper.write_text("def run(): return {}\n")
        self.package = folder / "installed" / "tinypkg"
        self.package.mkdir(parents=True)
        (self.package / "__init__.py").write_text("version = 1\n")
        self.known = folder / "installed" / "tinypkg-1.0.dist-info"
        self.known.mkdir()
        (self.known / "METADATA").write_text("Metadata-Version: 2.1\nName: tinypkg\nVersion: 1.0\n")
        (self.known / "RECORD").write_text("tinypkg/__init__.py,,\ntinypkg-1.0.dist-info/METADATA,,\n")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    return Host(tmp_path)


def a_folder_without_files(host: Host) -> Callable[[], object]:
    host.helper.unlink()
    return lambda: host.helper.write_text("def run(): return {}\n")


def a_folder_that_is_a_file(host: Host) -> Callable[[], object]:
    shutil.rmtree(host.agents)
    host.agents.write_text("")

    def give_back() -> None:
        host.agents.unlink()
        host.agents.mkdir()
        host.helper.write_text("def run(): return {}\n")

    return give_back


def a_file_that_is_a_folder(host: Host) -> Callable[[], object]:
    other = host.agents / "other.py"
    other.symlink_to(host.agents / "nowhere")  # as an editor or a deployment leaves it for a moment
    host.helper.unlink()
    return lambda: (other.unlink(), host.helper.write_text("def run(): return {}\n"))


def a_package_that_is_not_known(host: Host) -> Callable[[], object]:
    away = host.known.rename(host.known.with_name("away"))
    return lambda: away.rename(host.known)


def a_package_without_files(host: Host) -> Callable[[], object]:
    away = host.package.rename(host.package.with_name("away"))
    return lambda: away.rename(host.package)


@pytest.mark.parametrize(
    "take_away",
    [
        a_folder_without_files,
        a_folder_that_is_a_file,
        a_file_that_is_a_folder,
        a_package_that_is_not_known,
        a_package_without_files,
    ],
)
def test_consumer_waits_for_files_that_are_away(
    on_change: OnChange,
    store: DataStore,
    seen: DataStore,
    host: Host,
    events: list[sandbox.ConsumerEvent],
    take_away: Callable[[Host], Callable[[], object]],
) -> None:
    with on_change(AGENT, retries=0, agents=host.agents, packages=["tinypkg"]):
        store.set("first", 1)
        seen.wait_for("first", 20)
        give_back = take_away(host)
        store.set("a", 1)
        wait_until(lambda: kinds(events).count("waiting") > 2, "it has waited for longer than it tries")
        give_back()
        assert seen.wait_for("a", 20) == 1
    assert "failed" not in kinds(events)
    assert store.list_namespaces("dead-letter") == []


def test_package_that_was_replaced_is_imported_anew(
    on_change: OnChange, store: DataStore, seen: DataStore, host: Host
) -> None:
    source = """
        import tinypkg
        def run(input_dict):
            for change in input_dict["changes"]:
                data_store.use_namespace("seen").set(change["key"], tinypkg.version)
            return {}
    """
    with on_change(source, packages=["tinypkg"]):
        store.set("a", 1)
        assert seen.wait_for("a", 20) == 1
        host.package.rename(host.package.with_name("old"))
        host.package.mkdir()
        (host.package / "__init__.py").write_text("version = 2\n")
        store.set("b", 1)
        assert seen.wait_for("b", 20) == 2


def test_consumer_waits_for_descriptors(
    on_change: OnChange, store: DataStore, seen: DataStore, events: list[sandbox.ConsumerEvent]
) -> None:
    with on_change(AGENT, retries=0):
        store.set("a", 1)
        wait_until(lambda: "a" in seen, "it works")
        with descriptors_left(0):
            store.set("b", 1)
            wait_until(lambda: kinds(events).count("waiting") > 2, "it has waited for longer than it tries")
        assert seen.wait_for("b", 20) == 1
    assert "failed" not in kinds(events)
    assert store.list_namespaces("dead-letter") == []


def test_consumer_repeats_a_run_that_ended_with_its_zygote(
    on_change: OnChange, store: DataStore, seen: DataStore, events: list[sandbox.ConsumerEvent], alone: None
) -> None:
    source = """
        def run(input_dict, tools):
            tools["kill"]()
            data_store.use_namespace("seen").set("a", 1)
            return {}
    """
    killed: list[int] = []

    def kill() -> None:
        zygote = next(iter(zygotes._zygotes.values()))
        if not killed:
            assert zygote._pidfd is not None
            signal.pidfd_send_signal(zygote._pidfd, signal.SIGKILL)
            killed.append(zygote.process_id)
            threading.Event().wait(20)

    with on_change(source, retries=0, tools={"kill": kill}):
        store.set("a", 1)
        assert seen.wait_for("a", 20) == 1
    assert kinds(events) == ["watching", "waiting", "ran", "stopped"]
    assert "end of its zygote" in str(events[1].error)


@pytest.mark.usefixtures("nothing_left")
def test_run_without_descriptors_raises_an_error_of_the_tree(server_url: str, user: str) -> None:
    given: dict[str, Any] = {"agents": {"other": "def run(): return {}\n"}, "url": server_url}
    source = "async def run(): return await agents.call('other', {})\n"

    async def in_a_loop(count: int) -> None:
        with descriptors_left(count):
            await sandbox.arun(source, {}, user=user, **given)

    with sandbox.Sandbox(broker="process", **given) as box:
        box.run(source, {}, user=user).check()
        for count in (0, 8, 16):
            with pytest.raises((sandbox.StartFailed, ConnectionLost)):
                asyncio.run(in_a_loop(count))
            with pytest.raises((sandbox.StartFailed, ConnectionLost)), descriptors_left(count):
                box.run(source, {}, user=user)
        assert box.run(source, {}, user=user).check() == {}


def refuse(*_: Any) -> None:
    raise RuntimeError("can't start new thread")


def test_run_without_threads(server_url: str, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "async def run(input_dict):\n    if input_dict: await agents.call('other', {})\n    return {}\n"
    with sandbox.Sandbox(url=server_url, agents={"other": "def run(): return {}\n"}, concurrency=1) as box:
        start = threading.Thread.start

        def start_some(thread: threading.Thread) -> None:
            refuse() if thread.name.startswith("sandbox-run") else start(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start_some)
            with pytest.raises(sandbox.StartFailed, match="can't start new thread"):
                box.start(source, {}, user=user).result(20)
            with pytest.raises(sandbox.StartFailed, match="can't start new thread"):
                box.run(source, {"call": 1}, user=user)  # for the agent that it calls
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(sandbox.StartFailed, match="can't start new thread"):
                box.run(source, {}, user=user)
        assert box.start(source, {"call": 1}, user=user).result(20).check() == {}


def test_tier_is_not_chosen_while_it_cannot_be_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a host that lacks descriptors for a moment would isolate agents less from then on."""

    def lack(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    best = tiers.available()
    monkeypatch.setattr(tiers, "_chosen", {})
    with monkeypatch.context() as patch:
        patch.setattr(Zygote, "bear", lack)
        with pytest.raises(sandbox.StartFailed, match="Too many open files"):
            tiers.available()
    assert tiers.available() == best
