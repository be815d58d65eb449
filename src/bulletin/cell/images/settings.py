"""What the operator decides about images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bulletin.core import limits

__all__ = ["ImageSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """Settings of the image store; every default is safe for one machine."""

    #: Stack name to the directory of its root file system (``preloaded:<stack>``, cell.md 5.1).
    preloaded: Mapping[str, Path] = field(default_factory=dict)
    #: ``host[:port]`` of the registries that may be spoken to by plain HTTP or with a certificate nobody vouches for.
    #: Those on loopback always may.
    insecure_registries: frozenset[str] = frozenset()
    #: A trust policy file (containers-policy.json); None for the machine's own, or none at all where there is none.
    policy: Path | None = None
    #: Both of what is fetched and of what it becomes when unpacked.
    image_bytes_max: int = limits.IMAGE_BYTES_MAX
    #: Files, directories and links of an unpacked image.
    image_entries_max: int = limits.IMAGE_ENTRIES_MAX
    #: One try to fetch an image; unpacking may take as long again.
    pull_seconds_max: float = limits.IMAGE_PULL_SECONDS_MAX
    #: Tries to fetch an image while the registry does not answer or fails.
    pull_attempts_max: int = limits.IMAGE_PULL_ATTEMPTS_MAX
    #: Pause before the second try; each further one is twice as long.
    pull_retry_seconds: float = 1.0
    #: Images fetched or unpacked at once; further ones wait.
    pulls_max: int = limits.IMAGE_PULLS_MAX
