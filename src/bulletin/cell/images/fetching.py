"""Fetching an image from a registry: skopeo from ``docker://`` into an OCI layout.

Credentials go to skopeo in memory, as a file only its descriptor leads to: never on a command line, never on a disk.
What skopeo says when it fails becomes one short sentence; a failure that may pass is tried again, a bounded number
of times.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bulletin.cell.images.references import DockerReference
from bulletin.cell.images.repository import Workspace
from bulletin.cell.images.settings import ImageSettings
from bulletin.cell.images.tools import FIRST_DESCRIPTOR, Progress, Usage, measure, run_tool, watch_disk

__all__ = ["Credentials", "FetchFailed", "explain_failure", "fetch_image", "last_words", "skopeo_copy"]

_POLICY: Final = Path("/etc/containers/policy.json")
_SHOWN_CHARACTERS_MAX: Final = 300
#: Files in a layout while it is being fetched: its blobs, and the tool's own.
_LAYOUT_ENTRIES_MAX: Final = 100_000
_GRACE_SECONDS: Final = 10.0
#: The cause stands in the last part of a complaint, or in the one before it.
_CAUSE_PARTS: Final = 2
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """What to show a registry."""

    username: str
    #: Never empty.
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """Both as HTTP basic authentication sends them."""
        return base64.b64encode(f"{self.username}:{self.password}".encode("utf-8", "surrogateescape")).decode()


class FetchFailed(Exception):
    """The image could not be fetched; the text is shown to users.

    Args:
        text: one short sentence.
        transient: whether another try may help.
    """

    def __init__(self, text: str, *, transient: bool = False) -> None:
        super().__init__(text)
        self.transient = transient


#: (what the end of skopeo's complaint looks like, our words, whether another try may help). The first match counts.
_FAILURES: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), text, transient)
    for pattern, text, transient in (
        (r"manifest unknown|name unknown|repository name not known|\b404\b", "not found", False),
        (r"no image found in (manifest list|image index) for", "it is not made for this kind of machine", False),
        (r"unauthorized|authentication required|invalid username|denied|\b40[13]\b", "unauthorized", False),
        (r"toomanyrequests|too many requests|\b429\b|rate limit", "the registry allows no more pulls for now", True),
        (r"gave HTTP response to HTTPS", "the registry speaks plain HTTP, which is not allowed for it", False),
        (r"x509|certificate|tls: ", "the registry's certificate is not trusted", False),
        (
            (
                r"connection refused|connection reset|no such host|i/o timeout|timeout exceeded|deadline exceeded"
                r"|handshake timeout|unreachable|no route to host|server misbehaving|broken pipe|\bEOF\b|proxyconnect"
            ),
            "the registry cannot be reached",
            True,
        ),
        (r"\b50[0-9]\b|internal server error|service unavailable", "the registry failed", True),
        (r"digest did not match|digest mismatch|size mismatch", "it arrived damaged", True),
        (r"no space left", "no space left on this machine", False),
        (r"rejected by policy|signature", "refused by the trust policy of this machine", False),
    )
)
#: What umoci puts before its lines.
_BULLETS: Final = " \u2022\u2a2f"
_MESSAGE = re.compile(r'level=(?:fatal|error) msg=("(?:[^"\\]|\\.)*"|\S+)')


def skopeo_copy(
    source: str, layout: Path, workspace: Workspace, settings: ImageSettings, options: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The command that copies an image into ``layout``, whose only image it becomes.

    Layers are kept as they are if umoci can read them, else (zstd) they become gzip.
    """
    policy = settings.policy or (_POLICY if _POLICY.exists() else None)
    trust = ("--insecure-policy",) if policy is None else ("--policy", str(policy))
    return (
        *("skopeo", *trust, "--tmpdir", str(workspace.path)),
        # For the case that this process is killed and nobody waits for skopeo any more.
        *("--command-timeout", f"{settings.pull_seconds_max + _GRACE_SECONDS:.0f}s"),
        *("copy", "--quiet", "--dest-compress-format", "gzip", *options),
        *(source, f"oci:{layout}:latest"),
    )


