"""Where a process finds its certificate and the authorities it trusts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["TlsFiles"]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Three PEM files; the key is read by its owner only."""

    #: The authorities whose certificates are believed.
    ca: Path
    cert: Path
    key: Path
