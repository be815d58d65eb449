"""What a download or upload says and how it fails: texts only (cell.md 2.3, 2.4)."""

from __future__ import annotations

from typing import NamedTuple

from bulletin.core.actions import DownloadAction, UploadAction
from bulletin.core.steps.texts import cut_bytes, size_text
from bulletin.core.steps.values import ErrorKind, StepError, StreamName, TransferEnded, TransferFault

__all__ = ["TransferEnd", "download_end", "started_line", "upload_end"]

_COPY_LINE_BYTES_MAX = 1024
_COPY_LINE_MARK = " (error truncated)"

#: What the log says of an upload's fault, `` for <artifact>`` behind it.
_UPLOAD_LINES = {
    TransferFault.URL: "Failed to parse URL",
    TransferFault.TEMP_DIR: "Failed to create temp dir",
    TransferFault.TEMP_FILE: "Failed to create temp file",
    TransferFault.SPOOL: "Failed to copy stream contents into temp file",
    TransferFault.STREAM: "Failed to establish stream from container",
    TransferFault.FIRST_ITEM: "Failed to find first item in tar stream",
    TransferFault.ATTEMPTS: "Failed to upload payload",
}
#: Faults whose reason is the error behind them, plain, and not the line.
_UPLOAD_PLAIN = frozenset({TransferFault.URL, TransferFault.ATTEMPTS})
#: Faults whose reason names the artifact too, as the line does.
_UPLOAD_NAMED = frozenset({TransferFault.TEMP_DIR, TransferFault.TEMP_FILE, TransferFault.SPOOL})


class TransferEnd(NamedTuple):
    """How a transfer ends its step: the line to log (empty: none) and the error."""

    error: StepError | None
    stream: StreamName = "out"
    line: str = ""


def started_line(action: DownloadAction | UploadAction) -> str:
    """The line at the start; logged only when there is an artifact to name."""
    verb = "Downloading" if isinstance(action, DownloadAction) else "Uploading"
    return f"{verb} {action.artifact}..."


def download_end(action: DownloadAction, event: TransferEnded) -> TransferEnd:
    """The end of a download that was not cancelled."""
    named = f" {action.artifact}" if action.artifact else ""
    if event.fault is None:
        size = f" ({size_text(event.size_bytes)})" if event.size_bytes else ""
        return TransferEnd(None, "out", f"Downloaded{named}{size}" if action.artifact else "")
    if event.fault is TransferFault.REFUSED:
        return TransferEnd(StepError(event.text))
    if event.fault is TransferFault.COPY:
        text = f"Copying{named} into the container failed: {event.text}"
        line = cut_bytes(text, _COPY_LINE_BYTES_MAX, _COPY_LINE_MARK)
        return TransferEnd(StepError(text, ErrorKind.EMITTABLE), "err", line)
    text = f"Downloading{named} failed"
    return TransferEnd(StepError(text, ErrorKind.EMITTABLE), "err", text)


def upload_end(action: UploadAction, event: TransferEnded) -> TransferEnd:
    """The end of an upload that was not cancelled."""
    named = f" for {action.artifact}" if action.artifact else ""
    if event.fault is None:
        line = f"Uploaded {action.artifact} ({size_text(event.size_bytes)})" if action.artifact else ""
        return TransferEnd(None, "out", line)
    if event.fault not in _UPLOAD_LINES:
        return TransferEnd(StepError(event.text))
    text = _UPLOAD_LINES[event.fault]
    line = text + named if action.artifact else ""
    if event.fault in _UPLOAD_PLAIN:
        return TransferEnd(StepError(event.text), "err", line)
    reason = text + named if event.fault in _UPLOAD_NAMED else text
    return TransferEnd(StepError(reason, ErrorKind.EMITTABLE), "err", line)
