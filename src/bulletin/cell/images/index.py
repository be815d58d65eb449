"""The names of a store's images, as values: records to and from the entries of an OCI index. Pure.

The index of the store is the ``index.json`` of an OCI layout, so other tools can read the store as what it is; what
the specification has no field for stands in annotations of our own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from bulletin.cell.images.layout import MANIFEST_TYPE, NAME_ANNOTATION

__all__ = ["ImageRecord", "IndexBroken", "Names", "Origin", "decode_index", "encode_index"]

_ADDED: Final = "bulletin.added-at-ns"
_ORIGIN: Final = "bulletin.origin"
_PRIVATE: Final = "bulletin.private"
_STORED: Final = "bulletin.stored-bytes"
_UNPACKED: Final = "bulletin.unpacked-bytes"


class IndexBroken(ValueError):
    """The index is not one this program wrote."""


class Origin(Enum):
    """Where an image came from."""

    PULLED = "pulled"
    IMPORTED = "imported"


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of the store under one name."""

    #: ``docker.io/library/busybox:latest``, or ``…@sha256:<hex>`` when it was asked for by digest.
    name: str
    #: ``sha256:<hex>`` of its manifest as stored.
    digest: str
    #: Length of the manifest; the index of a layout must tell.
    manifest_bytes: int
    #: Compressed, on disk, manifest and configuration included; what it shares with other images counted too.
    stored_bytes: int
    #: On disk, unpacked.
    unpacked_bytes: int
    #: Nanoseconds since the epoch.
    added_at_ns: int
    origin: Origin
    #: Fetched with credentials: only who shows credentials the registry accepts may use it.
    private: bool = False


#: A name may stand for a public image and for a private one at once.
Names = dict[tuple[str, bool], ImageRecord]


def encode_index(records: Iterable[ImageRecord]) -> list[dict[str, Any]]:
    """The ``manifests`` of the index, in a steady order."""
    return [
        {
            "mediaType": MANIFEST_TYPE,
            "digest": record.digest,
            "size": record.manifest_bytes,
            "annotations": {
                NAME_ANNOTATION: record.name,
                _ADDED: str(record.added_at_ns),
                _ORIGIN: record.origin.value,
                _PRIVATE: str(record.private).lower(),
                _STORED: str(record.stored_bytes),
                _UNPACKED: str(record.unpacked_bytes),
            },
        }
        for record in sorted(records, key=lambda record: (record.name, record.private))
    ]


def decode_index(document: bytes) -> Names:
    """Read an index back.

    Raises:
        IndexBroken: it is damaged or somebody else's.
    """
    try:
        records = [_decode_entry(entry) for entry in json.loads(document)["manifests"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IndexBroken("the index of the image store is damaged") from error
    return {(record.name, record.private): record for record in records}


def _decode_entry(entry: dict[str, Any]) -> ImageRecord:
    notes = entry["annotations"]
    return ImageRecord(
        name=notes[NAME_ANNOTATION],
        digest=entry["digest"],
        manifest_bytes=int(entry["size"]),
        stored_bytes=int(notes[_STORED]),
        unpacked_bytes=int(notes[_UNPACKED]),
        added_at_ns=int(notes[_ADDED]),
        origin=Origin(notes[_ORIGIN]),
        private=notes[_PRIVATE] == "true",
    )
