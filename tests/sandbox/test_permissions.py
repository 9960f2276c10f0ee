"""Rights of an agent on its user's store: granted on the host, and enforced there whatever the agent does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import redis

import sandbox
from redis_store import AccessDenied, DataStore
from redis_store.brokers.usage import stored_bytes
from redis_store.namespace.keys import UserKeys
from sandbox import Permissions
from sandbox.cli.options import read_limits
from sandbox.permissions import KNOWN_OPERATIONS

from .test_hostile import attack

pytestmark = pytest.mark.usefixtures("nothing_left")

TRY = """
def run(input_dict):
    said = []
    for namespace, method, args in input_dict["calls"]:
        try:
            getattr(data_store.use_namespace(namespace), method)(*args)
            said.append("done")
        except Exception as error:
            said.append(type(error).__name__)
    return {"said": said, "names": data_store.list_namespaces()}
"""


@pytest.fixture
def filled(store: DataStore) -> DataStore:
    for name in ("default", "shared", "files:a", "files:b"):
        store.use_namespace(name).set("k", name)
    return store


def tried(run: Any, calls: list[Any], permissions: Permissions | None, **more: Any) -> dict[str, Any]:
    output: dict[str, Any] = run(TRY, {"calls": calls, **more}, permissions=permissions).check()
    return output


def test_reading_and_writing_are_granted_by_namespace(run: Any, filled: DataStore) -> None:
    output = tried(
        run,
        [
            ("shared", "get", ["k"]),
            ("shared", "set", ["k", 1]),
            ("files:a", "set", ["k", 1]),
            ("files:b", "set", ["k", 1]),
            ("files:b", "get", ["k"]),
            ("default", "get", ["k"]),
            ("default", "clear", []),
        ],
        Permissions(read=["shared", "files:*"], write=["files:{repo}"]),
        repo="a",
    )
    assert output["said"] == ["done", "AccessDenied", "done", "AccessDenied", "done", "AccessDenied", "AccessDenied"]
    assert output["names"] == ["files:a", "files:b", "shared"]
    assert filled.get("k") == "default"
    assert filled.use_namespace("files:b").get("k") == "files:b"


def test_error_lists_the_permissions(run: Any, filled: DataStore) -> None:
    result = run(
        "def run(input_dict): data_store.set('k', 1)",
        {"repo": "a"},
        permissions=Permissions(read=["shared"], write=["files:{repo}"]),
    )
    assert isinstance(result.error, sandbox.AgentRaised)
    assert result.error.type_name == "AccessDenied"
    assert result.error.message == (
        "Writing to namespace 'default' is not allowed here: allowed are reading 'shared', writing 'files:a'."
    )


def test_host_enforces_permissions(run: Any, filled: DataStore) -> None:
    result = attack(
        run,
        r"""
        from redis_store.namespace.access import EVERYTHING
        from redis_store.errors import AccessDenied
        said = []
        object.__setattr__(data_store._operations, "access", EVERYTHING)
        for call in (
            lambda: data_store._operations.channel.call("get", "files:a", "k"),
            lambda: data_store._operations.channel.call("set", "files:a", "k", b"1", None, None),
            lambda: data_store._operations.channel.call("get_many", "files:a", "k"),
            lambda: data_store._operations.channel.call("scan_page", "files:a", "0", None),
            lambda: data_store._operations.channel.call("count", "files:a"),
            lambda: data_store._operations.channel.call("contains", "files:a", "k"),
            lambda: data_store._operations.channel.call("info", "files:a", "k"),
            lambda: data_store._operations.channel.call("delete_many", "files:a", "k"),
        ):
            try:
                said.append(repr(call()))
            except AccessDenied:
                said.append("denied")
        return {"said": said, "names": data_store._operations.channel.call("list_namespaces", "files:a", None)}
        """,
        permissions=Permissions(namespaces=["shared"]),
    )
    assert result.check() == {"said": ["denied"] * 8, "names": ["shared"]}


def test_star_in_the_input_is_literal(run: Any, filled: DataStore) -> None:
    permissions = Permissions(namespaces=["files:{repo}"])
    calls = [("files:a", "get", ["k"]), ("files:*", "set", ["k", 1])]
    assert tried(run, calls, permissions, repo="*") == {"said": ["AccessDenied", "done"], "names": ["files:*"]}


def test_braces_and_integers(run: Any, store: DataStore) -> None:
    permissions = Permissions(namespaces=["{{{n}}}", "{not a name}"])
    calls = [("{7}", "set", ["k", 1]), ("{not a name}", "set", ["k", 1]), ("7", "set", ["k", 1])]
    assert tried(run, calls, permissions, n=7)["said"] == ["done", "done", "AccessDenied"]


@pytest.mark.parametrize("given", [{}, {"repo": ""}, {"repo": None}, {"repo": ["a"]}, {"repo": True}])
def test_input_without_a_value_for_a_permission(run: Any, given: dict[str, Any]) -> None:
    with pytest.raises(sandbox.InvalidInput, match=r"'files:\{repo\}' needs 'repo' in input_dict"):
        run("def run(): return {}", given, permissions=Permissions(write=["files:{repo}"]))


def test_default_grants_everything_and_empty_list_nothing(run: Any, filled: DataStore) -> None:
    calls = [("shared", "get", ["k"]), ("shared", "set", ["k", 1])]
    assert tried(run, calls, Permissions())["said"] == ["done", "done"]
    assert tried(run, calls, Permissions(read=[]))["said"] == ["AccessDenied"] * 2
    assert tried(run, calls, Permissions(read=["*"]))["said"] == ["done", "AccessDenied"]
    assert tried(run, calls, Permissions(write=["*"]))["said"] == ["AccessDenied", "done"]


NAMES = """
def run(input_dict):
    name, said = input_dict["name"], []
    for use in (
        lambda: data_store.lock(name).acquire(),
        lambda: data_store.semaphore(name, 1).acquire(),
        lambda: data_store.rate_limit(name, 1, 100).acquire(),
        lambda: data_store.get_or_set(name, lambda: 1, tags=[name]),
        lambda: data_store.invalidate_tag(name),
        lambda: data_store.watch(consumer=name).next_change(timeout=0),
    ):
        try:
            use()
            said.append("done")
        except Exception as error:
            said.append(str(error) if type(error).__name__ == "AccessDenied" else type(error).__name__)
    return {"said": said}
