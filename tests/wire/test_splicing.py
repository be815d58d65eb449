from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bulletin.wire.proto import bbs_pb2
from bulletin.wire.splicing import delimited, varint


@given(st.integers(0, 2**63 - 1))
def test_varint_is_what_protobuf_writes(value):
    expected = bbs_pb2.LogRateLimit(bytes_per_second=value).SerializeToString()[1:]
    assert varint(value) == (expected or b"\x00")


def test_varint_grows_at_every_seventh_bit():
    assert [varint(v).hex() for v in (0, 127, 128, 16383, 16384)] == ["00", "7f", "8001", "ff7f", "808001"]


@given(st.text(max_size=300))
def test_delimited_is_a_string_field(text):
    assert delimited(b"\x0a", text.encode()) == (
        bbs_pb2.EventsByCellId(cell_id=text).SerializeToString() or b"\x0a\x00"
    )
