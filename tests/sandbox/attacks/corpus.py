"""The definition of an attack, and the judgement of its result."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any

import sandbox

PRELUDE = '''
import array, ctypes, fcntl, glob, mmap, os, resource, signal, socket, struct, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = os.uname().machine == "x86_64"
NUMBERS = dict(
    ptrace=(101, 117), process_vm_readv=(310, 270), shmget=(29, 194), shmat=(30, 196), mount=(165, 40), chroot=(161, 51),
    unshare=(272, 97), setns=(308, 268), open_by_handle_at=(304, 265), name_to_handle_at=(303, 264), pidfd_open=(434, 434),
    pidfd_send_signal=(424, 424), pidfd_getfd=(438, 438), tkill=(200, 130), tgkill=(234, 131), rt_sigqueueinfo=(129, 138),
    setpriority=(141, 140), sched_setaffinity=(203, 122), prlimit64=(302, 261), ioprio_set=(251, 30), kcmp=(312, 272),
    process_madvise=(440, 440), clone=(56, 220), clone3=(435, 435), vfork=(58, -1), memfd_create=(319, 279), bpf=(321, 280),
    perf_event_open=(298, 241), userfaultfd=(323, 282), keyctl=(250, 219), add_key=(248, 217), request_key=(249, 218),
    io_uring_setup=(425, 425), io_uring_enter=(426, 426), seccomp=(317, 277), mq_open=(240, 180), semget=(64, 190),
    msgget=(68, 186), syslog=(103, 116), personality=(135, 92), quotactl=(179, 60), swapon=(167, 224), reboot=(169, 142),
    init_module=(175, 105), finit_module=(313, 273), delete_module=(176, 106), kexec_load=(246, 104), acct=(163, 89),
    settimeofday=(164, 170), clock_settime=(227, 112), adjtimex=(159, 171), sethostname=(170, 161), pivot_root=(155, 41),
    umount2=(166, 39), fsopen=(430, 430), open_tree=(428, 428), move_mount=(429, 429), mount_setattr=(442, 442),
    fanotify_init=(300, 262), inotify_init1=(294, 26), lookup_dcookie=(212, 18), migrate_pages=(256, 238),
    move_pages=(279, 239), mbind=(237, 235), memfd_secret=(447, 447), landlock_create_ruleset=(444, 444),
    openat2=(437, 437), execve=(59, 221), execveat=(322, 281), setuid=(105, 146), setgid=(106, 144), capset=(126, 91),
    prctl=(157, 167), vmsplice=(278, 75), splice=(275, 76), tee=(276, 77), truncate=(76, 45), fchmodat2=(452, 452),
    mseal=(462, 462), statmount=(457, 457), newest=(600, 600), setsid=(112, 157), sendmsg=(46, 211), recvmsg=(47, 212),
    mknodat=(259, 33), setxattr=(188, 5), modify_ldt=(154, -1), ioperm=(173, -1), iopl=(172, -1), uselib=(134, -1),
    sched_setscheduler=(144, 119), mlockall=(151, 230), setdomainname=(171, 162), vhangup=(153, 58), accept4=(288, 242),
    capget=(125, 90), timer_create=(222, 107), close_range=(436, 436),
)

def syscall(name, *arguments):
    """Make a system call; raise OSError if it fails."""
    number = NUMBERS[name][0 if X86 else 1]
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    found = libc.syscall(ctypes.c_long(number), *given)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found

def frame(body):
    return struct.pack("<I", len(body)) + body

def channel(number):
    """The data channel (3) or the control channel (4) to the host."""
    return socket.socket(fileno=os.dup(number))

def read(path):
    with open(path, "rb") as file:
        return file.read(4096)
'''

NO_CONTROL_NEEDED = "it attacks the host through its channels, which are the same without walls"

_BUGS = frozenset(
    {"NameError", "TypeError", "SyntaxError", "AttributeError", "ImportError", "KeyError", "UnboundLocalError"}
)


@dataclass(frozen=True)
class Attack:
    """A body of code that sets `won` to a true value if it reached something forbidden."""

    name: str
    body: str
    why_no_control: str = ""
    """Reason for having no control in a plain subprocess; empty if there is one."""
    needs_root: bool = False
    """Whether even a plain subprocess needs root to succeed."""
    tiers: tuple[str, ...] = sandbox.isolation.TIERS
    """Tiers in which it must not succeed."""
    limits: dict[str, Any] = field(default_factory=dict)
    ends_with: tuple[type[BaseException], ...] = ()
    """Errors with one of which the run must end; empty if it ends by itself."""
    machines: tuple[str, ...] = ("x86_64", "aarch64")

    @property
    def source(self) -> str:
        body = textwrap.indent(textwrap.dedent(self.body).strip(), "    ")
        return f"{PRELUDE}\ndef run(input_dict, tools):\n    world, won = input_dict, None\n{body}\n    return {{'won': bool(won)}}\n"


def succeeded(result: sandbox.RunResult) -> bool:
    """Whether the attack succeeded. A bug in the attack's own code does not count as a success of a wall."""
    error = result.error
    if isinstance(error, sandbox.AgentRaised):
        assert error.type_name not in _BUGS, error.traceback
    assert not isinstance(error, (sandbox.InvalidAgent, sandbox.InvalidResult)), error
    return bool(result.output and result.output["won"])
