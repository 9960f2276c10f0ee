"""Logins of the server that reach one user's data and nothing else: the rules, and the operations that make and remove them.

A login is an entry of the server's access list. Nothing else is kept about it: a login whose key patterns are those of one user
is that user's. A user's id is percent-encoded in Redis keys, so that none of its characters has a meaning in a pattern.

What the rules leave out tells of others, or changes the server: ``SCAN``, ``KEYS``, ``RANDOMKEY`` and ``DBSIZE`` look at all
keys, ``INFO`` counts them, ``CLIENT TRACKING`` with ``BCAST`` pushes the names of all, and ``CONFIG``, ``CLIENT`` and ``ACL``
are for operators.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast
from urllib.parse import quote, unquote_to_bytes

from redis_store.connections.resolver import database_of
from redis_store.errors import Conflict, InvalidName, PermissionDenied, ServerRefused
from redis_store.limits import shown
from redis_store.namespace.keys import PLAIN, UserKeys
from redis_store.ops.server_info import read_if_allowed
from redis_store.protocol.call import Call, as_is, read
from redis_store.protocol.redirects import Node

L = TypeVar("L", bound="NewLogin | bool | None")

COMMANDS: tuple[str, ...] = (
    # connections, scripts and transactions
    "ping", "client|setinfo", "client|setname", "eval", "evalsha", "multi", "exec", "discard", "watch", "unwatch", "asking",
    "cluster|slots", "time", "wait",
    # any key
    "type", "exists", "del", "unlink", "pexpire", "pexpireat", "persist", "pttl", "memory|usage",
    # data and infos
    "hdel", "hexists", "hget", "hgetall", "hincrby", "hkeys", "hlen", "hmget", "hrandfield", "hscan", "hset", "hstrlen",
    "hpersist", "hpexpire", "hpexpireat", "hpexpiretime", "hpttl",
    # registries, tags, locks and limits
    "sadd", "srem", "sismember", "sscan", "scard", "get", "set", "llen", "lindex", "lpos", "lpop", "lrem", "lset", "rpush",
    "ltrim", "zadd", "zcard", "zcount", "zrandmember", "zrange", "zrangebyscore", "zrem", "zremrangebyrank",
    "zremrangebyscore", "zscan", "zscore",
    # change logs and messages
    "xadd", "xlen", "xrange", "xread", "xrevrange", "xgroup|create", "xinfo|groups", "publish", "subscribe", "unsubscribe",
)  # fmt: skip
"""What the product sends and its scripts call. Those that a server does not have yet are left out of its rules."""

NEAR_CACHE_COMMAND = "client|tracking"
"""What the near cache needs besides. It tells a login the names of all Redis keys that are written."""

_REACHED = re.compile(r"~user:(\{)?([A-Za-z0-9_.%-]+)(?(1)\}):\*")
_ENCODED_NAME = re.compile(r"[!-~]+")
_RESETS = ("resetpass", "resetkeys", "clearselectors")


@dataclass(frozen=True, slots=True)
class UserLogin:
    """A login of the server that reaches one user's data and no other Redis keys."""

    login: str
    user: str
    enabled: bool
    passwords: int
    """Passwords that are valid; two between a rotation that keeps the old one and the next."""
    near_cache: bool
    """Whether it may use the near cache, and so learns the names of others' Redis keys."""


@dataclass(frozen=True, slots=True)
class NewLogin:
    """What came of making a login, or of giving it another password."""

    login: str
    user: str
    password: str = field(repr=False)
    url: str = field(repr=False)
    """The server's url with this login."""
    rule: str = field(repr=False)
    """The line of the server's access list, with the digest of the password."""
    made: bool
    """Whether the server has it now. If it refuses to be told so, its operator has to add the line."""
    kept: bool
    """Whether the server has saved its access list, so that the login outlives a restart."""
    open_to_all: bool
    """Whether the server lets in everyone without a password, as ``default``: then the login restricts nobody."""
    has_replicas: bool
    """Whether the server has replicas. They have access lists of their own, and need the line too."""


def name_of_login(user: str, login: str | None = None) -> str:
    """Check a user's id and return the name of its login; without one it is the id, encoded as in Redis keys."""
    encoded = _encoded(user)
    if login is None:
        return encoded
    if not isinstance(login, str) or not _ENCODED_NAME.fullmatch(login) or len(login) > 1024:
        raise InvalidName(
            f"The login {shown(login)} must be of 1 to 1,024 printable ASCII characters without spaces: choose another name.",
            kind="login",
        )
    return login


