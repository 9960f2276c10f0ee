"""Rare kernel interfaces: calls of other architectures, new calls, calls that make namespaces, and past sandbox escapes."""

from __future__ import annotations

import platform
from typing import Any

import pytest

import sandbox

from .corpus import Attack

_NO_CONTROL = "with meaningless arguments it fails everywhere; the test checks the error"
_ANSWERS = {"EPERM": 1, "ENOSYS": 38}

FORBIDDEN = [
    "ptrace",
    "process_vm_readv",
    "shmget",
    "shmat",
    "mount",
    "chroot",
    "unshare",
    "setns",
    "open_by_handle_at",
    "pidfd_open",
    "pidfd_send_signal",
    "pidfd_getfd",
    "tkill",
    "rt_sigqueueinfo",
    "setpriority",
    "sched_setaffinity",
    "ioprio_set",
    "kcmp",
    "process_madvise",
    "memfd_create",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
    "io_uring_setup",
    "io_uring_enter",
    "seccomp",
    "mq_open",
    "semget",
    "msgget",
    "syslog",
    "personality",
    "quotactl",
    "swapon",
    "reboot",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "acct",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "sethostname",
    "setdomainname",
    "pivot_root",
    "umount2",
    "fsopen",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "fanotify_init",
    "inotify_init1",
    "lookup_dcookie",
    "migrate_pages",
    "move_pages",
    "mbind",
    "memfd_secret",
    "landlock_create_ruleset",
    "execve",
    "execveat",
    "setuid",
    "setgid",
    "capset",
    "vmsplice",
    "splice",
    "tee",
    "sendmsg",
    "recvmsg",
    "accept4",
    "mknodat",
    "setxattr",
    "sched_setscheduler",
    "mlockall",
    "vhangup",
    "setsid",
]
FORBIDDEN_ON_X86 = ["vfork", "modify_ldt", "ioperm", "iopl", "uselib"]
UNKNOWN = ["clone3", "openat2", "newest", "fchmodat2", "mseal", "statmount"]

X86_ONLY = ("x86_64",)

ATTACKS = [
    Attack(
        "new user namespace",
        "syscall('unshare', 0x10000000); won = True",
        "the kernel refuses it to processes with threads, and the channel to the host is a thread",
    ),
    Attack("new mount namespace", "syscall('unshare', 0x00020000); won = True", needs_root=True),
    Attack(
        "new namespaces by clone",
        "won = syscall('clone', 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0)",
        "Python's locks do not survive a clone that it does not know of",
    ),
    Attack("anonymous executable in memory", "won = syscall('memfd_create', b'x', 0) > 0"),
    Attack(
        "io_uring",
        "won = syscall('io_uring_setup', 4, ctypes.create_string_buffer(512)) > 0",
        "many kernels have it turned off",
    ),
    Attack(
        "a key in the kernel",
        "won = syscall('add_key', b'user', b'attack', b'x', 1, -2) > 0",
        "containers' profiles forbid it as well",
    ),
    Attack("a message queue", "won = syscall('msgget', 0, 0o1600) >= 0"),
    Attack("a semaphore", "won = syscall('semget', 0, 1, 0o1600) >= 0"),
    Attack("shared memory", "won = syscall('shmget', 0, 4096, 0o1600) >= 0"),
    Attack(
        "a program for the kernel",
        "won = syscall('bpf', 0, struct.pack('IIII', 2, 4, 4, 1) + bytes(112), 128) > 0",
        "many kernels keep it to root",
    ),
    Attack("handle page faults", "won = syscall('userfaultfd', 0o2000000 | 1) > 0", "many kernels keep it to root"),
    Attack(
        "count events",
        "won = syscall('perf_event_open', struct.pack('IIQ', 1, 112, 0) + bytes(96), 0, -1, -1, 0) > 0",
        "many kernels keep it to root",
    ),
    Attack(
        "set the clock",
        "syscall('clock_settime', 0, struct.pack('qq', *divmod(time.time_ns(), 10**9))); won = True",
        "it would set this machine's clock",
    ),
    Attack("name the host", "socket.sethostname(socket.gethostname()); won = True", needs_root=True),
    Attack("hear new files of the whole machine", "won = syscall('fanotify_init', 0x200, 0) > 0", needs_root=True),
    Attack("read the kernel's messages", "won = syscall('syslog', 10, 0, 0) >= 0", needs_root=True),
    Attack("type for somebody else", "fcntl.ioctl(0, 0x5412, b'x'); won = True", "there is no terminal"),
    Attack("change the type of program", "won = syscall('personality', 0x0040000) >= 0"),
    Attack("take the filter off", "won = syscall('seccomp', 1, 0, struct.pack('HP', 1, 0)) == 0", _NO_CONTROL),
]


