"""Running skopeo, umoci and their like on hostile input: bounded in time, memory, file size and disk.

A tool gets the lock of the workspace it works in as descriptor 3. Should this process be killed, the workspace counts
as used until the tool is gone too.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import stat
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from bulletin.cell.images.repository import Workspace
from bulletin.cell.runtime.spawn import Command, CommandTimedOut, Finished, run, start
from bulletin.core import limits

__all__ = [
    "FIRST_DESCRIPTOR",
    "Progress",
    "TooLarge",
    "ToolFailed",
    "Usage",
    "find_tool",
    "finish",
    "measure",
    "remove_tree",
    "run_tool",
    "walk",
    "watch_disk",
]

_T = TypeVar("_T")

#: Hears in short sentences what is being done; called on the loop.
Progress = Callable[[str], None]

#: Number of the first of ``descriptors`` in a tool.
FIRST_DESCRIPTOR: Final = 4

#: A shell lowers the limits, then becomes the tool. Files are made as by a login, whatever umask this process has.
_LIMITED: Final = 'umask 022; ulimit -c 0; ulimit -v "$1"; ulimit -f "$2"; shift 2; exec "$@"'
#: The unit of ``ulimit -f``.
_BLOCK_BYTES: Final = 512
#: What the machine's owner may have set for everything that speaks to the network.
_PASSED_ON: Final = (
    *("HOME", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: A look at the disk comes at most this often, and takes at most a tenth of the time.
_LOOK_SECONDS: Final = 0.25
_LOOK_SHARE: Final = 10
#: Generous: trees of a million files on a slow disk.
_REMOVE_SECONDS_MAX: Final = 600.0
#: How much of a tool's words an error repeats.
_SHOWN_CHARACTERS_MAX: Final = 300


class ToolFailed(Exception):
    """A tool is missing, failed or took too long; the text is shown to users."""


class TooLarge(Exception):
    """What is being made takes more room than allowed; the text is shown to users."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree takes."""

    #: On disk, each file once.
    used_bytes: int
    #: Files, directories, links; the root is not counted.
    entries: int


def find_tool(name: str) -> str:
    """The path of a program.

    Raises:
        ToolFailed: it is not installed.
    """
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise ToolFailed(f"{name} is not installed on this machine (Debian: apt-get install {name})")
    return path


async def run_tool(
    workspace: Workspace,
    argv: Sequence[str],
    *,
    timeout_seconds: float,
    file_bytes_max: int,
    descriptors: tuple[int, ...] = (),
) -> Finished:
    """Run a tool to its end; cancelling kills it.

    Args:
        workspace: where it works; held until the tool is gone.
        argv: the name of a program and its arguments.
        timeout_seconds: after that it is killed.
        file_bytes_max: of each file it writes.
        descriptors: given to it from ``FIRST_DESCRIPTOR`` on.

    Raises:
        ToolFailed: it is not installed, could not be started or took too long.
        TooLarge: it tried to write a larger file.
    """
    limited = ("/bin/sh", "-c", _LIMITED, "sh", str(limits.IMAGE_TOOL_MEMORY_BYTES_MAX // 1024))
    blocks = str(file_bytes_max // _BLOCK_BYTES + 1)
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}

    async def launch(command: Command) -> int:
        return start(replace(command, kept=(workspace.fd, *descriptors)))

    try:
        finished = await run(
            (*limited, blocks, find_tool(argv[0]), *argv[1:]),
            timeout_seconds=timeout_seconds,
            env={"PATH": _PATH, "LC_ALL": "C", **environment},
            launch=launch,
        )
    except CommandTimedOut as error:
        raise ToolFailed(f"{argv[0]} took longer than {timeout_seconds:g} s") from error
    except OSError as error:
        raise ToolFailed(f"{argv[0]} cannot be started: {error.strerror}") from error
    too_large = os.strerror(errno.EFBIG).lower().encode() in finished.stderr.lower()
    if finished.status == 128 + signal.SIGXFSZ or (finished.status != 0 and too_large):
        raise TooLarge(f"a file of it is larger than {file_bytes_max} bytes")
    return finished


async def watch_disk(work: Coroutine[Any, Any, _T], look: Callable[[], Usage], heard: Callable[[Usage], None]) -> _T:
    """Do ``work`` and look at what it leaves on the disk meanwhile; when a look raises, the work is cancelled.

    Args:
        work: makes the files.
        look: a bounded ``measure``; run on a worker thread.
        heard: told of each look.

    Raises:
        TooLarge: by a look, and whatever the work raises.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    pause = _LOOK_SECONDS
    try:
        while not (await asyncio.wait((task,), timeout=pause))[0]:
            started = loop.time()
            heard(await asyncio.to_thread(look))
            pause = max(_LOOK_SECONDS, _LOOK_SHARE * (loop.time() - started))
        return await task
    finally:
        if not task.done():
            task.cancel()
            await finish(asyncio.wait((task,)))


async def finish(work: Awaitable[_T]) -> _T:
    """Wait until ``work`` is done, also when cancelled meanwhile; the cancellation is delivered afterwards."""
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # so that nobody misses it
        raise cancelled
    return future.result()


async def remove_tree(path: Path) -> None:
    """Remove a tree, however deep and however large.

    Raises:
        ToolFailed: something of it is left.
    """
    try:
        finished = await run(
            (find_tool("rm"), "-rf", "--one-file-system", "--", str(path)), timeout_seconds=_REMOVE_SECONDS_MAX
        )
    except CommandTimedOut as error:
        raise ToolFailed(f"{path} could not be removed in {_REMOVE_SECONDS_MAX:g} s") from error
    if finished.status != 0:
        raise ToolFailed(finished.stderr.decode(errors="replace").strip()[:_SHOWN_CHARACTERS_MAX])


def measure(root: Path, bytes_max: int, entries_max: int, *, own_only: bool = False) -> Usage:
    """Walk a tree that may be changing and hostile, without following a link, until it is over a bound. Blocking.

    Args:
        root: a directory.
        bytes_max: on disk.
        entries_max: files, directories and links.
        own_only: leave out files that have a second name (elsewhere).

    Raises:
        TooLarge: it is over one of the bounds.
    """
    used, entries = 0, 0
    seen: set[tuple[int, int]] = set()
    for _, status in walk(root):
        entries += 1
        if entries > entries_max:
            raise TooLarge(f"it has more than {entries_max} files")
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            if own_only or (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        used += status.st_blocks * 512
        if used > bytes_max:
            raise TooLarge(f"it takes more than {bytes_max} bytes")
    return Usage(used, entries)


def walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry below ``root`` as (path, lstat), parents first; what vanishes meanwhile is left out.

    Raises:
        TooLarge: a path is longer than the kernel takes.
    """
    waiting = [str(root)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as scan:
                for entry in scan:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            waiting.append(entry.path)
                        yield entry.path, status
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise TooLarge("it has a path longer than the kernel takes") from error
            raise
