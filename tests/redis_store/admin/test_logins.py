"""Logins that reach one user's data: what they can do, and how others' data is attacked with one."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import sandbox
from redis_store import AuthenticationFailed, Client, Conflict, DataStore, PermissionDenied, connect
from redis_store.admin import Admin, AsyncAdmin
from redis_store.admin.logins import rules_for, with_login
from redis_store.connections.address import parse_address
from redis_store.errors import DataStoreError, InvalidName
from tests.conftest import missing, params_of
from tests.redis_store.admin.conftest import Ended
from tests.support.servers import REAL_KINDS, MissingServer, Server, start_server

OpenStore = Callable[..., DataStore]

BOB = "user:bob:ns:default"
"""A Redis key of another user."""

ATTACKS: dict[str, tuple[str | int, ...]] = {
    "read": ("HGETALL", BOB),
    "read with one's own": ("EXISTS", "user:alice:ns:default", BOB),
    "a field": ("HGET", BOB, "secret"),
    "write": ("HSET", BOB, "k", "1"),
    "delete": ("UNLINK", BOB),
    "type": ("TYPE", BOB),
    "memory": ("MEMORY", "USAGE", BOB),
    "watch": ("WATCH", BOB),
    "info": ("HGETALL", "user:bob:info:default"),
    "log": ("XRANGE", "user:bob:log:default", "-", "+"),
    "log with one's own": ("XREAD", "STREAMS", "user:alice:log:default", "user:bob:log:default", "0", "0"),
    "log, blocking": ("XREAD", "BLOCK", 1, "STREAMS", "user:bob:log:default", "$"),
    "lock": ("SET", "user:bob:lock:l", "1"),
    "format": ("GET", "user:bob:format"),
    "raising the format": ("SET", "user:bob:format", "9"),
    "removing the format": ("UNLINK", "user:{bob}:format"),
    "dead letters": ("HGETALL", "user:bob:ns:dead-letter:index"),
    "a sequence": ("HGET", "user:bob:ns:sequence", "0"),
    "cursors": ("HSET", "user:bob:consumer:index", "default", "1.0"),
    "what a clear keeps": ("HGETALL", "user:bob:trash:ns:default"),
    "an agent's own name": ("SET", "user:bob:own:agent:lock:l", "1"),
    "what agents stored": ("ZRANGE", "user:bob:beside:agent", 0, -1),
    "a fence": ("HSET", "user:bob:fence", "last", 1),
    "a group of a log": ("XGROUP", "CREATE", "user:bob:log:default", "g", "0"),
    "groups of a log": ("XINFO", "GROUPS", "user:bob:log:default"),
    "another's expiry": ("PEXPIRE", BOB, 1),
    "versions": ("HPEXPIRE", BOB, 1, "FIELDS", 1, "secret"),
    "registry": ("SSCAN", "user:bob:namespaces", 0),
    "the other form": ("HGETALL", "user:{bob}:ns:default"),
    "a user whose id begins like hers": ("HGETALL", "user:alice2:ns:default"),
    "a user whose id ends like hers": ("HGETALL", "user:xalice:ns:default"),
    "no user's key": ("GET", "other"),
    "the operators' log": ("XRANGE", "user::audit", "-", "+"),
    "scan": ("SCAN", 0),
    "scan for one's own": ("SCAN", 0, "MATCH", "user:alice:*"),
    "keys": ("KEYS", "*"),
    "random key": ("RANDOMKEY",),
    "number of keys": ("DBSIZE",),
    "info keyspace": ("INFO", "keyspace"),
    "info server": ("INFO", "server"),
    "tracking": ("CLIENT", "TRACKING", "ON", "BCAST"),
    "tracking of one's own": ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "user:alice:"),
    "clients": ("CLIENT", "LIST"),
    "kill": ("CLIENT", "KILL", "TYPE", "normal"),
    "pause": ("CLIENT", "PAUSE", 1),
    "configuration": ("CONFIG", "GET", "*"),
    "configuring": ("CONFIG", "SET", "notify-keyspace-events", "A"),
    "monitor": ("MONITOR",),
    "flush": ("FLUSHALL",),
    "flush one": ("FLUSHDB",),
    "swap": ("SWAPDB", 0, 1),
    "another database": ("SELECT", 1),
    "logins": ("ACL", "LIST"),
    "own rights": ("ACL", "SETUSER", "alice", "allkeys"),
    "debug": ("DEBUG", "OBJECT", BOB),
    "object": ("OBJECT", "ENCODING", BOB),
    "copy": ("COPY", BOB, "user:alice:ns:stolen"),
    "rename": ("RENAME", BOB, "user:alice:ns:stolen"),
    "rename over it": ("RENAME", "user:alice:ns:default", BOB),
    "restore over it": ("RESTORE", BOB, 0, "x"),
    "send away": ("MIGRATE", "127.0.0.1", 1, BOB, 0, 1),
    "nodes": ("CLUSTER", "NODES"),
    "move to a list": ("LMOVE", "user:bob:queue:lock:l", "user:alice:stolen", "LEFT", "LEFT"),
    "union of tags": ("ZUNIONSTORE", "user:alice:stolen", 1, "user:bob:tag:t"),
    "dump": ("DUMP", BOB),
    "sort": ("SORT", "user:alice:namespaces", "BY", "nosort", "GET", "user:bob:*"),
    "function": ("FUNCTION", "LOAD", "#!lua name=mine\nredis.register_function('f', function() return 1 end)"),
    "call of a function": ("FCALL", "f", 0),
    "scripts of others": ("SCRIPT", "FLUSH"),
    "slow log": ("SLOWLOG", "GET"),
    "latency": ("LATENCY", "LATEST"),
    "replicas": ("ROLE",),
    "replication": ("REPLICAOF", "NO", "ONE"),
    "snapshot": ("SAVE",),
    "shut down": ("SHUTDOWN", "NOSAVE"),
    "channel": ("SUBSCRIBE", "user:bob:lock:l"),
    "events of a key": ("SUBSCRIBE", f"__keyspace@0__:{BOB}"),
    "events of keys of a like name": ("SUBSCRIBE", "__keyspace@0__:user:bob:ns:x__:user:alice:ns:y"),
    "events of another database": ("SUBSCRIBE", "__keyspace@1__:user:alice:ns:default"),
    "events by kind": ("SUBSCRIBE", "__keyevent@0__:hset"),
    "pattern": ("PSUBSCRIBE", "*"),
    "pattern of one's own": ("PSUBSCRIBE", "user:alice:*"),
    "what everyone writes": ("PSUBSCRIBE", "__keyspace@0__:user:*:ns:*"),
    "messages of a slot": ("SSUBSCRIBE", "user:bob:lock:l"),
    "message": ("PUBLISH", "user:bob:lock:l", "token"),
    "channels": ("PUBSUB", "CHANNELS"),
    "a script that names another's key": ("EVAL", "return redis.call('HGETALL', KEYS[1])", 1, BOB),
    "a script that only reads": ("EVAL_RO", "return redis.call('HGETALL', KEYS[1])", 1, BOB),
    "a script with a key of each": ("EVAL", "return redis.call('HGETALL', KEYS[2])", 2, "user:alice:ns:default", BOB),
    "a script that hides it": ("EVAL", f"return redis.call('HGETALL', '{BOB}')", 0),
    "a script that builds it": ("EVAL", "return redis.call('HGETALL', 'user:' .. ARGV[1] .. ':ns:default')", 0, "bob"),
    "a script that writes it": ("EVAL", f"return redis.call('HSET', '{BOB}', 'k', 1)", 0),
    "a script that scans": ("EVAL", "return redis.call('SCAN', 0)", 0),
    "a script that lists": ("EVAL", "return redis.call('KEYS', '*')", 0),
    "a script that publishes": ("EVAL", "return redis.call('PUBLISH', 'user:bob:lock:l', 'x')", 0),
    "a script that configures": ("EVAL", "return redis.call('CONFIG', 'GET', '*')", 0),
    "a script that flushes": ("EVAL", "return redis.call('FLUSHALL')", 0),
    "a script that selects": ("EVAL", "return redis.call('SELECT', 1)", 0),
}
"""What the login of alice must not get."""


@pytest.fixture(scope="module", params=params_of(REAL_KINDS))
def own(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this module's own, which sends keyspace events, and whose default login has a password."""
    try:
        server = start_server(request.param, "--notify-keyspace-events", "Khgsxe", "--requirepass", "operator")
    except MissingServer as error:
        missing(error)
    server.url = with_login(server.url, "default", "operator")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def of_alice(own: Server) -> str:
    """The url of alice's login."""
    with Admin(own.url, operator="tester") as admin:
        new = admin.create_login("alice")
    assert (new.login, new.made, new.kept, new.open_to_all, new.has_replicas) == ("alice", True, False, False, False)
    with own.client() as raw:
        raw.hset(BOB, "secret", "1")
        raw.xadd("user:bob:log:default", {"": "{}"})
    return new.url


