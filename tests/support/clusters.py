"""A Redis Cluster on loopback: primaries with a replica each, whose slots a test may move, and whose nodes it may kill."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.crc import key_slot

from tests.support.servers import Server, find_binary, free_port, wait_until

SLOTS = 16_384

CALM_MS, QUICK_MS = 15_000, 500
"""The ``cluster-node-timeout`` of a shared cluster, which a busy machine shall not upset, and of one that elects primaries."""


class Node(Server):
    """A node of a cluster, primary or replica."""

    id: str
    port: int

    def info(self, section: str) -> dict[str, Any]:
        with self.client() as raw:
            found: dict[str, Any] = raw.info(section)
        return found

    def ask(self, *command: Any) -> Any:
        """Return the reply to a command of an operator."""
        with self.client() as raw:
            return raw.execute_command(*command)


class Cluster:
    """A cluster that is ready when it is made, in about 2.3 s, of which a node keeps 2 s after its start. A context manager.

    The nodes read from a file who they are: introducing them to one another would take longer.
    """

    def __init__(
        self,
        kind: str,
        *options: str,
        primaries: int = 3,
        replicas: int = 1,
        node_timeout_ms: int = CALM_MS,
        without_slots: range = range(0),
        password: str = "",
    ) -> None:
        self.kind = kind
        self.password = password
        self._binary = find_binary(kind)
        self._folder = Path(tempfile.mkdtemp(prefix="store-tests-cluster-"))
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._options = (*options, "--cluster-node-timeout", str(node_timeout_ms))
        if password:
            self._options += ("--requirepass", password, "--masterauth", password)
        try:
            places = [(free_port(), free_port()) for _ in range(primaries * (1 + replicas))]
            lines = list(_lines_of_file(places, primaries, without_slots))
            self.nodes = [self._start(number, *place, lines) for number, place in enumerate(places)]
            self.wait_until_whole(covered=not without_slots)
        except BaseException:
            self._stack.close()
            raise

    @property
    def url(self) -> str:
        """A url that names every node."""
        return f"redis+cluster://{self._login}{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"

    @property
    def plain_url(self) -> str:
        """The url of one node, which turns out to be a cluster's."""
        return f"redis://{self._login}127.0.0.1:{self.nodes[0].port}"

    @property
    def primaries(self) -> list[Node]:
        """The nodes that are primaries in their own opinion. Those that do not answer are left out."""
        return [node for node in self.nodes if _role_of(node) == "master"]

    def owner(self, slot: int) -> Node:
        """Return the primary of a slot, once every node that answers names the same one."""
        owner: Node = wait_until(lambda: self._owner(slot), f"the nodes agree on the owner of slot {slot}")
        return owner

    def owner_of(self, user: str) -> Node:
        """Return the primary of a user's slot."""
        return self.owner(slot_of(user))

    def others(self, slot: int) -> list[Node]:
        """Return the primaries that do not own a slot."""
        owner = self.owner(slot)
        return [node for node in self.primaries if node is not owner]

    def replica_of(self, primary: Node) -> Node:
        """Return a replica of a primary."""
        return next(
            node
            for node in self.nodes
            if _role_of(node) == "slave" and int(node.info("replication")["master_port"]) == primary.port
        )

    @contextmanager
    def moving(self, slot: int, target: Node) -> Iterator[Callable[[int], int]]:
        """Have a slot be on its way to another primary: keys that are not there yet are at the former one (``ASK``).

        The function that the block gets moves some keys, and returns how many. The others move at the end of the block.
        """
        source = self.owner(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        login = ("AUTH", self.password) if self.password else ()

        def move_some(most: int = 10) -> int:  # as redis-cli: the node does nothing else meanwhile
            keys = raw.execute_command("CLUSTER", "GETKEYSINSLOT", slot, most)
            if keys:
                raw.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 20_000, *login, "KEYS", *keys)
            return len(keys)

        with source.client() as raw:
            yield move_some
            while move_some():
                pass
        for node in (target, source, *self.primaries):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def move(self, slot: int, target: Node | None = None) -> Node:
        """Move a slot with its keys to another primary, which is returned."""
        target = target or self.others(slot)[0]
        with self.moving(slot, target):
            pass
        return target

    def move_at_once(self, slot: int, target: Node | None = None) -> Node:
        """Move a slot as Valkey 9 does by itself: all at one moment, without ``ASK``."""
        source, target = self.owner(slot), target or self.others(slot)[0]
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id)
        wait_until(lambda: self._owner(slot) is target, f"slot {slot} has moved")
        return target

    def fail_over(self, primary: Node, how: str = "") -> Node:
        """Have a replica take the place of a primary, which goes on as its replica. `how` is empty, FORCE or TAKEOVER."""
        replica = self.replica_of(primary)
        replica.ask("CLUSTER", "FAILOVER", *([how] if how else []))
        self.wait_for_primary(replica)
        return replica

    def kill(self, primary: Node, *, takes_over: bool = True) -> Node:
        """Kill a primary by SIGKILL and return the replica that takes its place: at once, or by the nodes' own election."""
        replica = self.replica_of(primary)
        primary.kill()
        if takes_over:
            replica.ask("CLUSTER", "FAILOVER", "TAKEOVER")
        self.wait_for_primary(replica)
        return replica

    def wait_for_primary(self, node: Node) -> None:
        """Wait until a node is a primary for every node that answers."""
        wait_until(lambda: _role_of(node) == "master", "the replica is promoted")
        wait_until(lambda: all(_believes(other, node) for other in self.nodes), "the nodes know of the promotion")
        wait_until(lambda: all(_is_usable(other) for other in self.nodes), "the nodes take the cluster for usable")

    def wait_until_whole(self, *, covered: bool = True) -> None:
        """Wait until every node answers, follows its primary and takes the cluster for usable. Starts those that were killed."""
        for node in self.nodes:
            if node.process.poll() is not None:
                node.restart()
        for node in self.nodes:
            wait_until(lambda node=node: self._is_whole(node, covered), "the cluster is whole")

    def _is_whole(self, node: Node, covered: bool) -> bool:
        with suppress(redis.RedisError):
            facts = _cluster_info(node)
            state = node.info("replication")
            linked = state["role"] == "master" or state["master_link_status"] == "up"
            usable = not covered or (facts["cluster_state"] == "ok" and facts["cluster_slots_ok"] == str(SLOTS))
            return linked and usable and int(facts["cluster_known_nodes"]) == len(self.nodes)
        return False

    @property
    def _login(self) -> str:
        return f":{self.password}@" if self.password else ""

    def _owner(self, slot: int) -> Node | None:
        named = {owner for node in self.nodes if (owner := _owner_by(node, slot)) is not None}
        if len(named) != 1:
            return None
        (port,) = named
        return next(node for node in self.nodes if node.port == port)

    def _start(self, number: int, port: int, bus_port: int, lines: list[str]) -> Node:
        folder = self._folder / f"node-{number}"
        folder.mkdir()
        own = [re.sub("(master|slave)", r"myself,\1", line) if at == number else line for at, line in enumerate(lines)]
        (folder / "nodes.conf").write_text("\n".join(own) + "\n")
        command = [str(self._binary), "--port", str(port), "--cluster-port", str(bus_port), "--cluster-enabled", "yes"]
        command += ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        command += [
            "--repl-diskless-sync-delay",
            "0",
            "--repl-ping-replica-period",
            "1",
            "--cluster-replica-validity-factor",
            "0",
            *self._options,
        ]
        options = {"password": self.password} if self.password else {}
        node = Node(self.kind, command, folder, f"redis://127.0.0.1:{port}", **options)
        self._stack.callback(node.stop)
        node.id, node.port, node.is_cluster = _id_of(number), port, True
        return node

    def close(self) -> None:
        """Stop the nodes, and remove their folders."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def slot_of(user: str) -> int:
    """Return the slot of a user whose id needs no encoding."""
    slot: int = key_slot(user.encode())
    return slot


def users_by_node(cluster: Cluster, each: int = 1) -> dict[int, list[str]]:
    """Return some users of each primary, by its port."""
    found: dict[int, list[str]] = {node.port: [] for node in cluster.primaries}
    number = 0
    while any(len(users) < each for users in found.values()):
        user, number = f"user-{number}", number + 1
        users = found[cluster.owner_of(user).port]
        if len(users) < each:
            users.append(user)
    return found


def _id_of(number: int) -> str:
    return hashlib.sha1(f"node {number}".encode()).hexdigest()


def _lines_of_file(places: list[tuple[int, int]], primaries: int, without_slots: range) -> Iterator[str]:
    """Return the lines of ``nodes.conf``: the nodes, and the epochs."""
    for number, (port, bus_port) in enumerate(places):
        place = f"{_id_of(number)} 127.0.0.1:{port}@{bus_port}"
        if number >= primaries:
            yield f"{place} slave {_id_of(number % primaries)} 0 0 {number % primaries + 1} connected"
            continue
        slots = range(number * SLOTS // primaries, (number + 1) * SLOTS // primaries)
        ranges = " ".join(_ranges(slot for slot in slots if slot not in without_slots))
        yield f"{place} master - 0 0 {number + 1} connected {ranges}"
    yield f"vars currentEpoch {primaries} lastVoteEpoch 0"


def _ranges(slots: Iterator[int]) -> Iterator[str]:
    first = last = None
    for slot in slots:
        if first is None:
            first = slot
        elif slot != last + 1:
            yield f"{first}-{last}"
            first = slot
        last = slot
    if first is not None:
        yield f"{first}-{last}"


def _cluster_info(node: Node) -> dict[str, str]:
    text = node.ask("CLUSTER", "INFO")
    lines = text.decode() if isinstance(text, bytes) else "\n".join(f"{name}:{value}" for name, value in text.items())
    return dict(line.strip().split(":", 1) for line in lines.splitlines() if ":" in line)


def _role_of(node: Node) -> str | None:
    """Return the role of a node in its own opinion, or None if it does not answer."""
    with suppress(redis.RedisError):
        role: str = node.info("replication")["role"]
        return role
    return None


def _believes(node: Node, primary: Node) -> bool:
    """Whether a node takes another for a primary; True if it does not answer."""
    with suppress(redis.RedisError):
        return any(port == primary.port for _, _, port in _shards(node))
    return True


def _is_usable(node: Node) -> bool:
    """Whether a node takes the cluster for usable; True if it does not answer."""
    with suppress(redis.RedisError):
        return _cluster_info(node)["cluster_state"] == "ok"
    return True


def _owner_by(node: Node, slot: int) -> int | None:
    """Return the port of a slot's primary in a node's opinion, or None if it does not answer."""
    with suppress(redis.RedisError):
        return next((port for first, last, port in _shards(node) if first <= slot <= last), None)
    return None


def _shards(node: Node) -> list[tuple[int, int, int]]:
    """Return the ranges of slots, each with the port of its primary."""
    reply = node.ask("CLUSTER", "SLOTS")
    if isinstance(reply, dict):
        return [(first, last, entry["primary"][1]) for (first, last), entry in reply.items()]
    return [(first, last, primary[1]) for first, last, primary, *_ in reply]