def rules_for(user: str, database: int = 0, *, near_cache: bool = False, without: Sequence[str] = ()) -> list[str]:
    """Return the rules of a user's login, without those for its state and passwords, in the order of the server's own lists.

    `without` are commands that the server does not have.
    """
    encoded = _encoded(user)
    heads = (f"user:{encoded}:", f"user:{{{encoded}}}:")
    commands = [*COMMANDS, *([NEAR_CACHE_COMMAND] if near_cache else []), *([f"select|{database}"] if database else [])]
    return [
        *(f"~{head}*" for head in heads),
        "resetchannels",
        *(f"&{head}*" for head in heads),
        *(f"&__keyspace@{database}__:{head}*" for head in heads),
        "-@all",
        *(f"+{command}" for command in commands if command not in without),
    ]


async def list_logins() -> list[UserLogin]:
    """Return the logins that reach the data of one user and nothing else, by name."""
    found = (_parsed(line.decode(errors="backslashreplace").split(" ")) for line in await read("ACL", "LIST"))
    return sorted((login for login in found if login is not None), key=lambda login: login.login)


async def create_login(
    user: str, password: str, url: str, *, login: str | None = None, near_cache: bool = False
) -> NewLogin:
    """Make a login that does not exist yet. Raises `Conflict` if one of this name does.

    `url` is that of the server, with the login of the operator.
    """
    name = name_of_login(user, login)
    database = database_of(url)
    rules = [
        "on",
        _digest(password),
        *rules_for(user, database, near_cache=near_cache, without=await _unknown_commands()),
    ]
    if await read_if_allowed("ACL", "GETUSER", name) is not None:  # where that is refused, the next one will be too
        raise Conflict(
            f"The login {name!r} exists on this server: nothing was changed. Give it a new password with `login rotate`, or"
            " choose another name with --login."
        )
    return await _set(name, user, rules, password, url)


async def rotate_login(
    user: str,
    password: str,
    url: str,
    *,
    login: str | None = None,
    near_cache: bool | None = None,
    keep_old: bool = False,
) -> NewLogin | None:
    """Give a login another password and the rules of this version, or return None if there is no such login.

    The last password and the connections made with it end at once; with `keep_old` they go on until the next rotation.
    """
    name = name_of_login(user, login)
    existing = await _own(name, user)
    if existing is None:
        return None
    near = existing.near_cache if near_cache is None else near_cache
    rules = rules_for(user, database_of(url), near_cache=near, without=await _unknown_commands())
    passwords = [_digest(password)] if keep_old else ["resetpass", _digest(password)]
    new = await _set(name, user, ["on", *passwords, "clearselectors", "resetkeys", *rules], password, url)
    if new.made and not keep_old:
        with suppress(PermissionDenied, ServerRefused):
            await Call((("CLIENT", "KILL", "USER", name),), as_is)
    return new


async def remove_login(user: str, *, login: str | None = None) -> bool:
    """Remove a login and end its connections, and return whether it existed. The user's data stays."""
    name = name_of_login(user, login)
    if await _own(name, user) is None:
        return False
    await Call((("ACL", "DELUSER", name),), as_is)
    await _save()
    return True


async def nodes_of_cluster(known: Sequence[Node]) -> list[Node]:
    """Return all nodes of a cluster, replicas included, also those that fail; none if the server does not tell.

    `known` are nodes as the cluster announces them: by name or by number.
    """
    # CLUSTER SLOTS leaves out replicas that are behind, and CLUSTER SHARDS has not always all.
    told = await read_if_allowed("CLUSTER", "NODES")
    if told is None:
        return []
    lines = told.decode(errors="replace").splitlines()
    places = [
        place for _, place, flags, *_ in map(str.split, lines) if not {"handshake", "noaddr"} & {*flags.split(",")}
    ]
    found = []
    for place in places:
        address, *names = place.split(",")
        host, _, port = address.partition("@")[0].rpartition(":")
        found.append((host, names[0] if names else "", int(port)))
    by_name = {name for _, name, _ in found if name} & {node.host for node in known}
    return [Node(name if by_name and name else host, port) for host, name, port in found]


