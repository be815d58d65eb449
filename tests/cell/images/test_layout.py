from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.cell.images.layout import (
    LayerWriter,
    LayoutBroken,
    Stopped,
    blob_path,
    check_manifests,
    create_layout,
    read_layout,
    write_image,
)
from bulletin.core import limits


def test_a_layout_is_read(kit, tmp_path) -> None:
    layout = kit.image(tmp_path, b"one", b"two", env=("PATH=/bin", "A==", "=x", "odd", "A="))
    manifest = read_layout(layout)
    assert manifest.digest == kit.digest(layout)
    assert manifest.env == (("PATH", "/bin"), ("A", "="), ("A", ""))
    assert len(manifest.layers) == 2
    assert manifest.size_bytes == blob_path(layout, manifest.digest).stat().st_size
    assert len(set(manifest.blobs)) == 4
    assert all(blob_path(layout, digest).exists() for digest in manifest.blobs)


def test_what_is_written_is_read_and_always_the_same(tmp_path) -> None:
    manifests = []
    for name in ("one", "two"):
        layout = tmp_path / name
        create_layout(layout)
        with LayerWriter(layout, 1000, threading.Event()) as writer:
            writer.write(b"some ")
            writer.write(b"bytes")
            assert writer.tell() == 10
            layer = writer.finish()
        manifests.append(write_image(layout, layer, ("A=b",)))
    assert manifests[0] == manifests[1]
    assert manifests[0].env == (("A", "b"),)
    assert layer.diff_id == "sha256:" + hashlib.sha256(b"some bytes").hexdigest()
    assert layer.descriptor.size_bytes == blob_path(layout, layer.descriptor.digest).stat().st_size
    assert {path.name for path in layout.iterdir()} == {"blobs", "index.json", "oci-layout"}


def test_a_layer_is_bounded_and_can_be_stopped(tmp_path) -> None:
    create_layout(tmp_path)
    stop = threading.Event()
    with LayerWriter(tmp_path, 10, stop) as writer:
        writer.write(b"x" * 10)
        with pytest.raises(LayoutBroken, match="larger than 10 bytes"):
            writer.write(b"x")
        stop.set()
        with pytest.raises(Stopped):
            writer.write(b"")


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "exactly one image"),
        (b'{"manifests": []}', "exactly one image"),
        (b'{"manifests": [1, 2]}', "exactly one image"),
        (b'{"manifests": [1]}', "without a proper digest"),
        (b'{"manifests": [{"digest": "sha256:../../x", "size": 1}]}', "without a proper digest"),
        (b'{"manifests": [{"digest": "%s", "size": true}]}' % DIGEST.encode(), "without a proper digest"),
        (b'{"manifests": [{"digest": "%s", "size": -1}]}' % DIGEST.encode(), "without a proper digest"),
        (b'{"manifests": [{"digest": "%s", "size": 1}]}' % DIGEST.encode(), "lacks a part"),
        (b" " * (limits.IMAGE_DOCUMENT_BYTES_MAX + 1), "too long"),
    ],
)
def test_a_broken_index_is_refused(tmp_path, index, text) -> None:
    create_layout(tmp_path)
    (tmp_path / "index.json").write_bytes(index)
    with pytest.raises(LayoutBroken, match=text):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"os": "windows"}, "not for Linux but for 'windows'"),
        ({"config": []}, None),
        ({"config": 5}, "configuration is broken"),
        ({"config": {"Env": "A=b"}}, "no list of texts"),
        ({"config": {"Env": [1]}}, "no list of texts"),
        ({"config": {"Env": ["A=\0"]}}, "holds a NUL"),
        ({"config": {"Env": ["A=" + "x" * limits.PROCESS_ARGUMENT_BYTES_MAX]}}, "too long"),
        ({"config": None}, None),
        ({"os": ""}, None),
        ({}, None),
    ],
)
def test_configurations_are_checked(kit, tmp_path, config: dict[str, Any], text: str | None) -> None:
    kit.manifest(tmp_path, json.dumps(config).encode(), [])
    if text is None:
        assert read_layout(tmp_path).env == ()
    else:
        with pytest.raises(LayoutBroken, match=text):
            read_layout(tmp_path)


def test_layers_are_bounded(kit, tmp_path) -> None:
    kit.manifest(tmp_path, b"{}", [{"digest": DIGEST, "size": 1}] * (limits.IMAGE_LAYERS_MAX + 1))
    with pytest.raises(LayoutBroken, match="layers"):
        read_layout(tmp_path)


@pytest.mark.parametrize("damaged", ["manifest", "config"])
def test_documents_have_the_digest_they_are_named_by(kit, tmp_path, damaged) -> None:
    layout = kit.image(tmp_path, b"layer")
    manifest = read_layout(layout)
    path = blob_path(layout, manifest.digest if damaged == "manifest" else manifest.config.digest)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(LayoutBroken, match="does not have the digest"):
        read_layout(layout)


def test_manifests_of_a_foreign_layout_are_checked_below_its_indexes(kit, tmp_path) -> None:
    layout = kit.image(tmp_path, b"layer")
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]
    absent = {"digest": DIGEST, "size": 1}
    inner = kit.blob(layout, json.dumps({"manifests": [manifest, absent]}).encode())
    (layout / "index.json").write_text(json.dumps({"manifests": [inner]}))
    check_manifests(layout)
    path = blob_path(layout, manifest["digest"])
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(LayoutBroken, match="does not have the digest"):
        check_manifests(layout)


def test_a_layout_of_endless_indexes_is_refused(kit, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "IMAGES_MAX", 10)
    document: dict[str, object] = {"manifests": []}
    for _ in range(11):
        document = {"manifests": [kit.blob(tmp_path, json.dumps(document).encode())]}
    (tmp_path / "index.json").write_text(json.dumps(document))
    with pytest.raises(LayoutBroken, match="more than 10 images"):
        check_manifests(tmp_path)


@given(st.text(max_size=100) | st.from_regex(r"sha(256|384|512):[a-f0-9./]{0,130}", fullmatch=True))
def test_no_digest_leads_out_of_a_layout(digest: str) -> None:
    layout = Path("/layout")
    try:
        path = blob_path(layout, digest)
    except LayoutBroken:
        return
    assert path.parent.parent == layout / "blobs"
    assert path.name.isalnum()