"""


def kinds_of_keys(store: DataStore, user: str, name: str) -> set[bytes]:
    """Return the kinds of the Redis keys that end with a name."""
    prefix = UserKeys.of(user).prefix
    with redis.Redis.from_url(store.url) as raw:
        return {
            key.removeprefix(prefix).rsplit(b":", 1)[0] for key in raw.scan_iter(prefix + b"*:" + name.encode(), 1000)
        }


@pytest.mark.parametrize(
    ("permissions", "owner"),
    [
        (None, b""),
        (Permissions(namespaces=["default"]), b"own:my%20agent:"),
        (Permissions(namespaces=["*"], locks=["*"], limits=["x*"], tags=["{name}"], consumers=["x"]), b""),
    ],
)
def test_names_are_shared_or_the_agents_own(
    run: Any, store: DataStore, user: str, permissions: Permissions | None, owner: bytes
) -> None:
    said = run(NAMES, {"name": "x"}, permissions=permissions, agent="my agent").check()["said"]
    assert said == ["done"] * 6
    assert kinds_of_keys(store, user, "x") == {owner + b"rate", owner + b"consumer"}


def test_names_that_are_not_granted_are_refused(run: Any, store: DataStore, user: str) -> None:
    permissions = Permissions(locks=["a", "b*"], limits=[], tags=["{tag}*"], consumers=["c"])
    said = run(NAMES, {"name": "x", "tag": "*"}, permissions=permissions).check()["said"]
    allowed = ["locks are 'a', 'b*'", "locks are 'a', 'b*'", "limits are nothing", "tags are '**'", "tags are '**'"]
    assert said == [
        f"Using the name 'x' is not allowed here: allowed {one}." for one in (*allowed, "consumers are 'c'")
    ]
    assert kinds_of_keys(store, user, "x") == set()
    assert run(NAMES, {"name": "bx", "tag": "bx"}, permissions=permissions).check()["said"][:2] == ["done"] * 2
    run("def run(): data_store.rate_limit('x', 1, 100).acquire(); return {}", permissions=Permissions(locks=[])).check()
    assert kinds_of_keys(store, user, "x") == {b"rate"}


def test_a_right_to_a_name_needs_no_right_to_write(run: Any, store: DataStore, user: str) -> None:
    for permissions, expected in (
        (Permissions(read=["*"]), ["Writing to"] * 5 + ["done"]),
        (Permissions(read=["*"], locks=["x"], limits=["x"]), ["done"] * 3 + ["Writing to"] * 2 + ["done"]),
    ):
        said = run(NAMES, {"name": "x"}, permissions=permissions).check()["said"]
        assert [one[:10] for one in said] == expected
    assert kinds_of_keys(store, user, "x") == {b"own:agent:consumer", b"rate"}


def test_what_a_killed_agent_held_of_its_own_is_released(run: Any, store: DataStore, user: str) -> None:
    source = """
        def run():
            for hold in (data_store.lock("x"), data_store.semaphore("x", 1)):
                hold.acquire()
            while True:
                pass
    """
    result = run(source, permissions=Permissions(write=["scratch"]), limits=sandbox.Limits(timeout_s=0.5))
    assert isinstance(result.error, sandbox.TimeLimitExceeded)
    assert kinds_of_keys(store, user, "x") == set()


def test_operations(run: Any, filled: DataStore) -> None:
    source = """
        from redis_store.errors import AccessDenied
        def run():
            said = []
            for call in (lambda: data_store.get("k"), lambda: list(data_store.iter_keys()), lambda: "k" in data_store,
                         lambda: data_store.set("k", 1), lambda: data_store.list_namespaces(), lambda: len(data_store)):
                try:
                    call()
                    said.append("done")
                except AccessDenied as error:
                    said.append(str(error))
            return {"said": said}
    """
    result = run(source, permissions=Permissions(operations=["get", "iter_keys", "contains"]))
    said = result.check()["said"]
    assert said[:3] == ["done"] * 3
    assert said[3] == "The operation 'set' is not allowed here; allowed operations: 'contains', 'get', 'iter_keys'."
    assert all("is not allowed" in one for one in said[3:])
    assert [one.error for one in result.operations if one.operation == "count"] == ["AccessDenied"]


def test_quota(run: Any, store: DataStore) -> None:
    source = """
        from redis_store.errors import LimitExceeded
        def run():
            files, said = data_store.use_namespace("files"), []
            try:
                for n in range(100):
                    files.set(f"k{n}", "x" * 1000)
            except LimitExceeded as error:
                said.append([error.limit, error.limit_bytes, n])
            try:
                files.set_many({f"m{n}": "x" * 1000 for n in range(100)})
            except LimitExceeded as error:
                said.append(error.limit)
            files.clear()
            files.set("again", "x" * 1000)
            return {"said": said}
    """
    permissions = Permissions(namespaces=["files"], quota_bytes=20_000)
    said = run(source, permissions=permissions).check()["said"]
    assert said[0][:2] == ["quota_bytes", 20_000]
    assert 5 < said[0][2] < 20
    assert said[1] == "quota_bytes"
    assert store.use_namespace("files").list_keys() == ["again"]


def test_quota_counts_existing_data_of_writable_namespaces(run: Any, store: DataStore) -> None:
    store.use_namespace("elsewhere").set("k", "x" * 100_000)
    permissions = Permissions(read=["*"], write=["files:*"], quota_bytes=20_000)
    source = "def run(): data_store.use_namespace('files:new').set('k', 'x' * 1000); return {}"
    run(source, permissions=permissions).check()
    store.use_namespace("files:old").set("k", "x" * 100_000)
    result = run(source, permissions=permissions)
    assert isinstance(result.error, sandbox.AgentRaised)
    assert "exceed the quota of 20,000 bytes, of which 0 are left" in result.error.message


REWRITES = """
    from redis_store.errors import LimitExceeded

    def may(call, *arguments, **options):
        try:
            call(*arguments, **options)
        except LimitExceeded as error:
            return error.limit
        return True

    def run():
        files = data_store.use_namespace("files")
        files.set("count", 1)
        while may(files.set, f"k{len(files)}", "x" * 1000) is True:
            pass
        said = {
            "new": may(files.set, "new", "x" * 1000),
            "longer": may(files.set, "k1", "x" * 20_000),
            "same": may(files.set, "k1", "y" * 1000),
            "batch": may(files.set_many, {"k1": "z" * 900, "k2": "z" * 1000}),
            "update": may(files.update, "k3", str.upper),
            "increment": may(files.increment, "count"),
            "lock": may(data_store.lock("l" * 1000).__enter__),
            "watch": may(files.watch),
            "unreadable": may(data_store.use_namespace("unread").set, "k", "y" * 1000),
        }
        with data_store.transaction() as t:
            t.use_namespace("files").set("k1", "w" * 1000)
        return said
