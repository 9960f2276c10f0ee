"""Strategies for values that are stored. `values_fuzz` makes those that are refused as well."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.support.values_fuzz.generator import LONG

big_ints = st.one_of(
    st.integers(),
    st.integers(min_value=2**53, max_value=2**66),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**18, 10**19, 10**25]),
    st.sampled_from([1, -1]).map(lambda sign: sign * (LONG - 1)),
)
floats = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-0.0, 0.0, 1e308, 1.7976931348623157e308, 5e-324, 1e16, 1e22, 0.1, 123456789012345678.0]),
)
texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["null", "\x00", "\u2028", "\x7f", '"\\', "[[[[", "{{{{", "0" * 20, "é", "🦊", "a,null"]),
)
scalars = st.one_of(st.none(), st.booleans(), big_ints, floats, texts)

json_values = st.recursive(
    scalars,
    lambda children: st.one_of(st.lists(children, max_size=20), st.dictionaries(texts, children, max_size=20)),
    max_leaves=30,
)
"""Values that are read back exactly as written."""