@pytest.mark.server
def test_every_attack_is_refused(own: Server, of_alice: str) -> None:
    """And each succeeds for the operator, unless it ends the server or asks for what is not there."""
    got = {}
    with own.client() as raw:
        before = raw.hgetall(BOB)
        for name, command in ATTACKS.items():
            with redis.Redis.from_url(of_alice, protocol=2) as hers:
                connection = hers.connection_pool.get_connection()
                try:
                    connection.send_command(*command)
                    got[name] = connection.read_response()
                except redis.exceptions.NoPermissionError:
                    pass
                except redis.ResponseError as refused:
                    signs = (
                        "ACL failure",
                        "user executing the script can't",
                        "unknown command",
                        "not allowed from script",
                    )
                    if not any(sign.lower() in str(refused).lower() for sign in signs):
                        got[name] = refused
        assert got == {}
        assert raw.hgetall(BOB) == before
        assert raw.ping()


@pytest.mark.server
def test_attacks_are_possible_without_the_login(own: Server) -> None:
    """So that a refusal above is the login's."""
    names = ("read", "scan", "random key", "events of a key", "pattern", "a script that builds it", "tracking")
    for name in names:
        with redis.Redis.from_url(own.url, protocol=2) as raw:
            if name == "tracking":
                raw.execute_command("HELLO", 3)
            connection = raw.connection_pool.get_connection()
            connection.send_command(*ATTACKS[name])
            assert connection.read_response()