"""


def test_a_rewrite_in_place_is_made_at_the_quota(run: Any, store: DataStore) -> None:
    store.use_namespace("unread").set("k", "x" * 1000)
    permissions = Permissions(namespaces=["files"], write=["unread"], quota_bytes=20_000)
    refused = dict.fromkeys(["new", "longer", "lock", "watch", "unreadable"], "quota_bytes")
    made = dict.fromkeys(["same", "batch", "update", "increment"], True)
    assert run(REWRITES, permissions=permissions).check() == refused | made
    assert store.use_namespace("files").get("k1") == "w" * 1000
    with store.use_namespace("files").watch():
        source = "def run(): data_store.use_namespace('files').set('k1', 'v' * 1000); return {}"
        assert isinstance(run(source, permissions=permissions).error, sandbox.AgentRaised), "its change log would grow"


MANY_NAMESPACES = """
    def run():
        for turn in range(20):
            with data_store.transaction() as t:
                for number in range(40):
                    t.use_namespace(f"files{turn}-{number}-" + "n" * 900).set("k", 1)
"""

SMALL_VALUES = """
    def run():
        for turn in range(20):
            data_store.use_namespace("files").set_many({f"{turn}-{number}": 1 for number in range(100)})
"""


@pytest.mark.parametrize("source", [MANY_NAMESPACES, SMALL_VALUES], ids=["namespaces", "small values"])
def test_quota_is_near_what_the_server_stores(run: Any, store: DataStore, source: str) -> None:
    quota = 190_000
    permissions = Permissions(namespaces=["files*"], quota_bytes=quota)
    for turn in range(2):  # the second run finds what the first one has written
        result = run(source.replace("files", f"files{turn}"), permissions=permissions)
        assert isinstance(result.error, sandbox.AgentRaised)
        assert "exceed the quota" in result.error.message
    assert quota * 0.5 < stored_bytes(store, lambda name: name.startswith("files"), 10 * quota) < quota


def test_nested_agents_have_the_same_permissions(run: Any, filled: DataStore) -> None:
    result = run(
        "async def run(input_dict): return await agents.call('child', {'repo': 'b'})",
        {"repo": "a"},
        permissions=Permissions(write=["files:{repo}"]),
        agents={
            "child": """
