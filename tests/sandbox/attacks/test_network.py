"""Attacks through networks of every kind, and on the socket of the store's server."""

from __future__ import annotations

from typing import Any

import pytest

from .corpus import Attack

_HAS_NO_SUCH = "whether there is such a network depends on the machine"

ATTACKS = [
    Attack("make a TCP socket", "socket.socket(); won = True"),
    Attack("make a TCP socket for IPv6", "socket.socket(socket.AF_INET6); won = True"),
    Attack("make a UDP socket", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM); won = True"),
    Attack("make a unix socket", "socket.socket(socket.AF_UNIX); won = True"),
    Attack("make a raw socket", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); won = True", needs_root=True),
    Attack("make a packet socket", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW); won = True", needs_root=True),
    Attack("make a netlink socket", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW); won = True"),
    Attack("use the kernel's ciphers", "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET); won = True", _HAS_NO_SUCH),
    Attack("make a vsock socket", "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); won = True", _HAS_NO_SUCH),
    Attack("make a bluetooth socket", "socket.socket(31, socket.SOCK_RAW, 1); won = True", _HAS_NO_SUCH),
    Attack(
        "make a TIPC pair",
        "libc.socketpair(30, 5, 0, (ctypes.c_int * 2)()) == 0 or syscall('newest'); won = True",
        _HAS_NO_SUCH,
    ),
    Attack(
        "connect to a server on this machine",
        "socket.create_connection(('127.0.0.1', world['tcp_port']), 2); won = True",
    ),
    Attack(
        "connect to this machine's own address",
        """
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        probe.connect(("192.0.2.1", 9))
        won = socket.create_connection((probe.getsockname()[0], world["tcp_port"]), 2)
        """,
        "a machine may have no address but its own",
    ),
    Attack(
        "send a datagram",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', world['udp_port'])); won = True",
    ),
    Attack("listen", "socket.create_server(('127.0.0.1', 0)); won = True"),
    Attack("look up a name", "won = socket.getaddrinfo('localhost', 80) and socket.socket()"),
    Attack(
        "fetch a page",
        "import urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{world[\"tcp_port\"]}', timeout=0.2); won = True",
        "nobody answers there",
    ),
    Attack(
        "open an asyncio connection",
        "import asyncio; won = asyncio.run(asyncio.open_connection('127.0.0.1', world['tcp_port']))",
    ),
    Attack(
        "connect to the store's server",
        "s = socket.socket(socket.AF_UNIX); s.connect(world['server_socket']); s.send(b'PING\\r\\n'); won = b'PONG' in s.recv(100)",
    ),
    Attack(
        "ask the store's server for another user's data",
        """
        s = socket.socket(socket.AF_UNIX)
        s.connect(world["server_socket"])
        s.send(f"HGET user:{world['other']}:ns:default secret\\r\\n".encode())
        won = world["secret"].encode() in s.recv(1000)
        """,
    ),
    Attack(
        "connect to a unix socket open to all",
        "s = socket.socket(socket.AF_UNIX); s.connect(world['folder'] + '/stream.sock'); won = True",
    ),
    Attack(
        "connect to an abstract socket",
        "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + world['abstract']); won = True",
    ),
    Attack(
        "send to a named socket from half of a pair",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', world['folder'] + '/datagrams.sock'); won = True",
    ),
    Attack(
        "send to a named socket from half of a pair with sendmsg",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendmsg([b'x'], [], 0, world['folder'] + '/datagrams.sock'); won = True",
    ),
    Attack(
        "connect half of a pair",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].connect(world['folder'] + '/datagrams.sock'); won = True",
    ),
    Attack(
        "bind a unix socket in the scratch folder",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].bind('here.sock'); won = True",
    ),
    Attack(
        "bind an abstract socket", "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].bind('\\0mine'); won = True"
    ),
    Attack(
        "name the host's process by its channel",
        "won = struct.unpack('3i', channel(3).getsockopt(socket.SOL_SOCKET, 17, 12))[0] > 0",
    ),
    Attack(
        "get a pidfd of the host by its channel",
        "won = channel(3).getsockopt(socket.SOL_SOCKET, 77)",
        "it came with Linux 6.5",
    ),
    Attack(
        "attach a filter to a channel",
        "channel(3).setsockopt(1, 26, struct.pack('HP', 1, ctypes.addressof(ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 1)))).ljust(16, b'\\0')); won = True",
        "Python cannot pack it alike everywhere",
    ),
    Attack(
        "make the buffers of a channel big",
        "channel(3).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**30); won = True",
    ),
    Attack(
        "see the host's interfaces", "won = [name for _, name in socket.if_nameindex() if name != 'lo']", _HAS_NO_SUCH
    ),
    Attack("see the host's connections", "won = read('/proc/net/tcp')"),
    Attack(
        "enter the host's network",
        "fd = os.open('/proc/1/ns/net', os.O_RDONLY); syscall('setns', fd, 0x40000000); won = True",
        "process 1 may be out of root's reach too",
    ),
    Attack(
        "send a descriptor over the data channel",
        "channel(3).sendmsg([b'\\0'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))]); won = True",
    ),
    Attack(
        "send a hundred descriptors over the control channel",
        "body = frame(b'\\x95\\xa4call\\x07\\xa3add\\xc4\\x05[1,2]\\xc4\\x02{}');"
        " channel(4).sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0] * 100))]); won = True",
    ),
    Attack(
        "receive descriptors over the control channel",
        "channel(4).recvmsg(1, 1000, socket.MSG_DONTWAIT)\nwon = True",
        "nothing is sent there",
    ),
    Attack(
        "send a descriptor as output",
        "socket.socket(fileno=os.dup(1)).sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))]); won = True",
    ),
]


@pytest.mark.parametrize("one", ATTACKS, ids=lambda one: one.name)
class TestNetwork:
    def test_attack_fails(self, one: Attack, tier: str, holds: Any) -> None:
        holds(one, tier)

    def test_attack_succeeds_without_isolation(self, one: Attack, wins: Any) -> None:
        wins(one)
