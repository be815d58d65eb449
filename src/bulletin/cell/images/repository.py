"""The store's directory: what lies where, and who may touch it when. Blocking; used from worker threads.

::

    <root>/                 0700
      oci-layout            this directory is an OCI layout
      index.json            names and records (index.py); replaced whole, read without a lock
      blobs/<alg>/<hex>     shared by all images; only whole, checked and synced files ever get here
      trees/<hex>/          an unpacked image by the digest of its manifest: rootfs/ and image.json
      work/<random>/        one per operation under way; everything unfinished lies here and nowhere else
      lock                  held to change any of the above, for the time of a few renames

Several processes use one store at once. A process that died leaves work directories whose lock is free, and trees and
blobs no name leads to; ``sweep`` finds both. A tree in use is held by a shared lock on its directory, which the kernel
lets go of when its holder dies: whoever wants to remove it must get it alone first.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bulletin.cell.images import layout
from bulletin.cell.images.index import ImageRecord, IndexBroken, Names, decode_index, encode_index
from bulletin.cell.images.layout import LayoutBroken, Manifest
from bulletin.core import limits

__all__ = ["Lease", "Repository", "RepositoryUnusable", "Snapshot", "Tree", "Workspace", "write_tree_note"]

_LOCK_PAUSE_SECONDS: Final = 0.02
_NOTE: Final = "image.json"
_ROOTFS: Final = "rootfs"

_libc = ctypes.CDLL(None, use_errno=True)


class RepositoryUnusable(Exception):
    """The store's directory cannot be used; the text is shown to users."""