def of_all(results: Sequence[L]) -> L:
    """Return what came of an operation of this module on all nodes of a cluster, replicas included, from what came of each.

    Each node has an access list of its own.
    """
    if len(results) == 1:
        return results[0]
    new = [each for each in results if isinstance(each, NewLogin)]
    if not new:
        return next((each for each in results if each), results[0])
    result: Any = replace(
        new[0],
        made=len(new) == len(results) and all(each.made for each in new),
        kept=all(each.kept for each in new),
        open_to_all=any(each.open_to_all for each in new),
        has_replicas=False,
    )
    return cast(L, result)


def is_done(result: object) -> bool:
    """Whether an operation of this module changed the server."""
    return result.made if isinstance(result, NewLogin) else bool(result)


async def default_is_open() -> bool:
    """Return whether the server lets in everyone without a password, with a right to read keys."""
    flat = await read_if_allowed("ACL", "GETUSER", "default")
    if flat is None:
        return False
    flags = dict(zip(flat[::2], flat[1::2], strict=False))[b"flags"]
    return b"on" in flags and b"nopass" in flags


async def _own(name: str, user: str) -> UserLogin | None:
    """Return a login, or None if it does not exist. Raises `Conflict` if it reaches more than the user's data."""
    for line in await read("ACL", "LIST"):
        parts = line.decode(errors="backslashreplace").split(" ")
        if parts[1] != name:
            continue
        login = _parsed(parts)
        if login is None or login.user != user:
            raise Conflict(
                f"The login {name!r} is not one that reaches the data of {user!r} alone: nothing was changed. If it belongs to"
                " this user, remove it with ACL DELUSER and create it anew; else name the login with --login."
            )
        return login
    return None


async def _set(name: str, user: str, rules: list[str], password: str, url: str) -> NewLogin:
    made = True
    try:
        await Call((("ACL", "SETUSER", name, *rules),), as_is)
    except (PermissionDenied, ServerRefused):
        made = False
    return NewLogin(
        login=name,
        user=user,
        password=password,
        url=with_login(url, name, password),
        rule=f"user {name} {' '.join(rule for rule in rules if rule not in _RESETS)}",
        made=made,
        kept=made and await _save(),
        open_to_all=await default_is_open(),
        has_replicas=await _has_replicas(),
    )


async def _save() -> bool:
    try:
        await Call((("ACL", "SAVE"),), as_is)
    except (PermissionDenied, ServerRefused):
        return False
    return True


async def _has_replicas() -> bool:
    role = await read_if_allowed("ROLE")
    return role is not None and role[0] == b"master" and len(role[2]) > 0


async def _unknown_commands() -> list[str]:
    known = await read_if_allowed("COMMAND", "INFO", *COMMANDS)
    if known is None:
        return []
    return [command for command, about in zip(COMMANDS, known, strict=True) if about is None]


def _parsed(parts: list[str]) -> UserLogin | None:
    """Return the login of a line of ``ACL LIST``, or None if it does not reach the data of one user only."""
    name, rules = parts[1], parts[2:]
    patterns = [_REACHED.fullmatch(rule) for rule in rules if rule[:1] in ("~", "%", "(") or rule == "allkeys"]
    users = {None if match is None else match[2] for match in patterns}
    if len(users) != 1 or None in users:
        return None
    (encoded,) = users
    assert encoded is not None
    user = unquote_to_bytes(encoded).decode(errors="backslashreplace")
    return UserLogin(
        login=name,
        user=user,
        enabled="on" in rules,
        passwords=sum(rule.startswith("#") for rule in rules),
        near_cache=not {f"+{NEAR_CACHE_COMMAND}", "+client", "+@all"}.isdisjoint(rules),
    )


def _encoded(user: str) -> str:
    return UserKeys.of(user, form=PLAIN).prefix.decode().removeprefix("user:").removesuffix(":")


def _digest(password: str) -> str:
    """Return the rule for a password, which so neither travels nor shows in MONITOR."""
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


def with_login(url: str, login: str, password: str) -> str:
    """Return the url of a server with another login."""
    scheme, _, rest = url.partition("://")
    place, mark, query = rest.partition("?")
    place = place.rpartition("@")[2]
    options = [part for part in query.split("&") if part.partition("=")[0] not in ("username", "password")]
    return (
        f"{scheme}://{quote(login, safe='')}:{quote(password, safe='')}@{place}"
        + mark * bool(options)
        + "&".join(options)
    )
