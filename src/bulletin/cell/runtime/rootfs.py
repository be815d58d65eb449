"""The files of one container, seen from the cell.

Everything in there is hostile: links that point out, directories swapped for links, pipes and devices where a file is
expected, files without end. So every name goes through ``openat2`` with the container's root as root, ``..`` and
absolute links included, what is found is looked at before it is read, and no open ever waits.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import Final

from bulletin.cell.runtime.accounts import Account, find_account
from bulletin.cell.runtime.api import ProcessRefused, ResultUnreadable
from bulletin.cell.runtime.linux import Resolve, openat2
from bulletin.cell.runtime.programs import HEAD_BYTES, INTERPRETERS_MAX, find_interpreter
from bulletin.cell.runtime.spec import IdRange
from bulletin.core import limits

__all__ = ["Rootfs"]

_MISSING: Final = os.strerror(errno.ENOENT).lower()
_NO_DIRECTORY: Final = os.strerror(errno.ENOTDIR).lower()
_DENIED: Final = os.strerror(errno.EACCES).lower()
_READ_BYTES: Final = 64 * 1024
_INSIDE: Final = Resolve.IN_ROOT | Resolve.NO_MAGICLINKS


class Rootfs:
    """The root file system of one container."""

    def __init__(self, path: str, ids: IdRange | None) -> None:
        """Open it.

        Args:
            path: where it is mounted, for the calling thread.
            ids: how its user namespace shifts ids; None where it has none.
        """
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._ids = ids
        # A reader that its caller has given up on goes on in its thread; the descriptor must stay its own till then.
        self._reading = threading.Lock()

    def close(self) -> None:
        """Let go of it, so that it can be unmounted. Idempotent."""
        with self._reading:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def account(self, name: str) -> Account:
        """The user of that name.

        Raises:
            ProcessRefused: no such user, or one beyond the ids of this container.
        """
        try:
            account = find_account(name, self._text("/etc/passwd"), self._text("/etc/group"))
        except OSError as error:
            message = f"unable to find user {name}: {error.strerror}"
            raise ProcessRefused(message) from None
        if account is None:
            message = f"unable to find user {name}: no matching entries in passwd file"
            raise ProcessRefused(message)
        highest = max(account.uid, account.gid, *account.groups)
        if self._ids is not None and highest >= self._ids.size:
            message = f"unable to run as user {name}: id {highest} is not mapped in this container"
            raise ProcessRefused(message)
        return account

    def check_program(self, path: str, search: str, cwd: str, account: Account) -> None:
        """Make sure that an exec of ``path`` will find a program.

        Args:
            path: as in the run action: looked up in ``search`` unless it has a slash.
            search: the PATH variable of the process.
            cwd: where relative names start.
            account: who will run it.

        Raises:
            ProcessRefused: it is not there, or may not be run.
        """
        if "/" in path:
            problem = self._program_problem(os.path.join(cwd, path), cwd, account)
        else:
            problems = {
                self._program_problem(os.path.join(cwd, directory, path), cwd, account)
                for directory in search.split(":")
            }
            # The first that the search would stop at; what is merely not there is passed by.
            found = sorted(problems - {_MISSING, _NO_DIRECTORY})
            problem = "" if "" in problems else found[0] if found else "executable file not found in $PATH"
        if problem:
            message = f'exec: "{path}": {problem}'
            raise ProcessRefused(message)

    def make_directory(self, path: str, account: Account) -> None:
        """Make a working directory and its parents where they are missing, 0755 and owned by the user (cell.md 2.2).

        Raises:
            ProcessRefused: it cannot be made.
        """
        try:
            os.close(self._open(path, os.O_PATH | os.O_DIRECTORY))
        except FileNotFoundError:
            self._make_missing(path, account)
        except OSError as error:
            raise _no_directory(path, error) from None

    def read_result(self, path: str, bytes_max: int) -> bytes:
        """Read the result file (cell.md section 4): mode bits do not matter, the last link is not followed.

        Returns:
            Its bytes; nothing for a directory or a link.

        Raises:
            ResultUnreadable: missing, neither file nor directory nor link, over ``bytes_max`` or unreadable.
        """
        with self._reading:
            return self._read_result(path, bytes_max)

    def _read_result(self, path: str, bytes_max: int) -> bytes:
        if self._fd < 0:
            raise ResultUnreadable("the container is gone")
        try:
            if not path.startswith("/"):
                path = os.path.join(self.account("root").home, path)
            handle = self._open(path.rstrip("/") or "/", os.O_PATH | os.O_NOFOLLOW)
        except (OSError, ProcessRefused) as error:
            message = f"result file cannot be found: {error}"
            raise ResultUnreadable(message) from None
        try:
            return _read_regular(handle, bytes_max)
        except OSError as error:
            message = f"result file cannot be read: {error.strerror}"
            raise ResultUnreadable(message) from None
        finally:
            os.close(handle)

    def _open(self, path: str, flags: int) -> int:
        return openat2(self._fd, path, flags, _INSIDE)

    def _text(self, path: str) -> bytes:
        """All of a small text file; nothing when it is missing or no regular file.

        Raises:
            OSError: EFBIG when it is not small, or the kernel's reason.
        """
        try:
            # On a pipe this does not wait, and a device does not open on a file system without devices.
            fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return b""
            if status.st_size > limits.ACCOUNT_FILE_BYTES_MAX:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
            return _read(fd, limits.ACCOUNT_FILE_BYTES_MAX)
        finally:
            os.close(fd)

    def _program_problem(self, path: str, cwd: str, account: Account) -> str:
        """Why a program cannot be executed; empty when it can."""
        for depth in range(INTERPRETERS_MAX):
            try:
                fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except FileNotFoundError:
                return f"its interpreter {path} is not there" if depth else _MISSING
            except OSError as error:
                # A socket says ENXIO, a device EACCES: no programs either.
                return _DENIED if error.errno == errno.ENXIO else os.strerror(error.errno or errno.EIO).lower()
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode) or not self._may_execute(status, account):
                    return _DENIED
                interpreter = find_interpreter(os.pread(fd, HEAD_BYTES, 0))
            finally:
                os.close(fd)
            if interpreter is None:
                return ""
            path = os.path.join(cwd, interpreter)
        return os.strerror(errno.ELOOP).lower()

    def _may_execute(self, status: os.stat_result, account: Account) -> bool:
        shift = 0 if self._ids is None else self._ids.base
        if account.uid == 0:
            return bool(status.st_mode & 0o111)
        if status.st_uid - shift == account.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid - shift in (account.gid, *account.groups):
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)

    def _make_missing(self, path: str, account: Account) -> None:
        """Go down step by step, each step inside the root, and make what is not there."""
        shift = 0 if self._ids is None else self._ids.base
        done = "/"
        try:
            for name in path.split("/"):
                if name in ("", "."):
                    continue
                parent = self._open(done, os.O_PATH | os.O_DIRECTORY)
                done = os.path.join(done, name)
                try:
                    if name != "..":
                        self._make_one(parent, name, account.uid + shift, account.gid + shift)
                finally:
                    os.close(parent)
            os.close(self._open(path, os.O_PATH | os.O_DIRECTORY))
        except OSError as error:
            raise _no_directory(path, error) from None

    def _make_one(self, parent: int, name: str, uid: int, gid: int) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            return
        # The mode again, since the cell's umask took part; the link flags, since the container may run already.
        made = openat2(parent, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, Resolve.BENEATH)
        try:
            os.fchmod(made, 0o755)
            os.fchown(made, uid, gid)
        finally:
            os.close(made)


def _read_regular(handle: int, bytes_max: int) -> bytes:
    status = os.fstat(handle)
    if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
        return b""
    if not stat.S_ISREG(status.st_mode):
        message = "result file is neither a file nor a directory nor a link"
        raise ResultUnreadable(message)
    data = b"" if status.st_size > bytes_max else _read_handle(handle, bytes_max + 1)
    if max(status.st_size, len(data)) > bytes_max:
        message = f"result file is too large (over {bytes_max} bytes)"
        raise ResultUnreadable(message)
    return data


def _read_handle(handle: int, bytes_max: int) -> bytes:
    """Read from an O_PATH handle that is known to be a regular file, so the magic link is safe and opening it too."""
    fd = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return _read(fd, bytes_max)
    finally:
        os.close(fd)


def _read(fd: int, bytes_max: int) -> bytes:
    parts = []
    left = bytes_max
    while left > 0:
        wanted = min(left, _READ_BYTES)
        data = os.read(fd, wanted)
        parts.append(data)
        if len(data) < wanted:  # of a regular file that is its end
            break
        left -= len(data)
    return b"".join(parts)


def _no_directory(path: str, error: OSError) -> ProcessRefused:
    return ProcessRefused(f"unable to create working directory {path}: {error.strerror}")
