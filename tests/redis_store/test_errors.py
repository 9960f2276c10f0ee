"""The tree of errors: one root, facts as attributes, unchanged by pickling; and the errors for a server's replies."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

import redis_store
from redis_store import errors
from redis_store.errors import DataStoreError
from redis_store.protocol import error_replies as replies
from redis_store.protocol.command import ReplyError

CLASSES = [member for member in vars(errors).values() if inspect.isclass(member) and issubclass(member, DataStoreError)]
BUILT_INS = {
    "InvalidInput": ValueError, "InvalidType": TypeError, "InvalidValue": TypeError, "StoredDataError": ValueError,
    "WrongKeyType": TypeError, "StoreUnavailable": ConnectionError, "StoreTimeout": TimeoutError,
    "PermissionDenied": PermissionError, "ServerRefused": RuntimeError, "Conflict": RuntimeError, "StoreClosed": RuntimeError,
    "WrongEventLoop": RuntimeError,
}  # fmt: skip


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted(kind.__name__ for kind in CLASSES if kind is not DataStoreError)
    assert sorted(errors.__all__) == sorted(kind.__name__ for kind in CLASSES)
    assert set(errors.__all__) <= set(redis_store.__all__)


@pytest.mark.parametrize("name", BUILT_INS)
def test_callers_may_catch_the_built_in(name: str) -> None:
    assert issubclass(getattr(errors, name), BUILT_INS[name])


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_is_whole_after_pickling(kind: type[DataStoreError]) -> None:
    error = kind("a sentence.", key="k", limit_bytes=7, outcome_unknown=True, first_bytes=b"\x00")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == "a sentence."
        assert (
            twin.facts == error.facts == {"key": "k", "limit_bytes": 7, "outcome_unknown": True, "first_bytes": b"\x00"}
        )
    assert kind.__doc__


REPLIES = {
    "NOSCRIPT No matching script.": replies.ScriptMissing,
    "WRONGTYPE Operation against": errors.WrongKeyType,
    "UNSUPPORTED hash field expiry": errors.UnsupportedByServer,
    "OOM command not allowed": errors.ServerFull,
    "READONLY You can't write against a read only replica.": errors.ServerReadOnly,
    "MISCONF Redis is configured to save RDB snapshots": errors.ServerReadOnly,
    "NOREPLICAS Not enough good replicas to write.": errors.ServerReadOnly,
    "WRONGPASS invalid username-password pair": errors.AuthenticationFailed,
    "NOAUTH Authentication required.": errors.AuthenticationFailed,
    "NOPERM this user has no permissions": errors.PermissionDenied,
    "EXECABORT Transaction discarded because of: NOPERM this user has no permissions": errors.PermissionDenied,
    "LOADING Redis is loading the dataset in memory": errors.ConnectionLost,
    "BUSY Redis is busy running a script.": errors.StoreUnavailable,
    "MASTERDOWN Link with MASTER is down": errors.StoreUnavailable,
    "CLUSTERDOWN The cluster is down": errors.ConnectionLost,
    "NOCOMMAND WATCH": errors.UnsupportedByServer,
    "ERR unknown command 'X'": errors.ServerRefused,
    "SOMETHING new": errors.ServerRefused,
    "": errors.ServerRefused,
    "ONEWORD": errors.ServerRefused,
}


@pytest.mark.parametrize("text", REPLIES)
def test_error_of_each_reply(text: str) -> None:
    error = replies.translate(ReplyError(text), ((b"HGET", b"user:alice:ns:default", b"key"),))
    assert type(error) is REPLIES[text]
    assert str(error).endswith((".", "moment"))
    assert pickle.loads(pickle.dumps(error)).facts == error.facts


def test_message_never_shows_the_value() -> None:
    secret = b'"the hunter2 value"'
    commands = ((b"EVALSHA", b"0" * 40, 4, b"a", b"b", b"c", b"d", b"key", secret),)
    for text in REPLIES:
        error = replies.translate(ReplyError(text), commands)
        assert "hunter2" not in str(error) + repr(error.facts)