def run(input_dict):
    data_store.use_namespace("files:a").set("from", "child")
    data_store.use_namespace("files:b").set("from", "child")
"""
        },
    )
    assert "Writing to namespace 'files:b' is not allowed here" in str(result.error)
    assert filled.use_namespace("files:a").get("from") == "child"


def test_hints_show_only_readable_data(run: Any, filled: DataStore) -> None:
    filled.use_namespace("secrets-2").set("k", 1)
    result = run(
        "def run(): data_store.use_namespace('secrets').get('k'); return {}",
        permissions=Permissions(read=["shared", "secrets"]),
    )
    assert "'shared'" in str(result.hints[0])
    assert "secrets-2" not in str(result.hints[0])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"read": "shared"}, "Permissions.read must be a list of namespace patterns, not str"),
        ({"write": 5}, "Permissions.write must be a list"),
        ({"locks": "gpu"}, "Permissions.locks must be a list of name patterns, not str: put a single one in a list."),
        ({"consumers": [""]}, "Permissions.consumers: The name pattern must not be empty"),
        ({"namespaces": [""]}, "Permissions.namespaces: The namespace pattern must not be empty"),
        ({"read": [5]}, "Permissions.read: The namespace pattern must be a str"),
        ({"operations": "get"}, "Permissions.operations must be a list of names"),
        ({"operations": ["execute"]}, "'execute', which is not an operation; give any of: append"),
        ({"quota_bytes": 0}, "Permissions.quota_bytes=0 cannot be used"),
        ({"quota_bytes": 1.5}, "Permissions.quota_bytes must be an int or None, not float"),
        ({"quota_bytes": True}, "Permissions.quota_bytes must be an int or None, not bool"),
    ],
)
def test_invalid_permissions(given: Any, expected: str) -> None:
    with pytest.raises(sandbox.InvalidInput) as caught:
        Permissions(**given)
    assert expected in str(caught.value)


def test_unknown_permission_or_wrong_type(run: Any) -> None:
    with pytest.raises(TypeError, match="reed"):
        Permissions(reed=["shared"])  # type: ignore[call-arg]
    with pytest.raises(sandbox.InvalidType, match=r"permissions must be a sandbox.Permissions, not dict"):
        run("def run(): return {}", permissions={"read": ["shared"]})


def test_operations_are_named_after_store_methods() -> None:
    assert {"get", "set", "iter_keys", "iter_items", "contains", "count"} <= KNOWN_OPERATIONS
    assert not any(name.startswith("scan") for name in KNOWN_OPERATIONS)


def test_access_denied_is_a_permission_error(filled: DataStore) -> None:
    with pytest.raises(PermissionError):
        filled.restricted(read=["shared"]).get("k")
    assert issubclass(AccessDenied, ValueError)


@pytest.mark.parametrize("value", [10**5000, -(10**5000), 10**400], ids=["huge", "negative", "400 digits"])
def test_huge_ints_are_refused_by_every_option(value: int) -> None:
    options: list[Callable[[], object]] = [
        lambda: Permissions(quota_bytes=value),
        lambda: sandbox.Sandbox(concurrency=value),
        *(lambda name=field.name: sandbox.Limits(**{name: value}) for field in fields(sandbox.Limits)),  # type: ignore[misc]
        *(
            lambda name=name: sandbox.on_change("def run(): ...", user="u", agent="a", **{name: value})  # type: ignore[misc]
            for name in ("batch", "concurrency", "retries", "first_wait", "longest_wait")
        ),
    ]
    for option in options:
        with pytest.raises(sandbox.errors.InvalidInput, match="cannot be used: give"):
            option()


def test_a_limit_of_many_digits_on_the_command_line() -> None:
    with pytest.raises(sandbox.errors.InvalidInput, match="5,000 digits, which is out of range"):
        read_limits(["operations=" + "9" * 5000], 1.0)
