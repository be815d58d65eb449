"""Plain sealing adds the header of board-api.md section 13 and insists on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.store.sealing import PlainSealer, Unsealable


@given(st.binary())
def test_what_is_sealed_opens(content: bytes) -> None:
    sealed = PlainSealer().seal(content)
    assert sealed == b"\x02\x00" + content
    assert PlainSealer().open(sealed) == content


@given(st.binary().filter(lambda content: content[:2] != b"\x02\x00"))
def test_anything_else_is_refused_without_telling_it(content: bytes) -> None:
    with pytest.raises(Unsealable) as raised:
        PlainSealer().open(content)
    assert str(raised.value) == "the definition does not begin with the plaintext header 02 00"
