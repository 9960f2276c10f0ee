"""Attacks on the host's files, memory, environment and processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import sandbox

from .conftest import World
from .corpus import Attack

FILES = [
    Attack("read /etc/passwd", "won = b'root' in read('/etc/passwd')"),
    Attack("read a file that all may read", "won = world['secret'].encode() in read(world['secret_path'])"),
    Attack(
        "read through a path handle",
        "fd = os.open(world['secret_path'], os.O_PATH); won = os.read(os.open(f'/proc/self/fd/{fd}', os.O_RDONLY), 100)",
    ),
    Attack(
        "read through a symbolic link",
        "os.symlink(world['secret_path'], 'link'); won = world['secret'].encode() in read('link')",
    ),
    Attack(
        "read through a hard link",
        "os.link(world['secret_path'], world['marker']); won = world['secret'].encode() in read(world['marker'])",
    ),
    Attack("list the root folder", "won = os.listdir('/')"),
    Attack("list by going up", "os.chdir('../' * 20); won = os.listdir('.')"),
    Attack("list the host's folder", "won = os.listdir(world['folder'])"),
    Attack("read a package of the host", "won = read(world['packages'] + '/__init__.py')"),
    Attack("write into a folder open to all", "open(world['folder'] + '/new', 'w').write('x'); won = True"),
    Attack("overwrite a file open to all", "open(world['secret_path'], 'r+').write('x'); won = True"),
    Attack("append to a file open to all", "open(world['secret_path'], 'a').write('x'); won = True"),
    Attack(
        "empty a file by opening it", "os.close(os.open(world['secret_path'], os.O_RDONLY | os.O_TRUNC)); won = True"
    ),
    Attack("empty a file by its path", "os.truncate(world['secret_path'], 0); won = True"),
    Attack("delete a file", "os.unlink(world['secret_path']); won = True"),
    Attack("move a file", "os.rename(world['secret_path'], world['folder'] + '/moved'); won = True"),
    Attack("change a file's mode", "os.chmod(world['secret_path'], 0); won = True"),
    Attack("change a file's times", "os.utime(world['secret_path'], (1, 1)); won = True"),
    Attack("change a file's owner", "os.chown(world['secret_path'], os.getuid(), os.getgid()); won = True"),
    Attack("list a file's attributes", "won = os.listxattr(world['secret_path']) is not None"),
    Attack("list a folder's attributes", "won = os.listxattr(world['folder']) is not None"),
    Attack("make a folder", "os.mkdir(world['folder'] + '/new'); os.rmdir(world['folder'] + '/new'); won = True"),
    Attack(
        "write to the standard library",
        "path = os.path.dirname(os.__file__) + '/attack.tmp'; open(path, 'w').close(); os.unlink(path); won = True",
        needs_root=True,
    ),
    Attack(
        "change the standard library's mode",
        "os.chmod(os.__file__, os.stat(os.__file__).st_mode); won = True",
        needs_root=True,
    ),
    Attack(
        "open the standard library for writing",
        "os.close(os.open(os.__file__, os.O_RDWR)); won = True",
        needs_root=True,
    ),
    Attack("read the host's memory file", "won = read('/dev/shm/' + os.path.basename(world['shared_path']))"),
    Attack("write to /dev/shm", "open('/dev/shm/attack', 'w').close(); os.unlink('/dev/shm/attack'); won = True"),
    Attack("list devices", "won = len(os.listdir('/dev')) > 5"),
    Attack("read the kernel's log", "won = os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK) > 0", needs_root=True),
    Attack("read /sys", "won = os.listdir('/sys')"),
    Attack("read a pipe with a name", "won = os.open(world['folder'] + '/fifo', os.O_RDONLY | os.O_NONBLOCK) > 0"),
    Attack("run a program", "import subprocess; won = subprocess.run(['/bin/ls', '/']).returncode == 0"),
    Attack(
        "run a program in this process's place",
        "os.execv('/bin/sh', ['sh', '-c', 'exit 77'])",
        "the run ends in both cases",
    ),
    Attack("run a program through posix_spawn", "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0); won = True"),
    Attack("run a program through the shell", "won = os.system('true') == 0"),
    Attack("make a device", "os.mknod('device', 0o020666, os.makedev(1, 1)); won = True", needs_root=True),
    Attack(
        "change the root folder",
        "os.mkdir('d'); os.chroot('d'); os.chdir('../' * 20); won = os.listdir('.')",
        needs_root=True,
    ),
    Attack(
        "leave by a mount",
        "os.mkdir('d'); syscall('mount', b'/', b'd', None, 4096, None); won = True; libc.umount2(b'd', 2)",
        needs_root=True,
    ),
    Attack(
        "take away what hides /proc",
        "syscall('umount2', b'/proc', 2); won = True",
        "it would take away the host's own /proc",
    ),
    Attack(
        "open by handle",
        """
        handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
        number = ctypes.c_int()
        syscall("name_to_handle_at", -100, world["secret_path"].encode(), handle, ctypes.byref(number), 0)
        won = syscall("open_by_handle_at", os.open(world["folder"], os.O_RDONLY), handle, 0) > 0
        """,
        needs_root=True,
    ),
    Attack(
        "watch the host's files",
        "fd = syscall('inotify_init1', 0); won = libc.inotify_add_watch(fd, world['folder'].encode(), 0xfff) > 0",
    ),
    Attack(
        "lock the interpreter's files for writing",
        "fcntl.lockf(open(os.__file__, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB); won = True",
        needs_root=True,
    ),
]

MEMORY_AND_ENVIRONMENT = [
    Attack(
        "read the own environment",
        "won = world['secret'] in str(dict(os.environ))",
        "the child gets no environment of the host's in any case",
    ),
    Attack("read the own start environment", "won = read('/proc/self/environ')"),
    Attack(
        "read the host's environment",
        "won = world['secret'].encode() in read(f'/proc/{world[\"victim_pid\"]}/environ')",
    ),
    Attack(
        "read process 1's environment",
        "open('/proc/1/environ', 'rb').read(); won = True",
        "in a container or a virtual machine process 1 can be out of root's reach too",
    ),
    Attack(
        "find the secret in any environment",
        """
        for path in glob.glob("/proc/[0-9]*/environ"):
            try:
                won = won or world["secret"].encode() in open(path, "rb").read()
            except OSError:
                pass
        """,
    ),
    Attack("read the host's memory", "won = os.open(f'/proc/{world[\"host_pid\"]}/mem', os.O_RDONLY) > 0"),
    Attack("read the host's map of memory", "won = read(f'/proc/{world[\"host_pid\"]}/maps')"),
    Attack("read the own map of memory", "won = read('/proc/self/maps')"),
    Attack(
        "trace the victim",
        "syscall('ptrace', 16, world['victim_pid'], 0, 0); won = True; libc.ptrace(17, world['victim_pid'], 0, 0)",
    ),
    Attack("trace the parent", "syscall('ptrace', 0x4206, os.getppid() or 1, 0, 0); won = True"),
    Attack(
        "ask to be traced",
        "syscall('ptrace', 0, 0, 0, 0); won = True",
        "the host could not end such a process by itself",
    ),
    Attack(
        "copy the victim's memory",
        """
        ours, theirs = ctypes.create_string_buffer(8), struct.pack("PQ", 0x400000, 8)
        local = struct.pack("PQ", ctypes.addressof(ours), 8)
        try:
            syscall("process_vm_readv", world["victim_pid"], local, 1, theirs, 1, 0); won = True
        except OSError as error:
            won = error.errno == 14  # a bad address: the process itself was open to us
        """,
    ),
    Attack(
        "attach the host's shared memory",
        """
        libc.shmat.restype = ctypes.c_void_p
        address = libc.shmat(world["segment"], None, 0)
        won = address not in (None, 2**64 - 1) and ctypes.string_at(address, 10)
        """,
    ),
    Attack("read what Python was started with", "won = read('/proc/self/cmdline')"),
    Attack("read the name of the program", "won = os.readlink('/proc/self/exe')", tiers=("full", "namespaces")),
    Attack("see the host's mounts", "won = read('/proc/self/mounts')"),
    Attack("reach the host's root through a process", "won = os.listdir(f'/proc/{world[\"victim_pid\"]}/root/')"),
    Attack("reach the host's folder through a process", "won = os.listdir(f'/proc/{world[\"host_pid\"]}/cwd/')"),
    Attack("reach the host's descriptors through a process", "won = os.listdir(f'/proc/{world[\"host_pid\"]}/fd')"),
    Attack(
        "take a descriptor of the victim's",
        "fd = syscall('pidfd_open', world['victim_pid'], 0); won = syscall('pidfd_getfd', fd, 0, 0) > 0",
    ),
]

PROCESSES = [
    Attack("list processes", "won = len(glob.glob('/proc/[0-9]*')) > 1"),
    Attack("kill the victim", "os.kill(world['victim_pid'], signal.SIGKILL); won = True"),
    Attack("ask whether the victim is there", "os.kill(world['victim_pid'], 0); won = True"),
    Attack("kill all", "os.kill(-1, signal.SIGKILL); won = True", "it would end this machine"),
    Attack("kill the own group", "os.kill(0, signal.SIGCONT); won = True"),
    Attack("kill the parent", "os.kill(os.getppid() or 1, signal.SIGCONT); won = os.getppid() != 0"),
    Attack("ask for the victim's group", "won = os.getpgid(world['victim_pid']) == world['victim_pid']"),
    Attack("ask for the victim's session", "won = os.getsid(world['victim_pid']) == world['victim_pid']"),
    Attack("ask for the victim's priority", "os.getpriority(os.PRIO_PROCESS, world['victim_pid']); won = True"),
    Attack("ask for the victim's cores", "won = os.sched_getaffinity(world['victim_pid'])"),
    Attack("ask for the victim's scheduler", "won = os.sched_getscheduler(world['victim_pid']) >= 0"),
    Attack("ask for the victim's turns", "won = os.sched_rr_get_interval(world['victim_pid']) is not None"),
    Attack(
        "ask for the victim's capabilities",
        "won = syscall('capget', struct.pack('Ii', 0x20080522, world['victim_pid']), ctypes.create_string_buffer(24)) == 0",
    ),
    Attack("read the victim's clock", "won = time.clock_gettime(~world['victim_pid'] << 3 | 2) >= 0"),
    Attack(
        "set a timer to the victim's clock",
        "won = syscall('timer_create', ~world['victim_pid'] << 3 | 2, None, ctypes.create_string_buffer(8)) == 0",
    ),
    Attack("kill a thread", "syscall('tkill', world['victim_pid'], 9); won = True"),
    Attack("kill a thread of a group", "syscall('tgkill', world['victim_pid'], world['victim_pid'], 9); won = True"),
    Attack(
        "queue a signal",
        "syscall('rt_sigqueueinfo', world['victim_pid'], 9, struct.pack('iiiiii', 9, 0, -1, 0, 0, 0) + bytes(112)); won = True",
    ),
    Attack(
        "kill through a pidfd",
        "syscall('pidfd_send_signal', syscall('pidfd_open', world['victim_pid'], 0), 9, None, 0); won = True",
    ),
    Attack(
        "have the kernel send a signal for a socket",
        """
        ours, theirs = socket.socketpair()
        fcntl.fcntl(ours, fcntl.F_SETOWN, world["victim_pid"])
        fcntl.fcntl(ours, 10, signal.SIGTERM)  # F_SETSIG
        fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC)
        theirs.send(b"!")
        won = True
        """,
    ),
    Attack(
        "own a socket by ioctl",
        "fcntl.ioctl(socket.socketpair()[0], 0x8901, struct.pack('i', world['victim_pid'])); won = True",
    ),
    Attack("slow the victim down", "os.setpriority(os.PRIO_PROCESS, world['victim_pid'], 5); won = True"),
    Attack(
        "slow all of the user down",
        "os.setpriority(os.PRIO_USER, os.getuid(), 19); won = True",
        "it would slow down this machine",
    ),
    Attack("bind the victim to a core", "os.sched_setaffinity(world['victim_pid'], [0]); won = True"),
    Attack("limit the victim", "resource.prlimit(world['victim_pid'], resource.RLIMIT_CORE, (0, 0)); won = True"),
    Attack("read the victim's limits", "won = resource.prlimit(world['victim_pid'], resource.RLIMIT_CORE)"),
    Attack("compare with the victim", "won = syscall('kcmp', os.getpid(), world['victim_pid'], 1, 0, 0) >= 0"),
    Attack(
        "change the victim's disk priority", "syscall('ioprio_set', 1, world['victim_pid'], 2 << 13 | 4); won = True"
    ),
    Attack("fork", "pid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0); won = True"),
    Attack("leave the session", "os.setsid(); won = True", "a child leads its session already, so that it cannot"),
    Attack(
        "raise the own limits",
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\ntry: resource.setrlimit(resource.RLIMIT_NOFILE, (hard * 2, hard * 2)); won = True\nexcept ValueError: pass",
        "only root with CAP_SYS_RESOURCE can",
    ),
    Attack("outlive the parent", "syscall('prctl', 1, 0, 0, 0, 0); won = True"),
    Attack("be dumpable again", "syscall('prctl', 4, 1, 0, 0, 0); won = True"),
    Attack("become another user", "os.setuid(1); won = True", needs_root=True),
    Attack(
        "take capabilities back",
        "won = syscall('capset', struct.pack('II', 0x20080522, 0), struct.pack('6I', 0xffffffff, 0xffffffff, 0, 0, 0, 0)) == 0",
        "root's process has them already",
    ),
]


@pytest.mark.parametrize("one", [*FILES, *MEMORY_AND_ENVIRONMENT, *PROCESSES], ids=lambda one: one.name)
class TestHost:
    def test_attack_fails(self, one: Attack, tier: str, holds: Any) -> None:
        holds(one, tier)

    def test_attack_succeeds_without_isolation(self, one: Attack, wins: Any) -> None:
        wins(one)


LOOK_AROUND = """
import glob, os
def run(input_dict):
    seen, tops = [], set()
    for start in ("/", "/packages", "/proc", "/python", input_dict["site"], os.getcwd()):
        for folder, names, files in os.walk(start):
            tops.add(folder)
            names[:] = [name for name in names if os.path.join(folder, name) not in ("/usr", "/lib", "/lib64", "/nix", "/python/lib")]
            for file in files:
                try:
                    if input_dict["secret"].encode() in open(os.path.join(folder, file), "rb").read(1000):
                        seen.append(os.path.join(folder, file))
                except OSError:
                    pass
    return {"seen": seen, "processes": glob.glob("/proc/*"), "packages": sorted(one for one in tops if "alpha" in one)}
