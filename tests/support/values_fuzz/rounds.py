"""Comparison of the codecs with `redis_store/values/rules.py`: in this process, and in the sandbox through a whole store."""

from __future__ import annotations

import inspect
import json
import math
import uuid
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import sandbox
from redis_store import connect
from redis_store.namespace.keys import UserKeys
from redis_store.near.entries import Entry, Space
from redis_store.values import rules
from redis_store.values.codec import VALUES, JsonText
from tests.support.servers import Server
from tests.support.values_fuzz import generator, outcomes
from tests.support.values_fuzz.generator import random_text, random_value
from tests.support.values_fuzz.outcomes import outcome_of_text, outcome_of_value, same_text

IN_A_RUN = 5_000
"""Values and texts that one agent stores and reads; a run has a bound on its processor time."""

_NAMESPACE, _KEY = "fuzz", "key"
_JSON_TEXT = JsonText()
_AGENT = f"""
from hashlib import sha256

def run(input_dict, tools):
    store = data_store.use_namespace({_NAMESPACE!r})
    digests = []
    for seed in input_dict["seeds"]:
        value = outcome_of_value(lambda value: store.set({_KEY!r}, value), lambda: store.get({_KEY!r}), random_value(seed))
        text = outcome_of_text(lambda: store.get(f"text-{{seed}}"))
        digests.append([digest(value), digest(text)])
    shown = [value, text] if len(digests) == 1 else None
    return {{"digests": digests, "shown": shown}}

def digest(outcome):
    return sha256(outcome.encode(errors="surrogatepass")).hexdigest()[:16]
"""


class Disagreement(AssertionError):
    """A codec that treats a value or a text otherwise than the rules do."""


def check_in_this_process(seed: int) -> str:
    """Check all codecs with the value and the text of a seed, and return what became of the value.

    Raises `Disagreement` at the first difference.
    """
    value = random_value(seed)
    texts: list[bytes] = []
    reference = outcome_of_value(lambda value: texts.append(rules.dump(value)), lambda: rules.load(texts[-1]), value)
    fast = outcome_of_value(lambda value: texts.append(VALUES.encode(value)), lambda: _decode(texts[-1]), value)
    _agree(seed, "encoding", fast, reference)
    if texts:
        _agree(seed, "reading it back", reference, f"value {json.loads(json.dumps(value))!r}")
        if not same_text(texts[1], texts[0]):
            raise Disagreement(f"seed {seed}: the texts differ:\n{texts[1]!r:.2000}\n{texts[0]!r:.2000}")
        for text in texts:
            _agree(seed, "decoding", f"value {_decode(text)!r}", reference)
            kept = Entry(b"data", Space(), _KEY, text, math.inf)
            kept.keeps_value = True
            for what in ("keeping", "copying"):
                _agree(seed, what, f"value {VALUES.decode_kept(kept, 'ns', _KEY)!r}", reference)
            _agree(seed, "checking the text", _JSON_TEXT.encode(text).hex(), text.hex())
    _check_text(seed, random_text(seed))
    return "stored" if texts else "refused"


def _check_text(seed: int, text: bytes) -> None:
    reference = outcome_of_text(lambda: rules.load(text))
    fast = outcome_of_text(lambda: VALUES.decode(text, "ns", "key"))
    found = outcome_of_text(lambda: VALUES.decode_found(["key"], [text], "ns")["key"])
    _agree(seed, "decoding alone or among others", found, fast)
    if reference.startswith("value ") or fast.startswith("value "):
        _agree(seed, "decoding a stored text", fast, reference)
    checked = outcome_of_value(_JSON_TEXT.encode, lambda: None, text)
    storable = outcome_of_text(lambda: rules.dump(rules.load(text)))
    _agree(seed, "checking a text", str(checked == "value None"), str(storable.startswith("value ")))


def _decode(text: bytes) -> Any:
    return VALUES.decode(text, "ns", "key")


def _agree(seed: int, what: str, one: str, other: str) -> None:
    if one != other:
        raise Disagreement(f"seed {seed}: {what}:\n{one:.2000}\n{other:.2000}")


def check_in_the_sandbox(server: Server, seeds: range) -> Counter[str]:
    """Check that agents store and read values, and read texts of other programs, as the host does; return what became of them.

    Raises `Disagreement` at the first difference.
    """
    became: Counter[str] = Counter()
    user = f"fuzz-{uuid.uuid4().hex}"
    with connect(server.url, user=user, namespace=_NAMESPACE) as store, server.client() as raw:
        data = UserKeys.of(user).namespace(_NAMESPACE).data
        for part in _parts(seeds):
            store.set(_KEY, None)
            raw.hset(data, mapping={f"text-{seed}": random_text(seed) for seed in part})
            result = _run(server, user, part)
            expected = [_expected(seed) for seed in part]
            for seed, wanted, got in zip(part, expected, result["digests"], strict=True):
                became["stored" if wanted[0].startswith("value ") else "refused"] += 1
                if got != [_digest(one) for one in wanted]:
                    shown = _run(server, user, range(seed, seed + 1))["shown"]
                    _agree(seed, "a value in the sandbox", shown[0], wanted[0])
                    _agree(seed, "a text in the sandbox", shown[1], wanted[1])
                    raise Disagreement(f"seed {seed}: in the sandbox it differs, but not alone")
            store.clear()
    return became


def _parts(seeds: range) -> Iterator[range]:
    for start in range(0, len(seeds), IN_A_RUN):
        yield seeds[start : start + IN_A_RUN]


def _run(server: Server, user: str, seeds: range) -> dict[str, Any]:
    source = "\n".join(
        ["from __future__ import annotations"]
        + [
            inspect.getsource(module).split("from __future__ import annotations\n", 1)[1]
            for module in (generator, outcomes)
        ]
        + [_AGENT]
    )
    limits = sandbox.Limits(timeout_s=1200, cpu_s=600, operations=10 * IN_A_RUN)
    result = sandbox.run(source, {"seeds": list(seeds)}, user=user, url=server.url, limits=limits)
    return result.check()  # type: ignore[no-any-return]


def _expected(seed: int) -> list[str]:
    texts: list[bytes] = []
    value = outcome_of_value(
        lambda value: texts.append(VALUES.encode(value)), lambda: _decode(texts[0]), random_value(seed)
    )
    return [value, outcome_of_text(lambda: VALUES.decode(random_text(seed), _NAMESPACE, f"text-{seed}"))]


def _digest(outcome: str) -> str:
    return sha256(outcome.encode(errors="surrogatepass")).hexdigest()[:16]