async def fetch_image(
    reference: DockerReference,
    layout: Path,
    workspace: Workspace,
    settings: ImageSettings,
    credentials: Credentials | None,
    progress: Progress,
) -> None:
    """Fetch an image into a layout that may already hold some of its blobs.

    Raises:
        FetchFailed: it cannot be had.
        ToolFailed: skopeo is missing or took too long.
        TooLarge: it is larger than allowed.
    """
    for attempt in range(settings.pull_attempts_max):
        if attempt:
            await asyncio.sleep(settings.pull_retry_seconds * 2 ** (attempt - 1))
        progress(f"pulling {reference.name}" + (f", try {attempt + 1}" if attempt else ""))
        try:
            await _fetch_once(reference, layout, workspace, settings, credentials, progress)
        except FetchFailed as failure:
            if not failure.transient or attempt + 1 == settings.pull_attempts_max:
                raise
        else:
            return


async def _fetch_once(
    reference: DockerReference,
    layout: Path,
    workspace: Workspace,
    settings: ImageSettings,
    credentials: Credentials | None,
    progress: Progress,
) -> None:
    insecure = reference.on_loopback or reference.domain in settings.insecure_registries
    options: tuple[str, ...] = ("--src-tls-verify=false",) if insecure else ()

    def look() -> Usage:
        return measure(layout, settings.image_bytes_max, _LAYOUT_ENTRIES_MAX, own_only=True)

    def heard(usage: Usage) -> None:
        progress(f"pulling {reference.name}: {usage.used_bytes // _MIB} MiB")

    with _credentials_file(reference.domain, credentials) as descriptors:
        if descriptors:
            options += ("--src-authfile", f"/proc/self/fd/{FIRST_DESCRIPTOR}")
        else:
            options += ("--src-no-creds",)
        tool = run_tool(
            workspace,
            skopeo_copy(f"docker://{reference.name}", layout, workspace, settings, options),
            timeout_seconds=settings.pull_seconds_max,
            file_bytes_max=settings.image_bytes_max,
            descriptors=descriptors,
        )
        finished = await watch_disk(tool, look, heard)
    if finished.status != 0:
        words = last_words(finished.stderr)
        raise explain_failure(reference.name, _without_secrets(words, credentials))


@contextmanager
def _credentials_file(domain: str, credentials: Credentials | None) -> Iterator[tuple[int, ...]]:
    """An authentication file (containers-auth.json) in memory; its descriptor, or nothing without credentials."""
    if credentials is None:
        yield ()
        return
    fd = os.memfd_create("auth", os.MFD_CLOEXEC)
    try:
        os.write(fd, json.dumps({"auths": {domain: {"auth": credentials.basic}}}).encode())
        yield (fd,)
    finally:
        os.close(fd)


def last_words(stderr: bytes) -> str:
    """What a failing skopeo or umoci said last, on one line, without the frame of its log format."""
    text = stderr.decode("utf-8", errors="replace").strip()
    found = _MESSAGE.findall(text)
    if found:
        text = found[-1]
        if text.startswith('"'):
            try:
                text = str(json.loads(text))
            except ValueError:
                text = text.strip('"')
    else:
        text = text.rpartition("\n")[2].strip(_BULLETS)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def explain_failure(name: str, words: str) -> FetchFailed:
    """Make one short sentence of skopeo's words.

    A complaint is a chain from the general to the cause, joined by colons. It is read from its end, so that the
    image's own name, which stands further ahead and may be anything, is not taken for the cause.
    """
    for part in reversed(words.split(": ")[-_CAUSE_PARTS:]):
        for pattern, text, transient in _FAILURES:
            if pattern.search(part):
                return FetchFailed(f"{name}: {text}", transient=transient)
    # Addresses of blobs may carry a signature that is as good as a password.
    plain = re.sub(r"\?[^\s\"']+", "?…", words)
    return FetchFailed(f"{name}: {plain[:_SHOWN_CHARACTERS_MAX] or 'skopeo failed without a word'}")


def _without_secrets(words: str, credentials: Credentials | None) -> str:
    """A registry may send back what it was sent."""
    if credentials is None:
        return words
    return words.replace(credentials.basic, "…").replace(credentials.password, "…")