"""


def test_a_package_shows_nothing_else_of_the_host(
    tier: str, world: World, user: str, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its RECORD names the root, the host's folders by `..` and through a link, and the files of another package."""
    site = Path(world.folder).parent / f"{world.folder.name}-site"
    info = site / "alpha-1.0.dist-info"
    try:
        for folder in (site / "alpha", site / "private", info, site / "private-1.0.dist-info"):
            folder.mkdir(parents=True)
        (site / "alpha" / "__init__.py").touch()
        (site / "private" / "__init__.py").write_text(f"KEY = {world.secret.read_text()!r}")
        (site / "linked").symlink_to(world.folder)
        (info / "direct_url.json").write_text(world.secret.read_text())
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: alpha\nVersion: 1.0\n")
        rows = ("alpha/__init__.py", "/x", f"/{world.secret}", f"../{world.folder.name}/secret", "linked/secret")
        (info / "RECORD").write_text(
            "".join(f"{row},,\n" for row in (*rows, "private/__init__.py", f"{info.name}/direct_url.json"))
        )
        (site / "private-1.0.dist-info" / "RECORD").write_text("private/__init__.py,,\n")
        monkeypatch.syspath_prepend(str(site))
        given = {"site": str(site), "secret": world.secret.read_text()}
        options: Any = {"user": user, "url": server_url, "isolation": tier}
        output = sandbox.run(LOOK_AROUND, given, packages=["alpha"], **options).check()
    finally:
        shutil.rmtree(site)
    assert output["seen"] == output["processes"] == []
    if tier != "restricted":
        assert output["packages"] == ["/packages/0/alpha", "/packages/0/alpha-1.0.dist-info"]
