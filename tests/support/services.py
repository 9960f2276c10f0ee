"""Managed services, played by real servers with an access list: what a service refuses, the login of the tests may not do.

The lists follow the services' documentation, whose addresses are in `docs/managed-services.md`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from redis.cluster import ClusterNode

from redis_store.admin.logins import COMMANDS
from tests.support.clusters import Cluster
from tests.support.servers import KINDS_WITH_TTL, REAL_KINDS, Server, free_port, start_server, wait_until

SERVICE = os.environ.get("SERVICE")
"""The service on which `make services` runs the contract and the watch suite now; None in other runs of the tests.

`make cluster` runs the contract on a cluster of six nodes, as "cluster".
"""

LOGIN, PASSWORD = "service", "a-token"

EVENTS = "Khgxe"


@dataclass(frozen=True, slots=True)
class Service:
    """A service: the server that plays it, and what it refuses."""

    kind: str
    refused: tuple[str, ...]
    """Commands, as in an access list."""
    sends_events: bool = True
    """Whether the keyspace events that the documentation recommends can be switched on in its console."""
    is_cluster: bool = False
    has_ttl: bool = True
    tracks: bool = True
    """Whether connections may track writes, for the near cache."""
    measures: bool = True
    """Whether it reports the memory of a key."""
    allowed: tuple[str, ...] = ("+@all",)
    """The rules before those of what is refused."""


_NEVER = (
    "acl|setuser",
    "acl|deluser",
    "bgrewriteaof",
    "bgsave",
    "debug",
    "migrate",
    "replicaof",
    "save",
    "shutdown",
    "sync",
)

SERVICES = {
    "elasticache": Service("valkey9", (*_NEVER, "config")),
    "elasticache-serverless": Service(
        "valkey9",
        (
            *_NEVER,
            "config",
            "client|id",
            "client|unblock",
            "client|tracking",
            "memory",
            "object",
            "wait",
            "psubscribe",
            "monitor",
        ),
        sends_events=False,
        is_cluster=True,
        tracks=False,
        measures=False,
    ),
    "memorydb": Service("redis7", (*_NEVER, "config", "module", "psync"), is_cluster=True, has_ttl=False),
    "redis-cloud": Service(
        "redis8",
        (*_NEVER, "config|set", "client|unblock", "client|pause", "client|getredir", "client|no-evict", "wait"),
    ),
    "upstash": Service(
        "redis8",
        (*_NEVER, "config", "client|unblock", "client|tracking", "memory", "object", "wait", "latency"),
        sends_events=False,
        tracks=False,
        measures=False,
    ),
    "memorystore": Service(
        "redis7",
        (*_NEVER, "config", "client", "cluster", "command", "object", "lastsave", "monitor"),
        has_ttl=False,
        tracks=False,
    ),
}


_SIX_NODES = Service("valkey9", (), is_cluster=True)


class ClusterServer(Server):
    """A cluster of six nodes, for tests that know one server."""

    is_cluster = True

    def __init__(self) -> None:
        self._cluster = Cluster(_SIX_NODES.kind, "--notify-keyspace-events", EVENTS, "--enable-debug-command", "yes")
        self.kind, self.url = self._cluster.kind, self._cluster.url

    def client(self, **options: Any) -> Any:
        """Return a redis-py client that finds the node of a key; the caller closes it."""
        nodes = [ClusterNode("127.0.0.1", node.port) for node in self._cluster.nodes]
        return redis.RedisCluster(startup_nodes=nodes, **{"protocol": 2, **options})

    def stop(self) -> None:
        self._cluster.close()


LOGINS = {
    f"login-{kind}": Service(
        kind, (), has_ttl=kind in KINDS_WITH_TTL, tracks=False, allowed=tuple(f"+{command}" for command in COMMANDS)
    )
    for kind in REAL_KINDS
}
"""Servers whose login has the commands of `redis-store login create`, for all users."""


class ServiceServer(Server):
    """A server that plays a service. `url` has the tests' login; `client()` is the operator, who may do anything."""

    name: str
    service: Service
    operator: str

    def client(self, **options: Any) -> redis.Redis:
        """Return a redis-py client that may do anything; the caller closes it."""
        return redis.Redis.from_url(self.operator, **{"protocol": 2, **options})

    @property
    def refusals(self) -> set[str]:
        """The commands that the server refused to the tests' login."""
        with self.client() as raw:
            return {entry["object"] for entry in raw.acl_log(128) if entry["username"] == LOGIN}


def start_service(name: str) -> Server:
    """Start the server of a service."""
    if name == "cluster":
        return ClusterServer()
    service = {**SERVICES, **LOGINS}[name]
    options = ["--notify-keyspace-events", EVENTS if service.sends_events else ""]
    if service.is_cluster:
        options += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    server = start_server(service.kind, *options, tcp=service.is_cluster)
    server.__class__ = ServiceServer
    assert isinstance(server, ServiceServer)
    server.name, server.service, server.operator = name, service, server.url
    server.is_cluster = service.is_cluster
    with server.client() as raw:
        if service.is_cluster:
            raw.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: b"cluster_state:ok" in raw.execute_command("CLUSTER", "INFO"), "the cluster is ready")
        raw.execute_command("ACL", "SETUSER", LOGIN, "on", f">{PASSWORD}", "~*", "&*")
        for rule in (*service.allowed, *(f"-{command}" for command in service.refused)):
            with suppress(redis.ResponseError):  # Redis 7.0 does not know all that the product uses
                raw.execute_command("ACL", "SETUSER", LOGIN, rule)
    server.url = server.url.replace("://", f"://{LOGIN}:{PASSWORD}@")
    return server


def runs_on_service(item: pytest.Item) -> bool:
    """Whether a test runs on the server that plays `SERVICE`. Tests that start a server of their own say nothing about it."""
    assert SERVICE is not None
    service = _SIX_NODES if SERVICE == "cluster" else {**SERVICES, **LOGINS}[SERVICE]
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    kind = given.get("server") or given.get("real_server")
    if item.nodeid.startswith("tests/redis_store/watch/") and (service.is_cluster or not service.sends_events):
        return False  # they write by hand, and expect events; `tests/redis_store/services` watches there too
    return kind == service.kind and item.name.partition("[")[0] not in done_without(service)


def done_without(service: Service) -> set[str]:
    """Return the tests that do not concern a service, for what it has not."""
    found: set[str] = set()
    if service.is_cluster:  # they write keys without a hash tag by hand
        found |= {"test_foreign_keys_do_not_show", "test_no_user_sees_another"}
    if service is _SIX_NODES:  # they count the connections to one node, and the commands that it gets
        found |= {"test_closing_leaves_no_connection_behind", "test_ten_thousand_namespaces_in_two_round_trips"}
    return found