@pytest.mark.server
def test_what_is_hers_works(own: Server, of_alice: str, caplog: pytest.LogCaptureFixture) -> None:
    """Values, batches, locks and watching with events, and in the sandbox; the near cache says that it is off."""
    with connect(of_alice, user="alice", near_cache=True) as store, caplog.at_level(logging.WARNING):
        with store.watch(consumer="c", initial=True) as watch:
            store.set_many({f"key-{number}": number for number in range(1100)}, metadata={"m": 1})
            with store.transaction() as transaction:
                transaction.set("n", transaction.get("key-7") + 1)
            with store.lock("l"), store.semaphore("s", 2):
                assert store.get_or_set("computed", lambda: 3, tags=["t"]) == 3
            store.rate_limit("r", 5, 1).acquire()
            assert store.invalidate_tag("t") == 1
            seen: set[str] = set()
            while not {"key-0", "n"} <= seen:
                change = watch.next_change(20)
                assert change is not None
                seen.add(change.key)
        assert (len(store), store.list_namespaces()) == (1101, ["default"])
        assert store.memory_bytes() > 0
        assert store.get("n") == store.get("n") == 8
        assert not store.stats().near_live
        assert store.clear() == 1101
    assert "near cache is off" in caplog.text
    assert "no keyspace events" not in caplog.text
    with Client(of_alice) as client:
        assert set(client.server_info().lacks) <= {"CLIENT TRACKING", "CONFIG", "HPEXPIRE"}
        assert ("HPEXPIRE" in client.server_info().lacks) is not own.has_ttl
        with pytest.raises(PermissionDenied):
            client.store(user="bob").get("secret")


@pytest.mark.server
def test_operators_commands_show_and_change_nothing_of_others(own: Server, of_alice: str) -> None:
    """Whatever begins with a look at all users is refused, and so is what names another user."""
    with own.client() as raw, Admin(of_alice, operator="alice") as admin:
        before = {key: raw.dump(key) for key in raw.keys("*") if b"alice" not in key}
        for call in (
            admin.list_users,
            admin.list_locks,
            admin.list_logins,
            admin.server_stats,
            admin.doctor,
            lambda: list(admin.iter_dead_letters("bob")),
            lambda: list(admin.search("secret", "bob")),
            lambda: list(admin.iter_audit()),
            lambda: admin.delete_user("bob"),
            lambda: admin.clear("bob", "default"),
            lambda: admin.copy_namespace("bob", "default", "stolen", "alice"),
            lambda: admin.rename_namespace("bob", "default", "gone"),
            lambda: admin.retry_dead_letter("bob", "index", "x"),
            lambda: admin.release_lock("bob", "l"),
            lambda: admin.create_login("bob"),
            lambda: admin.export(io.BytesIO(), user="bob"),
        ):
            with pytest.raises(PermissionDenied):
                call()
        with admin.follow_changes() as changes:  # it is told nothing, and may not look for itself
            raw.hset("user:bob:ns:other", "k", "1")
            with pytest.raises(PermissionDenied):
                changes.take(10)
            raw.delete("user:bob:ns:other")
        assert {key: raw.dump(key) for key in raw.keys("*") if b"alice" not in key} == before


