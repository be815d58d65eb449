"""What the container room asks of the image room; the real one stands in ``images.store``, tests bring false ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Image", "ImageRefused", "ImageSource"]


class ImageRefused(Exception):
    """The image cannot be had: bad reference, no such image, no permission, no room. The text is shown to users."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that lies ready on this machine."""

    #: The root file system: unpacked once, with the ids of the image itself (never shifted). Containers of many
    #: tasks stand on it at once, so nobody writes to it as long as it exists.
    rootfs: Path
    #: ``Env`` of the image's configuration (cell.md section 6, row 1), in order; the last of a name wins.
    env: tuple[tuple[str, str], ...]
    #: ``sha256:<hex>`` of what was unpacked: two images of one digest have the same files. For a local directory
    #: any text that names its content as well.
    digest: str


class ImageSource(Protocol):
    """Brings images to this machine."""

    async def ensure(self, rootfs_url: str, username: str, password: str) -> Image:
        """Find or fetch the image of a ``root_fs`` URL (cell.md 5.1).

        The image stays on this machine while a container stands on it. Cancelling the call leaves nothing half made
        in the place where images are found.

        Args:
            rootfs_url: ``docker://[host]/path[#tag]``, ``preloaded:<name>`` and the like.
            username: for the registry; empty for none.
            password: a secret, never logged and never part of an error's text; empty for none.

        Raises:
            ImageRefused: it cannot be had.
        """
        ...
