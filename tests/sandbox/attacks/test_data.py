"""Attacks on other users' data, and forged messages. The wall is the host's broker, the same in every tier."""

from __future__ import annotations

from typing import Any

import pytest

import sandbox

from .corpus import NO_CONTROL_NEEDED, Attack

OTHERS = [
    Attack(
        "names with other users' prefixes",
        """
        other = world["other"]
        for name in (other, f"../{other}", f"{other}:ns:default", f"user:{other}:ns:default", f"default}}user:{other}", "*",
                     f"\\0user:{other}", f"default\\r\\nHGET user:{other}:ns:default secret", f"%75ser:{other}", "default\\0"):
            for key in ("secret", f"user:{other}:ns:default", "*"):
                store = data_store.use_namespace(name)
                won = won or store.get(key) or store.get_many([key]) or store.get_all(key) or store.info(key)
                won = won or store.list_keys(key)
            store.clear()
        won = won or [name for name in data_store.list_namespaces() if name != "default"]
        """,
        "a client of the server can; see test_network",
    ),
    Attack(
        "another user in the object",
        "object.__setattr__(data_store._operations, 'user', world['other']); won = data_store.get('secret')",
        NO_CONTROL_NEEDED,
    ),
    Attack(
        "another user in the start message's place",
        "channel(4).sendall(frame(b'\\x92\\xa5start' + b'\\xd9' + bytes([len(world['other'])]) + world['other'].encode()))\ntime.sleep(30)",
        NO_CONTROL_NEEDED,
        ends_with=(sandbox.ProtocolViolation,),
    ),
    Attack(
        "a user as a further argument",
        r"other = world['other'].encode(); channel(3).sendall(frame(b'\x95\x01\xa3get\xa7default\xa6secret\xd9' + bytes([len(other)]) + other)); time.sleep(30)",
        NO_CONTROL_NEEDED,
        ends_with=(sandbox.ProtocolViolation,),
    ),
    Attack(
        "a cursor that is a command",
        """
        for cursor in ("0\\r\\nFLUSHALL", "0 MATCH *", "18446744073709551616", "-1", "\\0"):
            try:
                won = won or data_store._operations.send("scan_page", cursor, None)[1:] not in ([], ["k"])
            except Exception as error:
                assert type(error).__module__ == "redis_store.errors", error
        """,
        NO_CONTROL_NEEDED,
    ),
    Attack(
        "a text that is no JSON, for the next reader",
        """
        for text in (b"{", b"NaN", b"\\xff", b"[" * 100_000, b"1e999", b'"\\\\ud800"', b"\\x01packed", b""):
            try:
                data_store._operations.send("set", "bad", text, None, None)
                won = True
            except Exception as error:
                assert type(error).__name__ in ("InvalidValue", "CorruptValue"), error
        """,
        NO_CONTROL_NEEDED,
    ),
    Attack(
        "a transaction in other users' namespaces",
        """
        other = world["other"]
        for name in (other, f"{other}:ns:default", f"user:{other}:ns:default", f"default}}user:{other}", f"\\0user:{other}"):
            for step in ((0, name, "secret", json.dumps(world["secret"]).encode(), None), (2, name, "secret", None, None)):
                try:
                    data_store._operations.send("commit_transaction", *step)
                    won = won or step[0] == 0
                except Exception as error:
                    assert type(error).__name__ in ("Conflict", "InvalidName"), error
            data_store._operations.send("commit_transaction", 1, name, "secret", b"1", None)
            won = won or data_store.use_namespace(name).clear() != 1
        """,
        NO_CONTROL_NEEDED,
    ),
    Attack(
        "a token that is a command, a pattern, or another's name",
        """
        data_store.lock("lock", ttl=1000).acquire()
        for token in ("", "*", "x" * 65, "two words", '","owner":"', "\\r\\nFLUSHALL\\r\\n", "\\0" * 8, world["other"] + "é"):
            for call in (
                ("acquire_lock", "lock", token, 30, 0), ("renew_lock", "lock", token, 30), ("release_lock", "lock", token),
                ("acquire_place", "lock", token, 1, 30, 0), ("claim_value", "k2", token, None, None, 30, 0),
                ("commit_value", "k2", token, b"1", None, None), ("fail_value", "k2", token, "", ""),
            ):
                try:
                    won = won or data_store._operations.send(*call)
                except Exception as error:
                    assert type(error).__name__ == "InvalidInput", error
        for token in ("guessed-token", "0" * 16):
            won = won or data_store._operations.send("renew_lock", "lock", token, 30)[0] or data_store._operations.send("release_lock", "lock", token)[0]
            won = won or data_store._operations.send("commit_value", "k2", token, b"1", None, None)[0]
        """,
        NO_CONTROL_NEEDED,
    ),
    Attack(
        "times and numbers without end",
        """
        token = "token-of-mine"
        for number in (float("inf"), float("nan"), -1, 0, 1e300, 2**63, 2**64 - 1):
            for call in (
                ("expire", "k", number), ("acquire_lock", "l", token, number, 0), ("acquire_place", "p", token, 1, number, 0),
                ("take_moment", "r", 1, number, 0), ("claim_value", "k2", token, None, None, number, 0),
                ("append", "k3", -1, number, b"1"), ("increment", "k4", b"1", number),
                *[("acquire_place", "p", token, number, 30, 0), ("take_moment", "r", number, 1, 0)] * (type(number) is int),
            ):
                try:
                    won = won or data_store._operations.send(*call)
                except Exception as error:
                    assert type(error).__name__ in ("InvalidInput", "InvalidType"), error
        """,
        NO_CONTROL_NEEDED,
    ),
    Attack(
        "a lock in a consumer's place",
        """
        for name in ("consumer:c:default", "consumer:c:", "consumer:", "consumer:%63:default"):
            try:
                won = won or data_store._operations.send("acquire_lock", name, "token-of-mine", 1000, 0)
            except Exception as error:
                assert type(error).__name__ == "InvalidName", error
        """,
        NO_CONTROL_NEEDED,
    ),
    Attack(
        "more locks than anybody would clear away",
        """
        try:
            for number in range(5000):
                data_store.lock(f"lock-{number}", ttl=1000).acquire()
            won = True
        except Exception as error:
            assert type(error).__name__ == "LimitExceeded" and error.limit == "held", error
        """,
        NO_CONTROL_NEEDED,
    ),
]