@pytest.mark.server
def test_what_came_later_works_too(own: Server, of_alice: str) -> None:
    """The mark of the format, versions, sequences, runs and dead letters; tests/contract does more with such a login."""
    with connect(of_alice, user="alice", namespace="later", agent="a", run="r") as store, own.client() as raw:
        store.set("k", 1)
        told = store.info("k")
        assert told is not None
        assert told.run == "r"
        assert store.set("k", 2, if_version=told.version) is None
        with pytest.raises(Conflict):
            store.delete("k", if_version=told.version)
        log = store.sequence("log")
        log.append(1, 2)
        assert [*log, log.pop()] == [1, 2, 2]
        assert raw.exists("user:alice:format") == 1
        store.use_namespace("dead-letter:c").set("k@1", {"change": {}})
        assert store.use_namespace("dead-letter:c").pop("k@1") == {"change": {}}
        store.clear()


@pytest.mark.server
def test_agents_run_with_it(own: Server, of_alice: str) -> None:
    if own.kind != "valkey9":
        return  # what they send is the same everywhere
    agent = """
def run(task):
    data_store.set('n', task['n'])
    with data_store.lock('l'):
        return data_store.get_all()
"""
    permissions = sandbox.Permissions(quota_bytes=1_000_000)
    with sandbox.Sandbox(url=of_alice, permissions=permissions) as runs:
        assert runs.run(agent, {"n": 7}, user="alice").check() == {"n": 7}
        with pytest.raises(PermissionDenied):
            runs.run(agent, {"n": 7}, user="bob")


def test_rotating_and_removing(one_server: Server, user: str) -> None:
    with Admin(one_server.url) as admin:
        new = admin.create_login(user)
        with pytest.raises(Conflict, match="exists"):
            admin.create_login(user)
        with connect(new.url, user=user) as old:
            old.set("k", 1)
            second = admin.rotate_login(user, keep_old=True)
            assert second is not None
            assert old.get("k") == 1
            with connect(second.url, user=user) as store:
                assert store.get("k") == 1
            third = admin.rotate_login(user)
            assert third is not None
            for url in (new.url, second.url):
                with pytest.raises(AuthenticationFailed), connect(url, user=user) as store:
                    store.get("k")
            with pytest.raises(AuthenticationFailed):
                old.get("k")
        [mine] = [login for login in admin.list_logins() if login.user == user]
        assert (mine.login, mine.enabled, mine.passwords, mine.near_cache) == (user, True, 1, False)
        assert admin.remove_login(user)
        assert not admin.remove_login(user)
        assert admin.rotate_login(user) is None
        with pytest.raises(AuthenticationFailed), connect(third.url, user=user) as store:
            store.get("k")


def test_the_near_cache_on_request(one_server: Server, user: str) -> None:
    with Admin(one_server.url) as admin:
        new = admin.create_login(user, near_cache=True)
        with connect(new.url, user=user, near_cache=True) as store:
            store.set("k", 1)
            assert [store.get("k") for _ in range(3)] == [1] * 3
            assert store.stats().near_hits > 0
        rotated = admin.rotate_login(user)
        assert rotated is not None
        assert "client|tracking" in rotated.rule
        rotated = admin.rotate_login(user, near_cache=False)
        assert rotated is not None
        assert "client|tracking" not in rotated.rule
        admin.remove_login(user)


@pytest.mark.parametrize("suffix", ["*", "[a-z]?\\", "a b\nuser:bob", ":ns:{x}", "zoë", "%2A"])
def test_ids_that_look_like_patterns(one_server: Server, user: str, suffix: str) -> None:
    odd = f"{user}{suffix}"
    with Admin(one_server.url) as admin:
        new = admin.create_login(odd)
        with connect(new.url, user=odd, hash_tags=False) as store:
            store.set("k", 1)
            assert store.get("k") == 1
        with connect(new.url, user=odd, hash_tags=True) as store, contextlib.suppress(DataStoreError):
            store.lock("l").acquire()
        for other in (user, f"{user}x", f"{odd}x"):
            with connect(new.url, user=other) as store, pytest.raises(PermissionDenied):
                store.get("k")
        assert odd in {login.user for login in admin.list_logins()}
        assert admin.remove_login(odd)


