"""Sets of keys by owner are sets, however few keys there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dmevpn.nhrp.keysets import KeySets

steps = st.lists(
    st.tuples(st.booleans(), st.integers(0, 2), st.sampled_from([b"a", b"b", b"c"])), max_size=30
)


@given(steps)
def test_like_sets(steps: list[tuple[bool, int, bytes]]) -> None:
    """What was added and not removed is there, once; an owner without keys is not."""
    found, wanted = KeySets[int](), dict[int, set[bytes]]()
    for is_added, owner, key in steps:
        if is_added:
            found.add(owner, key)
            wanted.setdefault(owner, set()).add(key)
        elif wanted.get(owner):
            found.remove(owner, key)
            wanted[owner].discard(key)
        for each in range(3):
            assert sorted(found.of(each)) == sorted(wanted.get(each, ()))
            assert (each in found) == bool(wanted.get(each))
    found.clear()
    assert not any(found.of(each) for each in range(3))
