"""The zygote: started once, replaced, and ended when it is idle or its host is gone."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox import isolation
from sandbox.isolation import tiers, zygotes
from sandbox.isolation.layout import Layout
from sandbox.isolation.recipes import recipes
from sandbox.isolation.zygote import Zygote, ZygoteFailed, ZygoteGone
from tests.sandbox.attacks.conftest import tiers_here
from tests.sandbox.conftest import wait_until

AGENT = "def run(): return {}\n"
TIER = isolation.available(tiers.checked(None))


def make(**settings: Any) -> Zygote:
    recipe = next(one for one in recipes(TIER) if tiers._recipe_of(TIER).way == one.way)
    return Zygote(recipe, **settings)


def pids() -> set[str]:
    return zygotes.process_ids()


def test_runs_share_one_zygote_started_by_the_first(run: Any, alone: None) -> None:
    assert pids() == set()
    run(AGENT)
    first = pids()
    assert len(first) == 1
    for _ in range(3):
        run(AGENT)
    assert pids() == first


def test_killed_zygote_is_replaced(run: Any, alone: None) -> None:
    run(AGENT).check()
    (pid,) = pids()
    os.kill(int(pid), signal.SIGKILL)
    zygote = next(iter(zygotes._zygotes.values()))
    assert zygote._pidfd is not None
    signal.pidfd_send_signal(zygote._pidfd, signal.SIGKILL)
    poller = select.poll()
    poller.register(zygote._pidfd, select.POLLIN)
    assert poller.poll(10_000)
    assert run(AGENT).check() == {}


def test_zygote_killed_during_a_run_ends_the_run(run: Any, alone: None) -> None:
    def kill() -> None:
        zygote = next(iter(zygotes._zygotes.values()))
        assert zygote._pidfd is not None
        signal.pidfd_send_signal(zygote._pidfd, signal.SIGKILL)

    result = run("def run(input_dict, tools):\n    tools['kill']()\n    while True: pass\n", tools={"kill": kill})
    assert isinstance(result.error, sandbox.AgentCrashed)
    assert run(AGENT).check() == {}


def test_zygote_retires_after_its_last_birth() -> None:
    zygote = make(births=3)
    children = [zygote.bear(sandbox.Limits()) for _ in range(3)]
    assert all(child.pidfd for child in children)
    with pytest.raises(ZygoteGone):
        wait_until(lambda: zygote.bear(sandbox.Limits()).close(), "it takes no more")
    assert not any(child.has_ended() for child in children)
    zygote.supersede()
    assert not zygote.is_closed
    for child in children:
        with child:
            pass
    assert zygote.is_closed


def test_idle_zygote_ends() -> None:
    zygote = make(idle_s=0.05)
    wait_until(lambda: zygote._process.poll() is not None, "it ended by itself")
    with pytest.raises(ZygoteGone):
        zygote.bear(sandbox.Limits())
    zygote.supersede()


@pytest.mark.parametrize("tier", ["full", "namespaces"])
def test_a_room_that_shows_more_than_its_layout_is_refused(tier: str, tmp_path: Path) -> None:
    recipe = next(recipes(tier), None)
    if recipe is None or tier not in tiers_here():
        pytest.skip(f"this machine has no tier {tier!r}")
    (tmp_path / "secret").touch()
    made = Layout.shown
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layout, "shown", lambda self: made(self) | {"/packages/0": ["other"]})
        with pytest.raises(ZygoteFailed, match=r"the room shows \['mine'\] in /packages/0, which should not be there"):
            Zygote(recipe, ((str(tmp_path), "/packages/0/mine"), (str(tmp_path), "/packages/0/other")))


def test_zygote_does_not_end_while_a_child_lives() -> None:
    zygote = make(idle_s=0.05)
    with zygote.bear(sandbox.Limits()) as child:
        assert child.pidfd
        threading.Event().wait(0.3)
        assert not child.has_ended()
    wait_until(lambda: zygote._process.poll() is not None, "it ended by itself")
    zygote.supersede()


def test_many_runs_over_several_zygotes(run: Any, alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.isolation import recipes as isolation_recipes

    monkeypatch.setattr(isolation_recipes, "BIRTHS", 5)
    before = len(list(Path("/proc/self/fd").iterdir()))
    seen = set()
    for _ in range(25):
        run(AGENT).check()
        seen |= pids()
    assert len(seen) >= 4
    assert len(pids()) == 1
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_forked_host_has_its_own_zygote(server_url: str, user: str, tmp_path: Path) -> None:
    """The copy does not keep open the socket whose end tells the zygote that the host is gone, and can run agents itself."""
    script = tmp_path / "host.py"
    script.write_text(
        "import os, sandbox, time\n"
        "from sandbox.isolation import zygotes\n"
        f"def go(): return sandbox.run({AGENT!r}, {{}}, user={user!r}, url={server_url!r}).check()\n"
        "go()\n"
        "mine = zygotes.process_ids()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    assert zygotes.process_ids() == set()\n"
        "    go()\n"
        "    assert zygotes.process_ids() != mine\n"
        "    print('child', *mine, flush=True)\n"
        "    time.sleep(1000)\n"
        "time.sleep(1000)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        said, zygote = process.stdout.readline().split()
        (copy,) = (int(pid) for pid in _children(process.pid) - {zygote.decode()})
        try:
            assert said == b"child"
            process.kill()
            process.wait()
            wait_until(lambda: not Path(f"/proc/{zygote.decode()}/exe").exists() or _is_zombie(zygote.decode()), "gone")
        finally:
            os.kill(copy, signal.SIGKILL)


def _children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _is_zombie(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_zygote_ends_with_the_host(server_url: str, user: str) -> None:
    code = (
        "import sandbox\nfrom sandbox.isolation import zygotes\n"
        f"sandbox.run({AGENT!r}, {{}}, user={user!r}, url={server_url!r}).check()\nprint(*zygotes.process_ids())\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environ, capture_output=True, check=True)
    assert done.stderr == b""
    assert not Path(f"/proc/{int(done.stdout)}").exists()


def test_children_are_isolated_from_each_other(run: Any) -> None:
    """Each is process 1 of its own namespace, with only the channels of its own run."""
    source = """
        import os
        def is_open(number):
            try:
                os.fstat(number)
                return True
            except OSError:
                return False
        def run():
            return {"open": [n for n in range(1024) if is_open(n)], "pid": os.getpid()}
    """
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(run(source).check())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found["open"] for found in results] == [[0, 1, 2, 3, 4]] * 8
    if TIER != "restricted":
        assert {found["pid"] for found in results} == {1}


def test_python_that_agents_may_not_read_is_named() -> None:
    assert f"may not read {Path(os.__file__).parent}" in str(
        ZygoteFailed("ModuleNotFoundError: No module named 'mimetypes'")
    )
    assert str(ZygoteFailed("ModuleNotFoundError: No module named 'of_ours'")).endswith("'of_ours'")