def test_logins_of_others_are_left_alone(one_server: Server, raw_of: Callable[..., redis.Redis], user: str) -> None:
    """A login of the same name that reaches more is neither changed nor removed; above all ``default``."""
    raw = raw_of(one_server)
    for rules in (["~*"], [f"~user:{user}:*", "~other"], [f"~user:{user}:*", "(~* +@all)"], ["~user:*:*"]):
        raw.execute_command("ACL", "SETUSER", f"svc-{user}", "reset", "on", ">x", "+@all", *rules)
        before = raw.execute_command("ACL", "LIST")
        with Admin(one_server.url) as admin:
            assert user not in {login.user for login in admin.list_logins()}
            for use in (admin.create_login, admin.rotate_login, admin.remove_login):
                with pytest.raises(Conflict):
                    use(user, login=f"svc-{user}")  # type: ignore[operator]
                with pytest.raises(Conflict):
                    use("default")  # type: ignore[operator]
            for login in ("", "a b", "a\nb", "ä"):
                with pytest.raises(InvalidName):
                    admin.create_login(user, login=login)
        assert raw.execute_command("ACL", "LIST") == before
    raw.execute_command("ACL", "DELUSER", f"svc-{user}")


@pytest.mark.parametrize("kind", ["valkey9"])
def test_logins_outlive_a_restart_with_a_file(
    start: Callable[..., Server], kind: str, tmp_path: Any, run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users.acl").write_text("user default on >operator ~* &* +@all\n")
    server = start(kind, "--aclfile", str(tmp_path / "users.acl"))
    monkeypatch.setenv("REDIS_URL", with_login(server.url, "default", "operator"))
    ended = run("login", "create", "alice")
    url = ended.out.strip()
    assert "restart" not in ended.err
    server.restart()
    with connect(url, user="alice") as store:
        store.set("k", 1)
    assert run("login", "rotate", "alice").out.strip() != url
    run("login", "remove", "alice", "--yes")
    server.restart()
    assert run("login", "list", "--json").records == []


def test_a_server_that_refuses_gets_a_line_to_add(
    start: Callable[..., Server], run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start("valkey9")
    with server.client() as raw:
        raw.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-acl|setuser")
        monkeypatch.setenv("REDIS_URL", with_login(server.url, "app", "pw"))
        [told] = run("login", "create", "alice", "--json").records
        assert (told["made"], told["kept"]) == (False, False)
        shown = run("login", "create", "alice")
        assert shown.out.splitlines()[0].startswith("user alice on #")
        assert "nothing was made" in shown.err
        raw.execute_command("ACL", "SETUSER", *told["rule"].split(" ")[1:])
        with connect(told["url"], user="alice") as store:
            store.set("k", 1)
        outcomes = [json.loads(line)["outcome"] for line in run("audit", "--json").out.splitlines()]
        assert outcomes == ["begun", "failed"] * 2


def test_the_commands(run: Callable[..., Ended], url: str, raw: redis.Redis, user: str) -> None:
    ended = run("login", "create", user, "--json")
    [new] = ended.records
    assert f"#{new['password']}" not in new["rule"]
    assert parse_address(new["url"], None).options["username"] == user
    assert "ends when the server restarts" in ended.err
    assert "without a password" in ended.err
    with connect(new["url"], user=user) as store:  # in the database of the url
        store.set("k", 1)
    assert raw.exists(f"user:{user}:ns:default")
    assert "exists" in run("login", "create", user, code=4).err
    assert user in {login["user"] for login in run("login", "list", "--json").records}
    assert user in run("login", "list").out
    run("login", "remove", user, "--yes")
    for name in ("rotate", "remove"):
        options = ["--yes"] if name == "remove" else []
        assert "no login" in run("login", name, user, *options, code=3).err
    assert run("login", "rotate", "default", code=4)
    assert new["password"] not in run("audit").out


def test_asyncio(one_server: Server, user: str) -> None:
    async def main() -> None:
        async with AsyncAdmin(one_server.url) as admin:
            new = await admin.create_login(user)
            assert user in {login.user for login in await admin.list_logins()}
            assert await admin.rotate_login(user, keep_old=True) is not None
            assert await admin.remove_login(user)
            assert new.password not in repr(new)

    asyncio.run(main())


def test_urls() -> None:
    for url, expected in {
        "redis://h:1/2": "redis://l:p%2F@h:1/2",
        "rediss://a:b@h/0?ssl_ca_certs=x&password=q": "rediss://l:p%2F@h/0?ssl_ca_certs=x",
        "unix:///a/b.sock?db=3&username=u&password=q": "unix://l:p%2F@/a/b.sock?db=3",
        "redis+sentinel://a:b@h1:1,h2:2/svc/0": "redis+sentinel://l:p%2F@h1:1,h2:2/svc/0",
    }.items():
        assert with_login(url, "l", "p/") == expected


def test_no_rule_grants_what_is_for_operators() -> None:
    rules = rules_for("alice", near_cache=True)
    assert not [
        rule for rule in rules if rule.startswith("+") and rule[1:].split("|")[0] in ("config", "acl", "info", "scan")
    ]
