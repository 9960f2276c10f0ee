"""Users do not see one another's data, whatever their ids look like."""

from __future__ import annotations

import pytest
import redis

from redis_store import InvalidInput, InvalidName, InvalidType, LimitExceeded
from redis_store.namespace.keys import UserKeys
from tests.contract.conftest import delete_user
from tests.support.sides import SIDES_OF_THE_HOST, OpenSide, Side

IDS = [
    "a", "A", "aa", "a:", "a:b", "a:ns", "a:ns:default", ":", "::", "*", "a*", "?", "[a]", "{a}", "{", "}", "a}", "%", "%3A",
    "a%3Ab", "%2A", " ", "a b", "a ", "\n", "\x00", "@", "é", "e\u0301", "🦊", "-", "_", ".", "..", "namespaces", "\\", "x" * 256,
]  # fmt: skip

pytestmark = pytest.mark.parametrize("side", SIDES_OF_THE_HOST, indirect=True)


@pytest.fixture
def stores(open_side: OpenSide, raw: redis.Redis) -> dict[str, Side]:
    """An empty store of each user."""
    for user in IDS:
        delete_user(raw, UserKeys.of(user).prefix.decode().removeprefix("user:").removesuffix(":"))
    return {user: open_side(user, namespace="default") for user in IDS}


def test_no_user_sees_another(stores: dict[str, Side], raw: redis.Redis) -> None:
    for number, store in enumerate(stores.values()):
        assert store.list_namespaces() == []
        store.set("key", number)
        store.use_namespace(f"own:{number}").set_many({"a": number, "b": -number}, metadata={"of": number})
    for number, (user, store) in enumerate(stores.items()):
        assert store.user == user
        assert store.get_all() == {"key": number}
        assert store.list_namespaces() == ["default", f"own:{number}"]
        assert store.use_namespace(f"own:{number}").info("a").metadata == {"of": number}
        assert store.use_namespace(f"own:{number + 1}").list_keys() == []
    for store in stores.values():
        assert store.clear() == 1
        store.use_namespace("own:3").clear()
    assert [user for user, store in stores.items() if store.list_namespaces() == []] == [IDS[3]]


def test_namespaces_cannot_reach_into_another_user(stores: dict[str, Side]) -> None:
    stores["a"].set("secret", 1)
    for name in ("../a", "a:ns:default", "default", ":a:ns:default", "ns:default"):
        for user in ("a:", "a:ns", "*", "%", "aa"):
            assert stores[user].use_namespace(name).get_all() == {}
            stores[user].use_namespace(name).set("mine", user)
            stores[user].use_namespace(name).clear()
    assert stores["a"].get_all() == {"secret": 1}


@pytest.mark.parametrize("user", ["", "\ud800", "x" * 257, "é" * 129, None, 1, b"a", True], ids=lambda u: repr(u)[:12])
def test_a_bad_user_id_is_refused(open_side: OpenSide, user: object) -> None:
    with pytest.raises(InvalidInput, match="user id") as caught:
        open_side(user)
    expected = InvalidName if user in ("", "\ud800") else LimitExceeded if isinstance(user, str) else InvalidType
    assert isinstance(caught.value, expected)


@pytest.mark.parametrize("agent", ["", "\ud800", "x" * 257, 1, b"a"], ids=lambda a: repr(a)[:12])
def test_a_bad_agent_name_is_refused(open_side: OpenSide, agent: object) -> None:
    with pytest.raises(InvalidInput, match="agent name"):
        open_side("a", agent=agent)
