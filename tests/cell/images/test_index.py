from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.cell.images.index import ImageRecord, IndexBroken, Origin, decode_index, encode_index

records = st.builds(
    ImageRecord,
    name=st.text(max_size=20),
    digest=st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format),
    manifest_bytes=st.integers(0),
    stored_bytes=st.integers(0),
    unpacked_bytes=st.integers(0),
    added_at_ns=st.integers(0),
    origin=st.sampled_from(Origin),
    private=st.booleans(),
)


@given(st.lists(records, unique_by=lambda record: (record.name, record.private)))
def test_records_survive_the_index(kept: list[ImageRecord]) -> None:
    document = json.dumps({"manifests": encode_index(kept)}).encode()
    assert decode_index(document) == {(record.name, record.private): record for record in kept}
    assert json.dumps({"manifests": encode_index(reversed(kept))}).encode() == document


@given(st.binary(max_size=40) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_anything_else_is_broken(document: bytes) -> None:
    with pytest.raises(IndexBroken):
        decode_index(document)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"digest": "sha256:x", "size": 1},
        {"digest": "sha256:x", "size": 1, "annotations": {"org.opencontainers.image.ref.name": "x"}},
        None,
        "text",
    ],
)
def test_an_entry_of_another_tool_is_broken(entry: object) -> None:
    with pytest.raises(IndexBroken):
        decode_index(json.dumps({"manifests": [entry]}).encode())
