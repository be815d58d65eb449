"""OCI image layouts on disk: reading what a tool left there, and writing a layout of one layer ourselves.

Everything blocks and belongs on a worker thread. The documents of an image are hostile: they are bounded before they
are read, their digests are checked, and no digest becomes a path before its form was.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
import re
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from bulletin.core import limits

__all__ = [
    "INDEX",
    "MANIFEST_TYPE",
    "NAME_ANNOTATION",
    "Descriptor",
    "Layer",
    "LayerWriter",
    "LayoutBroken",
    "Manifest",
    "Stopped",
    "blob_path",
    "check_manifests",
    "create_layout",
    "read_document",
    "read_layout",
    "read_manifest",
    "sync_directory",
    "write_image",
    "write_index",
]

#: Name of the file that lists a layout's images.
INDEX: Final = "index.json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
NAME_ANNOTATION: Final = "org.opencontainers.image.ref.name"

_DIGEST = re.compile(r"(sha256):([a-f0-9]{64})|(sha384):([a-f0-9]{96})|(sha512):([a-f0-9]{128})")
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
#: Layers are unpacked once and then only kept to be unpacked again: speed before size.
_COMPRESSION_LEVEL: Final = 1


class LayoutBroken(Exception):
    """The layout or the image in it is not as the OCI image specification says; the text is shown to users."""


class Stopped(Exception):
    """Whoever wanted the layer does so no longer."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob as a document names it; the size is what the document claims."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image in a layout."""

    #: ``sha256:<hex>`` of the manifest document.
    digest: str
    #: Length of the manifest document.
    size_bytes: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    #: ``Env`` of the configuration, in order.
    env: tuple[tuple[str, str], ...]

    @property
    def blobs(self) -> tuple[str, ...]:
        """The digests of everything the image consists of."""
        return (self.digest, self.config.digest, *(layer.digest for layer in self.layers))


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that was written: its compressed blob, and the digest of what it is when uncompressed."""

    descriptor: Descriptor
    diff_id: str


def blob_path(layout: Path, digest: str) -> Path:
    """Where a blob lies.

    Raises:
        LayoutBroken: ``digest`` is none.
    """
    if not _DIGEST.fullmatch(digest):
        raise LayoutBroken("the image names a blob by something that is no digest")
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value


