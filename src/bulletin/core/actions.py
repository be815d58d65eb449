"""The action tree as values (board-api.md 3.5, cell.md section 2). Field names are the wire's.

The wire's ``Action`` wrapper, of which exactly one member counts, is the union ``Action`` here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "Action",
    "CodependentAction",
    "DownloadAction",
    "EmitProgressAction",
    "ParallelAction",
    "ResourceLimits",
    "RunAction",
    "SerialAction",
    "TimeoutAction",
    "TryAction",
    "UploadAction",
]


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits of one process. ``None`` is absent and differs from 0."""

    nofile: int | None = None
    #: Deprecated on the wire and ignored (cell.md 2.2).
    nproc: int | None = None


@dataclass(frozen=True, slots=True)
class RunAction:
    """Run one process in the container."""

    path: str
    user: str
    args: tuple[str, ...] = ()
    dir: str = ""
    #: (name, value) pairs in order; the last of a name wins.
    env: tuple[tuple[str, str], ...] = ()
    resource_limits: ResourceLimits = field(default_factory=ResourceLimits)
    log_source: str = ""
    suppress_log_output: bool = False


@dataclass(frozen=True, slots=True)
class DownloadAction:
    """Fetch an archive and unpack it inside the container."""

    from_: str
    to: str
    user: str
    artifact: str = ""
    cache_key: str = ""
    log_source: str = ""
    checksum_algorithm: str = ""
    checksum_value: str = ""


@dataclass(frozen=True, slots=True)
class UploadAction:
    """POST one file of the container."""

    from_: str
    to: str
    user: str
    artifact: str = ""
    log_source: str = ""


@dataclass(frozen=True, slots=True)
class TimeoutAction:
    """Interrupt ``action`` after ``timeout_ms`` milliseconds."""

    action: Action
    timeout_ms: int
    log_source: str = ""


@dataclass(frozen=True, slots=True)
class EmitProgressAction:
    """Log before and after ``action``."""

    action: Action
    start_message: str = ""
    success_message: str = ""
    failure_message_prefix: str = ""
    log_source: str = ""


@dataclass(frozen=True, slots=True)
class TryAction:
    """Run ``action`` and succeed whatever it does."""

    action: Action
    log_source: str = ""


@dataclass(frozen=True, slots=True)
class SerialAction:
    """One after another, ended by the first error."""

    actions: tuple[Action, ...]
    log_source: str = ""


@dataclass(frozen=True, slots=True)
class ParallelAction:
    """All together, waiting for all."""

    actions: tuple[Action, ...]
    log_source: str = ""


@dataclass(frozen=True, slots=True)
class CodependentAction:
    """All together, the end of one interrupts the others."""

    actions: tuple[Action, ...]
    log_source: str = ""


Action = (
    RunAction
    | DownloadAction
    | UploadAction
    | TimeoutAction
    | EmitProgressAction
    | TryAction
    | SerialAction
    | ParallelAction
    | CodependentAction
)