@dataclass(slots=True)
class Workspace:
    """A directory of one operation. It is locked as long as ``fd`` is open, so nobody takes it for left over."""

    path: Path
    fd: int

    def close(self) -> None:
        """Unlock it; what is still in it will be swept."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(frozen=True, slots=True)
class Tree:
    """What is known of an unpacked image."""

    rootfs: Path
    env: tuple[tuple[str, str], ...]
    unpacked_bytes: int


@dataclass(slots=True)
class Lease:
    """A tree that stays while the lease is held."""

    tree: Tree
    fd: int

    def close(self) -> None:
        """Give it back. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An index as it was read."""

    #: Not to be changed.
    names: Names
    #: Inode of the file. It is held open by ``fd``, so no later index gets the same.
    generation: int
    fd: int


def write_tree_note(tree: Path, env: tuple[tuple[str, str], ...], unpacked_bytes: int) -> None:
    """Complete a tree that was unpacked to ``tree/rootfs``."""
    (tree / _NOTE).write_text(json.dumps({"env": env, "unpacked_bytes": unpacked_bytes}), encoding="utf-8")


class Repository:
    """The directory of one image store.

    Args:
        root: made by ``open`` when it is not there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._index = root / layout.INDEX
        self._trees = root / "trees"
        self._work = root / "work"
        self._loaded: Snapshot | None = None
        self._loading = threading.Lock()

    def open(self) -> None:
        """Make what is missing.

        Raises:
            RepositoryUnusable: it cannot be made, or the index is damaged.
        """
        if ":" in str(self.root):
            raise RepositoryUnusable(f"image store {self.root}: skopeo and umoci cannot work at a path with a colon")
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.root.chmod(0o700)
            for directory in (self._trees, self._work):
                directory.mkdir(exist_ok=True, mode=0o700)
            with self._lock():
                layout.create_layout(self.root)
                if not self._index.exists():
                    layout.write_index(self._index, [])
        except OSError as error:
            raise RepositoryUnusable(f"image store {self.root}: {error.strerror}") from error
        self.read()

    def close(self) -> None:
        """Let go of the index. Idempotent."""
        with self._loading:
            if self._loaded is not None:
                os.close(self._loaded.fd)
                self._loaded = None

    # -- names ------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        """A number that is another one whenever the index is; one system call."""
        return os.stat(self._index).st_ino

    def read(self) -> Snapshot:
        """The index as it is now.

        Raises:
            RepositoryUnusable: it cannot be read.
        """
        with self._loading:
            try:
                loaded = self._loaded
                if loaded is None or loaded.generation != self.generation():
                    self._loaded = self._load()
                    if loaded is not None:
                        os.close(loaded.fd)
                    loaded = self._loaded
            except OSError as error:
                raise RepositoryUnusable(f"image store {self._index}: {error.strerror}") from error
            except IndexBroken as error:
                raise RepositoryUnusable(f"{self._index}: {error}; move the directory away to start afresh") from error
            return loaded

    def _load(self) -> Snapshot:
        fd = os.open(self._index, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            names = decode_index(os.pread(fd, status.st_size, 0))
        except BaseException:
            os.close(fd)
            raise
        return Snapshot(names, status.st_ino, fd)

    def adopt(self, record: ImageRecord, manifest: Manifest, source: Path, tree: Path | None) -> None:
        """Take an image in: its blobs from the layout ``source``, its tree if a new one was unpacked, its name.

        All of it is brought to the disk before the name is, so that no crash leaves a name that leads to a half.

        Raises:
            RepositoryUnusable: there are too many images, or the lock could not be had.
        """
        self._sync()
        with self._lock():
            names = dict(self.read().names)
            names[record.name, record.private] = record
            if len(names) > limits.IMAGES_MAX:
                raise RepositoryUnusable(f"the image store holds {limits.IMAGES_MAX} images and takes no more")
            for digest in manifest.blobs:
                target = layout.blob_path(self.root, digest)
                target.parent.mkdir(exist_ok=True)
                with suppress(FileExistsError):
                    os.link(layout.blob_path(source, digest), target)
            if tree is not None:
                place = self._tree_path(record.digest)
                # Another process may have unpacked the same image meanwhile; its tree is as good.
                if not place.exists():
                    tree.rename(place)
            for directory in (self.root / "blobs" / "sha256", self._trees):
                layout.sync_directory(directory)
            layout.write_index(self._index, encode_index(names.values()))

    def forget(self, name: str) -> bool:
        """Take a name out of the index, the public and the private record; whether there was one."""
        with self._lock():
            before = self.read().names
            after = {key: record for key, record in before.items() if record.name != name}
            if len(after) < len(before):
                layout.write_index(self._index, encode_index(after.values()))
            return len(after) < len(before)

    # -- trees ------------------------------------------------------------------------------------------------

    def _tree_path(self, digest: str) -> Path:
        return self._trees / layout.blob_path(self.root, digest).name

    def lease(self, digest: str) -> Lease | None:
        """Hold an unpacked image; None when it is not there (any more)."""
        path = self._tree_path(digest)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Whoever removes a tree holds it alone and moves it away, so now it is in its place for good or gone.
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                return Lease(self._read_tree(path), fd)
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def _read_tree(self, path: Path) -> Tree:
        note = json.loads((path / _NOTE).read_bytes())
        return Tree(path / _ROOTFS, tuple((name, value) for name, value in note["env"]), int(note["unpacked_bytes"]))

    # -- work -------------------------------------------------------------------------------------------------

    def new_workspace(self) -> Workspace:
        """A fresh private directory on the store's own file system."""
        with self._lock():
            path = self._work / secrets.token_hex(8)
            path.mkdir(mode=0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Workspace(path, fd)

    def seed(self, target: Path) -> None:
        """Make a layout at ``target`` that has all the blobs of the store (as links), so that no tool fetches them."""
        layout.create_layout(target)
        for source in sorted((self.root / "blobs").glob("*/*")):
            directory = target / "blobs" / source.parent.name
            directory.mkdir(exist_ok=True)
            # It may be swept in this moment; then it is fetched again.
            with suppress(FileNotFoundError):
                os.link(source, directory / source.name)

    def view(self, digest: str, target: Path) -> Manifest:
        """Make a layout at ``target`` with one image of the store in it.

        Raises:
            LayoutBroken: a part of it is missing or damaged.
        """
        layout.create_layout(target)
        with self._lock():
            manifest = layout.read_manifest(self.root, digest)
            for blob in manifest.blobs:
                place = layout.blob_path(target, blob)
                place.parent.mkdir(exist_ok=True)
                try:
                    with suppress(FileExistsError):
                        os.link(layout.blob_path(self.root, blob), place)
                except FileNotFoundError as error:
                    raise LayoutBroken("the image lacks a part") from error
        entry = {
            "mediaType": layout.MANIFEST_TYPE,
            "digest": manifest.digest,
            "size": manifest.size_bytes,
            "annotations": {layout.NAME_ANNOTATION: "latest"},
        }
        layout.write_index(target / layout.INDEX, [entry])
        return manifest

    def sweep(self, workspace: Workspace) -> None:
        """Move everything nobody needs into ``workspace``, to be removed with it.

        That is: trees no name leads to and nobody holds, blobs of no named image, and what dead processes left.
        """
        with self._lock():
            kept = {record.digest for record in self.read().names.values()}
            keys = {digest.partition(":")[2] for digest in kept}
            for tree in self._trees.iterdir():
                if tree.name not in keys:
                    _move_unlocked(tree, workspace.path / f"tree-{tree.name}")
            for work in self._work.iterdir():
                _move_unlocked(work, workspace.path / f"work-{work.name}")
            needed = {layout.blob_path(self.root, blob) for digest in kept for blob in self._blobs(digest)}
            for blob in (self.root / "blobs").glob("*/*"):
                if blob not in needed:
                    blob.unlink()

    def drop_damaged(self, manifest: Manifest) -> bool:
        """Remove those blobs of an image whose content is not what their name says; whether there were any."""
        dropped = False
        for digest in manifest.blobs:
            path = layout.blob_path(self.root, digest)
            with suppress(FileNotFoundError), open(path, "rb") as file:
                if hashlib.file_digest(file, digest.partition(":")[0]).hexdigest() != path.name:
                    path.unlink()
                    dropped = True
        return dropped

    def _blobs(self, digest: str) -> tuple[str, ...]:
        """What an image consists of; of a damaged one only the manifest: its tree may still serve."""
        try:
            return layout.read_manifest(self.root, digest).blobs
        except LayoutBroken:
            return (digest,)

    def _sync(self) -> None:
        """Wait until everything written to the store's file system is on the disk: one call for any number of files."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(self.root))
        finally:
            os.close(fd)

    # -- the lock ---------------------------------------------------------------------------------------------

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other threads and processes from changing anything.

        Raises:
            RepositoryUnusable: somebody holds it for too long.
        """
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(int(limits.IMAGE_STORE_LOCK_SECONDS / _LOCK_PAUSE_SECONDS)):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(_LOCK_PAUSE_SECONDS)
            else:
                raise RepositoryUnusable(f"image store {self.root} is held by another process")
            yield
        finally:
            os.close(fd)


def _move_unlocked(source: Path, target: Path) -> None:
    """Move a directory away unless somebody holds it; what is no directory is none of ours."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        source.rename(target)
    except BlockingIOError:
        return
    finally:
        os.close(fd)