def _body(names: list[str], answer: str) -> str:
    # With meaningless arguments, the kernel returns EINVAL, EFAULT, EBADF or ENOSYS; the filter decides before that.
    return f"""
        won = []
        for name in {names!r}:
            try:
                syscall(name, -1, -1, -1, -1, -1, -1)
                won.append(name)
            except OSError as error:
                if error.errno != {_ANSWERS[answer]}:
                    won.append(f"{{name}}: {{error.errno}}")
        print(*won, flush=True)
    """


@pytest.mark.parametrize("one", ATTACKS, ids=lambda one: one.name)
class TestKernel:
    def test_attack_fails(self, one: Attack, tier: str, holds: Any) -> None:
        holds(one, tier)

    def test_attack_succeeds_without_isolation(self, one: Attack, wins: Any) -> None:
        wins(one)


@pytest.mark.parametrize(("names", "answer"), [(FORBIDDEN, "EPERM"), (UNKNOWN, "ENOSYS")], ids=["forbidden", "unknown"])
def test_filter_answers_system_calls(names: list[str], answer: str, tier: str, holds: Any) -> None:
    more = FORBIDDEN_ON_X86 if platform.machine() == "x86_64" and answer == "EPERM" else []
    result = holds(Attack(answer, _body([*names, *more], answer), _NO_CONTROL), tier)
    assert result.stdout == "\n"


_MACHINE_CODE = """
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex({code!r}))
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
found = ctypes.CFUNCTYPE(ctypes.c_long)(address)()
"""
# Each calls `getpid`, which shows whether the kernel accepted the call: by its x32 number, and as a 32-bit program does.
X32 = "b827000040" + "0f05" + "c3"  # mov eax, 0x40000027; syscall; ret
INT80 = "b814000000" + "cd80" + "c3"  # mov eax, 20; int 0x80; ret


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86_64 has calls of other architectures")
@pytest.mark.parametrize("code", [X32, INT80], ids=["x32", "int 0x80"])
def test_system_calls_of_other_architectures_end_the_run(code: str, tier: str, holds: Any) -> None:
    body = _MACHINE_CODE.format(code=code) + "won = True"
    result = holds(Attack("machine code", body), tier)
    assert isinstance(result.error, sandbox.AgentCrashed)
    assert result.error.signal == "SIGSYS"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86_64 has calls of other architectures")
def test_32_bit_calls_work_without_isolation(wins: Any) -> None:
    """The kernel accepts them by `int 0x80`; x32 is turned off in most kernels, which return ENOSYS instead of killing."""
    wins(Attack("int 0x80", _MACHINE_CODE.format(code=INT80) + "won = found == os.getpid() or found == -38"))
    wins(Attack("x32", _MACHINE_CODE.format(code=X32) + "won = found == os.getpid() or found == -38"))


def test_threads_still_start(tier: str, attack: Any, as_before: None) -> None:
    """glibc tries clone3 first, gets ENOSYS, and falls back to clone."""
    body = "t = [threading.Thread(target=time.sleep, args=(0.01,)) for _ in range(10)]\n[one.start() for one in t]; [one.join() for one in t]; won = True"
    assert attack(Attack("threads", body), tier).check() == {"won": True}
