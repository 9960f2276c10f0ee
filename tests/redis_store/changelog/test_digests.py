"""The sketch: it detects every change of keys besides the named ones."""

from __future__ import annotations

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from redis_store.changelog.digests import SKETCH_BYTES, Digests, digest_of

states = st.dictionaries(st.binary(min_size=1, max_size=4), st.binary(max_size=4), max_size=60)


def made_of(state: dict[bytes, bytes]) -> Digests:
    digests = Digests()
    for field, text in state.items():
        digests.put(field, digest_of(text))
    return digests


@given(states, states)
def test_digest_does_not_depend_on_write_order(old: dict[bytes, bytes], new: dict[bytes, bytes]) -> None:
    digests = made_of(old)
    for field in list(digests):
        if field not in new:
            assert digests.drop(field)
    for field, text in new.items():
        assert digests.put(field, digest_of(text)) == (old.get(field) != text)
    assert digests.sketch() == made_of(new).sketch()
    digests.clear()
    assert digests.sketch() == bytes(SKETCH_BYTES)


@given(states, states)
def test_touched_keys_explain_the_difference(old: dict[bytes, bytes], new: dict[bytes, bytes]) -> None:
    touched = {field for field in old.keys() | new.keys() if old.get(field) != new.get(field)}
    saved = made_of(old).sketch()
    # False if there are too many keys for the sketch.
    assert made_of(new).only_touched(saved, touched, {}) or len(touched) > 10
    known = {field: digest_of(old[field]) if field in old else None for field in touched}
    assert made_of(new).only_touched(saved, touched, known)


@given(states, st.binary(min_size=5, max_size=5), st.binary(max_size=4))
def test_unreported_change_is_always_detected(state: dict[bytes, bytes], field: bytes, text: bytes) -> None:
    saved = made_of(state).sketch()
    assert not made_of({**state, field: text}).only_touched(saved, list(state)[:5], {})
    if state:
        some = next(iter(state))
        changed = made_of({**state, some: state[some] + b"x"})
        assert not changed.only_touched(saved, [f for f in state if f != some][:5], {})


def test_sketch_capacity() -> None:
    old = {b"%d" % i: b"old" for i in range(5000)}
    saved = made_of(old).sketch()
    new = {**old, **{b"%d" % i: b"new" for i in range(100)}}
    assert made_of(new).only_touched(saved, [b"%d" % i for i in range(100)], {})
    new = {**old, **{b"%d" % i: b"new" for i in range(1000)}}
    touched = [b"%d" % i for i in range(1000)]
    assert not made_of(new).only_touched(saved, touched, {})
    assert made_of(new).only_touched(saved, touched, {field: digest_of(b"old") for field in touched[50:]})


def test_key_in_the_same_cells_as_a_touched_one_is_detected() -> None:
    """Only the checksum tells them apart: without it, the sum of both would pass for the old digest of the touched key."""
    places = {}
    for number in range(1_000_000):
        field = b"%d" % number
        first = places.setdefault(crc32(field) & 0x3FFFF, field)
        if first != field:
            break
    saved = made_of({first: b"1", field: b"1"}).sketch()
    assert made_of({first: b"2", field: b"1"}).only_touched(saved, [first], {})
    assert not made_of({first: b"2", field: b"2"}).only_touched(saved, [first], {})