def read_document(path: Path) -> bytes:
    """Read a small regular file whole. A link to one is as good: some builders make layouts of links.

    Raises:
        LayoutBroken: it is missing, too long or no file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LayoutBroken(f"the image lacks a part: {error.strerror}") from error
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limits.IMAGE_DOCUMENT_BYTES_MAX:
            raise LayoutBroken("a document of the image is too long or no file")
        return file.read(limits.IMAGE_DOCUMENT_BYTES_MAX)


def read_layout(layout: Path) -> Manifest:
    """Read the one image of a layout.

    Raises:
        LayoutBroken: there is none, or it is damaged.
    """
    manifests = _object(read_document(layout / INDEX)).get("manifests")
    if not isinstance(manifests, list) or len(manifests) != 1:
        raise LayoutBroken("the layout does not hold exactly one image")
    return read_manifest(layout, _descriptor(manifests[0]).digest)


def read_manifest(layout: Path, digest: str) -> Manifest:
    """Read an image of a layout by the digest of its manifest.

    Raises:
        LayoutBroken: it is not there, damaged, or not for Linux.
    """
    document = _read_checked(layout, digest)
    manifest = _object(document)
    config = _descriptor(manifest.get("config"))
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) > limits.IMAGE_LAYERS_MAX:
        raise LayoutBroken(f"the image has no list of at most {limits.IMAGE_LAYERS_MAX} layers")
    configuration = _object(_read_checked(layout, config.digest))
    system = configuration.get("os", "linux")
    if system not in ("", "linux"):
        raise LayoutBroken(f"the image is not for Linux but for {ascii(system)[:40]}")
    process = configuration.get("config") or {}
    if not isinstance(process, dict):
        raise LayoutBroken("the image's configuration is broken")
    env = _environment(process.get("Env") or [])
    return Manifest(digest, len(document), config, tuple(_descriptor(layer) for layer in layers), env)


def check_manifests(layout: Path) -> None:
    """Check the digests of the manifests a foreign layout names, and of those below its indexes.

    Tools check the digests of configurations and layers, but of a manifest only when it comes from a registry.

    Raises:
        LayoutBroken: one is wrong, or a document is none.
    """
    waiting = [(layout / INDEX, "")]
    for _ in range(limits.IMAGES_MAX):
        if not waiting:
            return
        path, digest = waiting.pop()
        document = _object(_read_checked(layout, digest) if digest else read_document(path))
        below = [_descriptor(value).digest for value in document.get("manifests") or ()]
        # A layout need not hold the images of all platforms.
        waiting.extend((blob_path(layout, digest), digest) for digest in below if blob_path(layout, digest).exists())
    raise LayoutBroken(f"the layout names more than {limits.IMAGES_MAX} images")


def _read_checked(layout: Path, digest: str) -> bytes:
    path = blob_path(layout, digest)
    document = read_document(path)
    if hashlib.new(digest.partition(":")[0], document).hexdigest() != path.name:
        raise LayoutBroken("a document of the image does not have the digest it is named by")
    return document


def _object(document: bytes) -> dict[str, Any]:
    try:
        value = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise LayoutBroken("a document of the image is no JSON") from error
    if not isinstance(value, dict):
        raise LayoutBroken("a document of the image is no JSON object")
    return value


def _descriptor(value: object) -> Descriptor:
    if isinstance(value, dict):
        digest, size = value.get("digest"), value.get("size")
        if isinstance(digest, str) and _DIGEST.fullmatch(digest) and type(size) is int and size >= 0:
            return Descriptor(digest, size)
    raise LayoutBroken("the image names a part without a proper digest and size")


def _environment(entries: object) -> tuple[tuple[str, str], ...]:
    """``["NAME=value", ...]`` as pairs. An entry without ``=`` sets nothing and is left out, as runtimes do."""
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise LayoutBroken("the image's environment is no list of texts")
    if any("\0" in entry for entry in entries):
        raise LayoutBroken("the image's environment holds a NUL")
    if sum(len(entry) for entry in entries) > limits.PROCESS_ARGUMENT_BYTES_MAX:
        raise LayoutBroken("the image's environment is too long")
    pairs = (entry.partition("=") for entry in entries)
    return tuple((name, value) for name, equals, value in pairs if name and equals)


def create_layout(layout: Path) -> None:
    """Make an empty layout, or the missing parts of one; its index is left to whoever puts images in."""
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def write_index(path: Path, manifests: list[dict[str, Any]]) -> None:
    """Write an index whole and durably; readers see the old one or the new one, never a part."""
    document = {"schemaVersion": 2, "manifests": manifests}
    new = path.with_name(f"{path.name}.new")
    with open(new, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_image(layout: Path, layer: Layer, env: tuple[str, ...]) -> Manifest:
    """Complete a layout that holds one layer: configuration, manifest, index. Equal layers give equal images."""
    machine = platform.machine()
    config = _write_blob(
        layout,
        {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": {"Env": list(env)},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        },
    )
    manifest = _write_blob(
        layout,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _described(CONFIG_TYPE, config),
            "layers": [_described(LAYER_TYPE, layer.descriptor)],
        },
    )
    write_index(layout / INDEX, [_described(MANIFEST_TYPE, manifest) | {"annotations": {NAME_ANNOTATION: "latest"}}])
    return read_layout(layout)


def _described(media_type: str, descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": descriptor.digest, "size": descriptor.size_bytes}


def _write_blob(layout: Path, value: dict[str, Any]) -> Descriptor:
    document = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    digest = "sha256:" + hashlib.sha256(document).hexdigest()
    blob_path(layout, digest).write_bytes(document)
    return Descriptor(digest, len(document))


class _HashingFile:
    """Counts and hashes what goes into a file."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb")  # noqa: SIM115 - LayerWriter closes it
        self._hash = hashlib.sha256()
        self.written_bytes = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.written_bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


class LayerWriter:
    """The write end of a new layer: takes the bytes of a tar, leaves a compressed blob in the layout.

    The same bytes give the same blob: no time and no name go into it. A context manager; leaving it by an error
    leaves an unnamed part behind, for the layout to be thrown away.

    Args:
        layout: of ``create_layout``.
        bytes_max: uncompressed.
        stop: set by another thread, it ends the writing at the next write.
    """

    def __init__(self, layout: Path, bytes_max: int, stop: threading.Event) -> None:
        self._layout = layout
        self._part = layout / "blobs" / "layer.part"
        self._bytes_max = bytes_max
        self._stop = stop
        self._diff = hashlib.sha256()
        self._position = 0
        self._blob = _HashingFile(self._part)
        self._compressor = gzip.GzipFile(
            filename="", mode="wb", compresslevel=_COMPRESSION_LEVEL, fileobj=self._blob, mtime=0
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._compressor.close()
        self._blob.close()

    def write(self, data: bytes) -> int:
        """Take the next bytes.

        Raises:
            Stopped: nobody wants them any more.
            LayoutBroken: they are more than allowed.
        """
        if self._stop.is_set():
            raise Stopped
        self._position += len(data)
        if self._position > self._bytes_max:
            raise LayoutBroken(f"the image is larger than {self._bytes_max} bytes")
        self._diff.update(data)
        return self._compressor.write(data)

    def tell(self) -> int:
        """How many bytes there were; ``tarfile`` asks."""
        return self._position

    def finish(self) -> Layer:
        """End the layer and give the blob its name."""
        self._compressor.close()
        self._blob.close()
        digest = self._blob.digest()
        self._part.rename(blob_path(self._layout, digest))
        return Layer(Descriptor(digest, self._blob.written_bytes), "sha256:" + self._diff.hexdigest())
