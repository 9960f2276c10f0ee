"""The sketch: it detects every change of keys besides the named ones, and never returns a wrong digest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from redis_store.changelog.digests import CELLS, SKETCH_BYTES, Digests, Sketch, digest_of

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
    assert digests.sketch.cells == made_of(new).sketch.cells
    digests.clear()
    assert digests.sketch.cells == [0] * CELLS


@given(states)
def test_a_sketch_survives_being_saved(state: dict[bytes, bytes]) -> None:
    raw = made_of(state).sketch.to_bytes()
    assert len(raw) == SKETCH_BYTES
    assert Sketch.from_bytes(raw).to_bytes() == raw


@given(states, states)
def test_touched_keys_explain_the_difference_and_their_old_digests_are_read_off(
    old: dict[bytes, bytes], new: dict[bytes, bytes]
) -> None:
    touched = {field for field in old.keys() | new.keys() if old.get(field) != new.get(field)}
    before = made_of(new).before(made_of(old).sketch.to_bytes(), touched, {})
    if before is not None:  # None if there are too many keys for the sketch
        assert before == {field: digest_of(old[field]) if field in old else None for field in touched}
    else:
        assert len(touched) > 10


@given(states, st.binary(min_size=5, max_size=5), st.binary(max_size=4))
def test_unreported_change_is_always_detected(state: dict[bytes, bytes], field: bytes, text: bytes) -> None:
    saved = made_of(state).sketch.to_bytes()
    assert made_of({**state, field: text}).before(saved, list(state)[:5], {}) is None
    if state:
        some = next(iter(state))
        assert (
            made_of({**state, some: state[some] + b"x"}).before(saved, [f for f in state if f != some][:5], {}) is None
        )


def test_sketch_capacity() -> None:
    old = {b"%d" % i: b"old" for i in range(5000)}
    saved = made_of(old).sketch.to_bytes()
    new = {**old, **{b"%d" % i: b"new" for i in range(100)}}
    assert made_of(new).before(saved, [b"%d" % i for i in range(100)], {}) is not None
    new = {**old, **{b"%d" % i: b"new" for i in range(1000)}}
    touched = [b"%d" % i for i in range(1000)]
    assert made_of(new).before(saved, touched, {}) is None
    assert made_of(new).before(saved, touched, {field: digest_of(b"old") for field in touched[50:]}) is not None