_ATTRIBUTES = (
    "__class__",
    "__init__",
    "_store",
    "close",
    "as_json_text",
    "use_namespace",
    "_run",
    "eval",
    "execute_command",
    "",
)
_ENDS = (sandbox.ProtocolViolation,)


def _raw(channel: int, body: bytes) -> str:
    return f"channel({channel}).sendall(frame({body!r}))\ntime.sleep(30)"


def _text(text: str) -> bytes:
    return bytes([0xD9, len(text.encode())]) + text.encode()


FORGED = [
    *(
        Attack(
            f"the operation {name!r}",
            _raw(3, b"\x94\x01" + _text(name) + _text("default") + _text("k")),
            NO_CONTROL_NEEDED,
            ends_with=_ENDS,
        )
        for name in _ATTRIBUTES
    ),
    *(
        Attack(
            f"the tool {name!r}",
            _raw(4, b"\x95" + _text("call") + b"\x01" + _text(name) + b"\xc4\x02[]\xc4\x02{}"),
            NO_CONTROL_NEEDED,
            ends_with=_ENDS,
        )
        for name in ("__class__", "add.__globals__", "add\0", "ADD", "os.system", "")
    ),
    *(
        Attack(f"the message {name}", _raw(4, body), NO_CONTROL_NEEDED, ends_with=_ENDS)
        for name, body in {
            "answer, which is the host's": b"\x93" + _text("answer") + b"\x01\xc4\x011",
            "failed, which is the host's": b"\x93" + _text("failed") + b"\x01" + _text("x"),
            "result, as an array": b"\x92" + _text("result") + b"\x90",
            "result, as a map": b"\x92" + _text("result") + b"\x80",
            "result, as text": b"\x92" + _text("result") + _text("{}"),
            "result, twice in one": b"\x93" + _text("result") + b"\xc4\x02{}\xc4\x02{}",
            "result, deep": b"\x92"
            + _text("result")
            + b"\xc5"
            + (600).to_bytes(2, "big")
            + b'{"a":' * 100
            + b"1" * 100,
            "raised, with bytes": b"\x94" + _text("raised") + b"\xc4\x01a" * 3,
            "exited, with a text": b"\x93" + _text("exited") + _text("1") + _text(""),
            "an extension type": b"\xc7\x01\x05x",
            "a timestamp": b"\xd7\xff" + bytes(8),
            "nothing": b"\x90",
            "no text as its kind": b"\x91\x01",
        }.items()
    ),
    *(
        Attack(
            f"the step {arguments}",
            f"data_store._operations.channel.call(*{arguments!r})\ntime.sleep(30)",
            NO_CONTROL_NEEDED,
            ends_with=_ENDS,
        )
        for arguments in (
            ("commit_transaction", "default", 7, "default", "k", b"1", None),
            ("commit_transaction", "default", -1, "default", "k", b"1", None),
            ("commit_transaction", "default", 1, "default", "k", None, None),
            ("commit_transaction", "default", 1, "default", "k"),
            ("invalidate_tag", "default", "tag", 2),
            ("invalidate_tag", "default", "tag", -1, b"*"),
            ("claim_value", "default", "k", "token-of-mine", None, None, 30, 0, 5),
            ("acquire_lock", "default", "l", "token-of-mine", 30, True),
            ("acquire_lock", "default", "l", b"token-of-mine", 30, 1),
            ("update", "default", "k", "lambda value: value"),
            ("steps_of", "default"),
            ("__init__", "default"),
        )
    ),
    Attack(
        "a call under an id in use",
        "c = channel(4)\nfor _ in range(2): c.sendall(frame(b'\\x95\\xa4call\\x07\\xa4wait\\xc4\\x02[]\\xc4\\x02{}'))\ntime.sleep(30)",
        NO_CONTROL_NEEDED,
        ends_with=_ENDS,
    ),
    Attack(
        "calls with ids that are no ids",
        "c = channel(4)\nfor n in (b'\\xcf' + b'\\xff' * 8, b'\\xd3\\x80' + bytes(7), b'\\x00'):\n    c.sendall(frame(b'\\x95\\xa4call' + n + b'\\xa3add\\xc4\\x051, 2]\\xc4\\x02{}'))\ntime.sleep(30)",
        NO_CONTROL_NEEDED,
        ends_with=_ENDS,
    ),
    Attack(
        "a result from a thread, and more after it",
        "c = channel(4); c.sendall(frame(b'\\x92\\xa6result\\xc4\\x0b{\"won\":false}'.replace(b'\\x0b', b'\\x0d')) * 3); c.sendall(b'\\xff' * 100); time.sleep(30)",
        NO_CONTROL_NEEDED,
    ),
]


@pytest.mark.parametrize("one", [*OTHERS, *FORGED], ids=lambda one: one.name)
def test_attack_fails(one: Attack, attack: Any, holds: Any, benign: Any) -> None:
    """Run only in the best tier: the path from agent to broker is the same in every tier."""
    holds(one, sandbox.isolation.available())


@pytest.mark.parametrize("one", OTHERS[:2], ids=lambda one: one.name)
def test_attack_fails_in_every_tier(one: Attack, tier: str, holds: Any) -> None:
    holds(one, tier)


def test_tool_gets_exactly_the_sent_arguments(tier: str, attack: Any, as_before: None) -> None:
    heard: list[Any] = []

    def hear(*args: Any, **kwargs: Any) -> int:
        heard.append((args, kwargs))
        return 1

    body = "tools['hear']({'__class__': 'x'}, self='me', args=[1]); won = tools['hear'](*range(1000)) == 1"
    assert attack(Attack("tool", body), tier, tools={"hear": hear}).check() == {"won": True}
    assert heard == [(({"__class__": "x"},), {"self": "me", "args": [1]}), (tuple(range(1000)), {})]
