"""A host with secrets, and a check that an attack has changed nothing."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import sandbox
from redis_store import DataStore, connect
from sandbox import isolation
from sandbox.host import process
from sandbox.isolation.recipes import recipes
from sandbox.isolation.zygote import Zygote
from sandbox.isolation.zygote_child import BornChild
from sandbox.running.background_loop import background_loop
from tests.sandbox.conftest import _state, wait_until

from .corpus import Attack, succeeded

SECRET = "the host's secret"
MOST_MEMORY_KEPT_BYTES = 48 * 1024 * 1024


def _ways() -> dict[str, Any]:
    """Return the tiers available on this machine, each in the variant that needs the fewest rights."""
    found = {}
    for tier in isolation.TIERS:
        with suppress(sandbox.IsolationUnavailable):
            found[tier] = isolation.available(tier)
    return found


_HERE = None


def tiers_here() -> list[str]:
    global _HERE
    if _HERE is None:
        _HERE = list(_ways())
    return _HERE


@pytest.fixture(params=isolation.TIERS)
def tier(request: pytest.FixtureRequest) -> str:
    """Each tier of isolation; the CI machine has all of them."""
    return check_tier(str(request.param))


def check_tier(tier: str) -> str:
    """Return a tier, or skip the test if this machine lacks it."""
    if tier not in tiers_here():
        if os.environ.get("CI"):
            pytest.fail(f"CI is set, so nothing may be skipped, and this machine has no tier {tier!r}")
        pytest.skip(f"this machine has no tier {tier!r}: see `sandbox doctor`")
    return tier


class World:
    """The resources of a host that an agent must not reach; `facts` tells the agent about them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.folder = Path(tempfile.mkdtemp(prefix="attack-world-"))
        self.folder.chmod(0o777)
        self.scratch = Path(tempfile.mkdtemp(prefix="attack-scratch-"))
        self.scratch.chmod(0o711)
        self.secret = self.folder / "secret"
        self.secret.write_text(SECRET)
        self.secret.chmod(0o666)
        self.shared = Path("/dev/shm") / f"attack-{uuid.uuid4().hex}"
        self.shared.write_text(SECRET)
        os.mkfifo(self.folder / "fifo")
        self.victim = self._start_victim()
        self.other = f"other-{uuid.uuid4().hex}"
        self.marks = f"attack-marker-{uuid.uuid4().hex}-"
        self.sockets = self._listen()
        self.segment = _make_segment()
        self.mail: list[bytes] = []
        os.environ["ATTACK_SECRET"] = SECRET
        with connect(url, user=self.other) as store:
            store.set("secret", SECRET)

    def _start_victim(self) -> subprocess.Popen[bytes]:
        # With its own session and process group: those of the tests may belong to another pid namespace, where the kernel
        # reports them as 0.
        return subprocess.Popen(["/bin/sleep", "1000"], env={"SECRET": SECRET}, start_new_session=True)

    def _listen(self) -> dict[str, socket.socket]:
        tcp = socket.create_server(("0.0.0.0", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        stream, datagrams, abstract = (
            socket.socket(socket.AF_UNIX, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)
        )
        stream.bind(str(self.folder / "stream.sock"))
        datagrams.bind(str(self.folder / "datagrams.sock"))
        abstract.bind(f"\0attack-{uuid.uuid4().hex}")
        for name in ("stream.sock", "datagrams.sock"):
            (self.folder / name).chmod(0o777)
        for sock in (stream, abstract):
            sock.listen(16)
        for sock in (udp, datagrams):
            sock.setblocking(False)
        return {"tcp": tcp, "udp": udp, "stream": stream, "datagrams": datagrams, "abstract": abstract}

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "secret": SECRET,
            "secret_path": str(self.secret),
            "folder": str(self.folder),
            "shared_path": str(self.shared),
            "host_pid": os.getpid(),
            "victim_pid": self.victim.pid,
            "server_socket": self.url.removeprefix("unix://").split("?")[0],
            "tcp_port": self.sockets["tcp"].getsockname()[1],
            "udp_port": self.sockets["udp"].getsockname()[1],
            "abstract": self.sockets["abstract"].getsockname()[1:].decode(),
            "segment": self.segment,
            "other": self.other,
            "packages": str(Path(__import__("redis").__file__).parent),
            "marker": f"/tmp/{self.marks}{uuid.uuid4().hex}",
        }

    def check(self) -> None:
        """Fail if an attack has changed anything."""
        assert self.secret.read_text() == SECRET
        assert stat.S_IMODE(self.secret.stat().st_mode) == 0o666
        assert {path.name for path in self.folder.iterdir()} == {"secret", "fifo", "stream.sock", "datagrams.sock"}
        assert self.shared.read_text() == SECRET
        assert self.victim.poll() is None
        assert os.getpriority(os.PRIO_PROCESS, self.victim.pid) == os.getpriority(os.PRIO_PROCESS, 0)
        assert os.sched_getaffinity(self.victim.pid) == os.sched_getaffinity(0)
        for name in ("udp", "datagrams"):
            with pytest.raises(BlockingIOError):
                self.sockets[name].recv(100)
        with connect(self.url, user=self.other) as store:
            assert store.get("secret") == SECRET
            assert store.list_namespaces() == ["default"]

    def restore(self) -> None:
        """Undo the changes of a control."""
        for path in self.folder.iterdir():
            if path.name not in ("secret", "fifo", "stream.sock", "datagrams.sock"):
                path.unlink()
        self.secret.unlink(missing_ok=True)
        self.secret.write_text(SECRET)
        self.secret.chmod(0o666)
        for name in ("udp", "datagrams"):
            with suppress(BlockingIOError):
                while self.sockets[name].recv(100):
                    pass
        if self.victim.poll() is not None or os.getpriority(os.PRIO_PROCESS, self.victim.pid):
            self.victim.kill()
            self.victim.wait()
            self.victim = self._start_victim()
        os.sched_setaffinity(self.victim.pid, os.sched_getaffinity(0))
        for left in Path("/tmp").glob(f"{self.marks}*"):
            left.unlink()
        with connect(self.url, user=self.other) as store:
            store.set("secret", SECRET)

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        for sock in self.sockets.values():
            sock.close()
        self.shared.unlink()
        shutil.rmtree(self.folder)
        self.scratch.rmdir()
        ctypes.CDLL(None).shmctl(self.segment, 0, None)
        del os.environ["ATTACK_SECRET"]


def _make_segment() -> int:
    """Return a SysV shared memory segment, open to every user, that holds the secret."""
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    segment = int(libc.shmget(0, 4096, 0o1666))
    address = libc.shmat(segment, None, 0)
    ctypes.memmove(address, SECRET.encode(), len(SECRET))
    libc.shmdt(ctypes.c_void_p(address))
    return segment


@pytest.fixture(scope="session")
def world(server_url: str) -> Iterator[World]:
    made = World(server_url)
    yield made
    made.close()


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture
def as_before(world: World, store: DataStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check after an attack that processes, descriptors and memory of the host are as before, and the world is unchanged."""
    monkeypatch.setattr(tempfile, "tempdir", str(world.scratch))
    background_loop()
    store.set("k", 1)
    tiers_here()
    before, memory = _state(), _memory()
    yield
    wait_until(lambda: _is_as(_state(), before), f"everything is as before: {before}")
    assert _memory() - memory < MOST_MEMORY_KEPT_BYTES
    world.check()


def _is_as(after: dict[str, Any], before: dict[str, Any]) -> bool:
    return all(after[what] <= before[what] for what in before)


@pytest.fixture
def benign(user: str, server_url: str) -> Callable[[str], None]:
    """Run a harmless agent in a tier."""

    def check(tier: str) -> None:
        result = sandbox.run(
            "import os\ndef run():\n    data_store.set('k', os.listdir())\n    return {'k': data_store.get('k')}\n",
            {},
            user=user,
            url=server_url,
            isolation=tier,
        )
        assert result.check() == {"k": []}
        assert result.isolation == tier

    return check


@pytest.fixture
def attack(world: World, user: str, server_url: str) -> Callable[..., sandbox.RunResult]:
    """Run an attack in a tier and return its result."""

    def call(one: Attack, tier: str, **options: Any) -> sandbox.RunResult:
        limits = sandbox.Limits(**{"timeout_s": 20, **one.limits})
        tools = {"add": lambda a, b: a + b, **options.pop("tools", {})}
        return sandbox.run(
            one.source, world.facts, user=user, url=server_url, isolation=tier, limits=limits, tools=tools, **options
        )

    return call


@pytest.fixture
def holds(attack: Any, benign: Any, as_before: None) -> Callable[[Attack, str], sandbox.RunResult]:
    """Check that an attack fails in a tier, and that the host still works afterwards."""

    def check(one: Attack, tier: str) -> sandbox.RunResult:
        result = attack(one, tier)
        assert succeeded(result) == (tier not in one.tiers), result  # if a known gap has closed, update the docs
        if one.ends_with:
            assert isinstance(result.error, one.ends_with), result
        benign(tier)
        return result

    return check


@pytest.fixture(scope="session")
def open_house() -> Iterator[Zygote]:
    """A zygote whose children have no walls: plain subprocesses, but started faster."""
    recipe = list(recipes("restricted"))[-1]
    zygote = Zygote(recipe, left_out=["capabilities", "landlock", "limits", "seccomp", "verification"])
    yield zygote
    zygote.supersede()


@pytest.fixture
def wins(
    attack: Any, world: World, open_house: Zygote, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Attack], None]]:
    """Check that an attack succeeds in a plain subprocess; otherwise its failure in a tier would prove nothing."""

    def check(one: Attack) -> None:
        if one.why_no_control or (one.needs_root and os.geteuid()):
            return
        monkeypatch.setattr(process, "start_child", lambda isolation, limits, packages: open_house.bear(limits))
        monkeypatch.setattr(BornChild, "overused", lambda child, limits: None)  # a plain subprocess has no limits
        result = attack(one, "restricted")
        assert succeeded(result), (one.name, result)

    yield check
    world.restore()


@pytest.fixture(params=[*sandbox.isolation.TIERS, "broker process"])
def strike(request: pytest.FixtureRequest, world: Any, user: str, server_url: str) -> Callable[..., sandbox.RunResult]:
    """Run an attack in each tier, and with a broker in a process of its own."""
    if request.param == "broker process":
        options: dict[str, Any] = {"broker": "process"}
    else:
        options = {"isolation": check_tier(request.param)}

    def call(one: Attack, permissions: sandbox.Permissions, **more: Any) -> sandbox.RunResult:
        facts = {**world.facts, "user": user, "repo": "x"}
        with sandbox.Sandbox(url=server_url, permissions=permissions, **options, **more) as box:
            return box.run(one.source, facts, user=user)

    return call
