"""A task definition decoded whole (board-api.md 3.4, 3.6): what a client writes and a cell reads.

The board keeps ``model.Definition`` instead, which carries the bytes. Field names are the wire's; defaults are the
wire's defaults; ``None`` marks an absent submessage where that differs from an empty one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from bulletin.core.actions import Action

__all__ = [
    "CachedDependency",
    "DedicatedDevice",
    "DigestAlgorithm",
    "File",
    "ICMPInfo",
    "ImageLayer",
    "LayerType",
    "MediaType",
    "MetricTag",
    "PortRange",
    "SecurityGroupRule",
    "SharedDevice",
    "TaskDefinition",
    "VolumeMount",
]


@dataclass(frozen=True, slots=True)
class File:
    """A file to lay under /etc/cf-service-bindings."""

    path: str
    content: str


@dataclass(frozen=True, slots=True)
class CachedDependency:
    """An archive fetched to the cell's cache and mounted read-only at ``to``."""

    from_: str
    to: str
    name: str = ""
    cache_key: str = ""
    log_source: str = ""
    checksum_algorithm: str = ""
    checksum_value: str = ""


class LayerType(IntEnum):
    """``ImageLayer.Type``."""

    INVALID = 0
    SHARED = 1
    EXCLUSIVE = 2


class MediaType(IntEnum):
    """``ImageLayer.MediaType``."""

    INVALID = 0
    TGZ = 1
    TAR = 2
    ZIP = 3


class DigestAlgorithm(IntEnum):
    """``ImageLayer.DigestAlgorithm``."""

    INVALID = 0
    SHA256 = 1
    SHA512 = 2


@dataclass(frozen=True, slots=True)
class ImageLayer:
    """A layer on top of the rootfs (cell.md 3.3). Numbers outside the enums survive as ints."""

    url: str
    destination_path: str
    layer_type: int
    media_type: int
    name: str = ""
    digest_algorithm: int = 0
    digest_value: str = ""


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports ``start`` to ``end``, both included."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ICMPInfo:
    """An ICMP type and code."""

    type: int
    code: int


@dataclass(frozen=True, slots=True)
class SecurityGroupRule:
    """One egress rule: an entry of the allow-list (cell.md 5.4)."""

    protocol: str
    destinations: tuple[str, ...]
    ports: tuple[int, ...] = ()
    port_range: PortRange | None = None
    icmp_info: ICMPInfo | None = None
    log: bool = False
    annotations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SharedDevice:
    """A volume many may mount; ``mount_config`` is JSON."""

    volume_id: str
    mount_config: str = ""


@dataclass(frozen=True, slots=True)
class DedicatedDevice:
    """A volume one may mount."""

    mounter_id: str = ""
    mount_config: str = ""
    device_config: str = ""


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume at ``container_dir``; ``mode`` is "r" or "rw"."""

    driver: str
    container_dir: str
    mode: str
    shared: SharedDevice | None = None
    dedicated: DedicatedDevice | None = None


@dataclass(frozen=True, slots=True)
class MetricTag:
    """A metric tag: a static text, or a dynamic kind (0 none, 1 INDEX, 2 INSTANCE_GUID)."""

    static: str = ""
    dynamic: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """What to run and within which bounds. Zero limits mean unlimited (cell.md 5.2)."""

    #: A URL with a scheme: ``docker:///busybox``, ``preloaded:cflinuxfs4``.
    root_fs: str
    action: Action
    #: (name, value) pairs in order; the last of a name wins.
    environment_variables: tuple[tuple[str, str], ...] = ()
    disk_mb: int = 0
    memory_mb: int = 0
    cpu_weight: int = 0
    max_pids: int = 0
    privileged: bool = False
    log_source: str = ""
    log_guid: str = ""
    metrics_guid: str = ""
    #: Path in the container; a relative one is relative to root's home.
    result_file: str = ""
    completion_callback_url: str = ""
    annotation: str = ""
    egress_rules: tuple[SecurityGroupRule, ...] = ()
    cached_dependencies: tuple[CachedDependency, ...] = ()
    legacy_download_user: str = ""
    trusted_system_certificates_path: str = ""
    volume_mounts: tuple[VolumeMount, ...] = ()
    #: ``network.properties``; None: no network message at all.
    network_properties: Mapping[str, str] | None = None
    placement_tags: tuple[str, ...] = ()
    #: ``certificate_properties.organizational_unit``; None: no message at all.
    organizational_units: tuple[str, ...] | None = None
    image_username: str = ""
    image_password: str = field(default="", repr=False)
    image_layers: tuple[ImageLayer, ...] = ()
    #: None is the platform's default, -1 unlimited, 0 silence.
    log_rate_limit_bytes_per_second: int | None = None
    metric_tags: Mapping[str, MetricTag] = field(default_factory=dict)
    volume_mounted_files: tuple[File, ...] = ()
