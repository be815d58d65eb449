"""The images of a cell: found on this machine, else fetched once, unpacked once, shared by every container.

``ensure`` looks in memory, then in the store, then asks the registry. However many tasks wait for one image, one pull
is under way; each waiter may be cancelled without the others noticing, and a pull nobody waits for any more is
cancelled too. Everything unfinished lies in a workspace of its own, so at no moment a half is found in the store.

An image fetched with credentials is *private*: another task gets it only after the registry has accepted that task's
own credentials; what it shares with what is already here is not fetched again. Credentials are remembered as keyed
hashes, in memory, as long as the process lives.

Known wart: a tag is looked up in the registry once. What it pointed at then is used until ``pull`` or ``remove``.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog

from bulletin.cell.images.api import Image, ImageRefused
from bulletin.cell.images.fetching import Credentials, FetchFailed, fetch_image
from bulletin.cell.images.flights import Flights, FlightsEnded
from bulletin.cell.images.importing import build_layout, parse_source
from bulletin.cell.images.index import ImageRecord, Names, Origin
from bulletin.cell.images.layout import LayoutBroken, Manifest, blob_path, read_layout
from bulletin.cell.images.packing import SourceUnusable
from bulletin.cell.images.references import (
    DockerReference,
    PreloadedReference,
    ReferenceInvalid,
    parse_image_name,
    parse_reference,
    parse_rootfs,
)
from bulletin.cell.images.repository import Lease, Repository, RepositoryUnusable, Workspace
from bulletin.cell.images.settings import ImageSettings
from bulletin.cell.images.tools import Progress, TooLarge, ToolFailed, finish, remove_tree
from bulletin.cell.images.unpacking import unpack_image
from bulletin.core import limits
from bulletin.seams import Clock, SystemClock

__all__ = ["ImageStore"]

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)

#: Another process may remove an image between our fetching it and our holding it; it will hardly do so twice.
_TRIES: Final = 3
_PROOF_BYTES: Final = 16


@dataclass(slots=True)
class _Held:
    """An image that containers stand on."""

    lease: Lease
    image: Image
    uses: int = 0


class ImageStore:
    """Satisfies ``ImageSource``. Used on one loop; any number of processes may have a store on the same directory.

    Args:
        root: the store's own directory, conventionally ``<data>/cell/images``; made by ``open``.
        settings: of the operator.
        clock: for when an image came.
    """

    def __init__(self, root: Path, settings: ImageSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = SystemClock() if clock is None else clock
        self._repository = Repository(root)
        self._opening = asyncio.Lock()
        self._opened = False
        self._slots = asyncio.Semaphore(settings.pulls_max)
        self._flights: Flights[ImageRecord | None] = Flights()
        self._held: dict[str, _Held] = {}
        self._generation = -1
        self._warm: dict[tuple[str, bytes], str] = {}
        self._proof_key = secrets.token_bytes(_PROOF_BYTES)
        #: (name, proof) to the digest the registry gave to whoever showed these credentials.
        self._proven: dict[tuple[str, bytes], str] = {}

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Make the directory, start removing what dead processes left. Idempotent; the first use does it, too.

        Raises:
            ImageRefused: the directory cannot be used.
        """
        async with self._opening:
            if not self._opened:
                try:
                    await asyncio.to_thread(self._repository.open)
                except RepositoryUnusable as error:
                    raise ImageRefused(str(error)) from error
                self._opened = True
                self._flights.start(self._sweep())

    async def close(self) -> None:
        """End what is under way, let go of every image. Idempotent."""
        await self._flights.end()
        for held in self._held.values():
            held.lease.close()
        self._held.clear()
        self._warm.clear()
        self._repository.close()
        self._opened = False

    # -- for containers ---------------------------------------------------------------------------------------

    async def ensure(self, rootfs_url: str, username: str, password: str) -> Image:
        """See ``ImageSource``. Each answer counts as one use of the image until ``release``."""
        key = (rootfs_url, self._proof(username, password))
        return self._ensure_warm(key) or await self._ensure(key, username, password)

    def release(self, image: Image) -> None:
        """Give back what one ``ensure`` answered. An image nobody uses may be removed."""
        held = self._held.get(image.digest)
        if held is not None:
            held.uses -= 1
            if held.uses <= 0:
                del self._held[image.digest]
                held.lease.close()

    def _ensure_warm(self, key: tuple[str, bytes]) -> Image | None:
        """An image asked for before, if the index is still the one it was found in."""
        digest = self._warm.get(key)
        if digest is None:
            return None
        try:
            if self._repository.generation() == self._generation:
                return self._hold(digest)
        except OSError:
            pass  # The slow way says what is wrong.
        self._warm.clear()
        return None

    async def _ensure(self, key: tuple[str, bytes], username: str, password: str) -> Image:
        url, proof = key
        credentials = _credentials(username, password)
        reference = _parsed(parse_rootfs, url)
        if isinstance(reference, PreloadedReference):
            return self._preloaded(reference.stack)
        with _refusals(reference.name):
            await self.open()
            for _ in range(_TRIES):
                snapshot = await asyncio.to_thread(self._repository.read)
                record = self._find(snapshot.names, reference, proof)
                if record is None:
                    await self._pull(reference, credentials, proof, _unheard)
                elif (image := self._hold(record.digest)) is not None:
                    self._remember(key, record.digest, snapshot.generation)
                    return image
                else:
                    await self._unpack_again(record)
        raise ImageRefused(f"{reference.name}: removed while it was being fetched")

    def _preloaded(self, stack: str) -> Image:
        path = self._settings.preloaded.get(stack)
        if path is None:
            raise ImageRefused(f"no root file system {ascii(stack)[:100]} is preloaded on this cell")
        try:
            status = path.stat()
            if not path.is_dir():
                raise NotADirectoryError
        except OSError as error:
            raise ImageRefused(f"the root file system of {ascii(stack)[:100]} is not in its place") from error
        content = f"preloaded:{stack}:{status.st_dev}:{status.st_ino}:{status.st_mtime_ns}"
        return Image(rootfs=path, env=(), digest=content)

    def _find(self, names: Names, reference: DockerReference, proof: bytes) -> ImageRecord | None:
        """The record that answers a reference, if whoever asks may have it."""
        public = names.get((reference.name, False))
        if public is not None:
            return public
        if proof:
            private = names.get((reference.name, True))
            if private is not None and self._proven.get((reference.name, proof)) == private.digest:
                return private
        if reference.digest:
            start = (f"{reference.repository}:", f"{reference.repository}@")
            for record in names.values():
                if record.digest == reference.digest and not record.private and record.name.startswith(start):
                    return record
        return None

    def _hold(self, digest: str) -> Image | None:
        """Count one more use of an unpacked image; None if it is not unpacked."""
        held = self._held.get(digest)
        if held is None:
            lease = self._repository.lease(digest)
            if lease is None:
                return None
            held = _Held(lease, Image(rootfs=lease.tree.rootfs, env=lease.tree.env, digest=digest))
            self._held[digest] = held
        held.uses += 1
        return held.image

    def _remember(self, key: tuple[str, bytes], digest: str, generation: int) -> None:
        """Let the next ``ensure`` of the same find it at once, as long as the index stays the one of ``generation``."""
        if generation != self._generation or len(self._warm) >= limits.IMAGES_MAX:
            self._warm.clear()
        self._generation = generation
        self._warm[key] = digest

    def _proof(self, username: str, password: str) -> bytes:
        """What stands for credentials in memory; empty for none."""
        if not username and not password:
            return b""
        text = f"{len(username)}:{username}{password}".encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, key=self._proof_key, digest_size=_PROOF_BYTES).digest()

    # -- for people -------------------------------------------------------------------------------------------

    async def list(self) -> tuple[ImageRecord, ...]:
        """The images of the store, by name.

        Raises:
            ImageRefused: the store cannot be read.
        """
        with _refusals("images"):
            await self.open()
            names = (await asyncio.to_thread(self._repository.read)).names
        return tuple(names[key] for key in sorted(names))

    async def pull(
        self, url: str, progress: Progress | None = None, *, username: str = "", password: str = ""
    ) -> ImageRecord:
        """Fetch an image whether or not one of its name is here; the name then means the new one.

        Args:
            url: a docker URL or a plain reference.
            progress: hears what is being done.
            username: for the registry; empty for none.
            password: likewise.

        Raises:
            ImageRefused: it cannot be had.
        """
        reference = _parsed(parse_reference, url)
        credentials = _credentials(username, password)
        with _refusals(reference.name):
            await self.open()
            record = await self._pull(reference, credentials, self._proof(username, password), progress or _unheard)
        self._flights.start(self._sweep())
        return record

    async def import_image(self, reference: str, source: str, progress: Progress | None = None) -> ImageRecord:
        """Take in an image from this machine; ``docker:///<reference>`` then means it.

        Args:
            reference: the name to give it, such as ``busybox`` or ``example.com/team/app:1``.
            source: see ``importing``.
            progress: hears what is being done.

        Raises:
            ImageRefused: no image can be made of it.
        """
        name = _parsed(parse_image_name, reference).name
        heard = progress or _unheard
        with _refusals(name):
            await self.open()
            async with self._slots, self._workspace() as workspace:
                layout = workspace.path / "layout"
                manifest = await build_layout(parse_source(source), layout, workspace, self._settings, heard)
                record = await self._adopt(name, manifest, layout, workspace, Origin.IMPORTED, heard)
        self._flights.start(self._sweep())
        return record

    async def remove(self, name: str) -> None:
        """Forget an image; what only it needed is removed, as soon as no container stands on it.

        Args:
            name: as ``list`` shows it, or any other way to write it.

        Raises:
            ImageRefused: there is no image of that name.
        """
        reference = _parsed(parse_reference, name)
        with _refusals(reference.name):
            await self.open()
            if not await asyncio.to_thread(self._repository.forget, reference.name):
                raise ImageRefused(f"{reference.name}: there is no such image here")
        self._flights.start(self._sweep())

    # -- work -------------------------------------------------------------------------------------------------

    async def _pull(
        self, reference: DockerReference, credentials: Credentials | None, proof: bytes, progress: Progress
    ) -> ImageRecord:
        async def work() -> ImageRecord:
            async with self._slots, self._workspace() as workspace:
                layout = workspace.path / "layout"
                await asyncio.to_thread(self._repository.seed, layout)
                await fetch_image(reference, layout, workspace, self._settings, credentials, progress)
                manifest = await asyncio.to_thread(read_layout, layout)
                return await self._adopt(
                    reference.name, manifest, layout, workspace, Origin.PULLED, progress, private=bool(proof)
                )

        record = await self._flights.join(("pull", reference.name, proof), work)
        assert record is not None
        if proof:
            if len(self._proven) >= limits.IMAGES_MAX:
                self._proven.clear()
            self._proven[reference.name, proof] = record.digest
        return record

    async def _unpack_again(self, record: ImageRecord) -> None:
        """Unpack an image whose tree is gone; one whose blobs are damaged too is forgotten, to be pulled again."""

        async def work() -> ImageRecord:
            async with self._slots, self._workspace() as workspace:
                layout = workspace.path / "layout"
                manifest = await asyncio.to_thread(self._repository.view, record.digest, layout)
                return await self._adopt(
                    record.name, manifest, layout, workspace, record.origin, _unheard, private=record.private
                )

        try:
            await self._flights.join(("unpack", record.digest), work)
        except LayoutBroken as error:
            if record.origin is Origin.IMPORTED:
                raise ImageRefused(f"{record.name}: {error}; import it again") from error
            await asyncio.to_thread(self._repository.forget, record.name)

    async def _adopt(
        self,
        name: str,
        manifest: Manifest,
        layout: Path,
        workspace: Workspace,
        origin: Origin,
        progress: Progress,
        *,
        private: bool = False,
    ) -> ImageRecord:
        """Unpack an image, unless it is already, and put it into the store under a name."""
        stored = sum(blob_path(layout, digest).stat().st_size for digest in dict.fromkeys(manifest.blobs))
        if stored > self._settings.image_bytes_max:
            raise TooLarge(f"it takes more than {self._settings.image_bytes_max} bytes")
        tree: Path | None = None
        lease = self._repository.lease(manifest.digest)
        if lease is not None:
            unpacked_bytes = lease.tree.unpacked_bytes
        else:
            tree = workspace.path / "tree"
            try:
                usage = await unpack_image(layout, manifest, tree, workspace, self._settings, progress)
            except ToolFailed as error:
                # Blobs of the store were trusted until now; the next try shall not find damaged ones again.
                if await asyncio.to_thread(self._repository.drop_damaged, manifest):
                    raise LayoutBroken("a part of it was damaged on the disk of this machine") from error
                raise
            unpacked_bytes = usage.used_bytes
        try:
            record = ImageRecord(
                name=name,
                digest=manifest.digest,
                manifest_bytes=manifest.size_bytes,
                stored_bytes=stored,
                unpacked_bytes=unpacked_bytes,
                added_at_ns=self._clock.now_ns(),
                origin=origin,
                private=private,
            )
            await finish(asyncio.to_thread(self._repository.adopt, record, manifest, layout, tree))
        finally:
            if lease is not None:
                lease.close()
        _log.info("image added", image=name, digest=record.digest, origin=origin.value, unpacked_bytes=unpacked_bytes)
        return record

    @asynccontextmanager
    async def _workspace(self) -> AsyncIterator[Workspace]:
        """A workspace that is removed afterwards, whatever happens."""
        making = asyncio.ensure_future(asyncio.to_thread(self._repository.new_workspace))
        try:
            await finish(asyncio.wait((making,)))
            yield making.result()
        finally:
            if making.done() and making.exception() is None:
                await finish(self._discard(making.result()))

    async def _discard(self, workspace: Workspace) -> None:
        try:
            await remove_tree(workspace.path)
        except (ToolFailed, OSError) as error:
            _log.warning("image workspace left for the next sweep", path=str(workspace.path), error=str(error))
        finally:
            workspace.close()

    async def _sweep(self) -> None:
        """Remove what nobody needs."""
        try:
            async with self._workspace() as workspace:
                await asyncio.to_thread(self._repository.sweep, workspace)
        except (OSError, RepositoryUnusable) as error:
            _log.warning("image store not swept", error=str(error))


def _unheard(_: str) -> None:
    """Progress nobody asked for."""


def _credentials(username: str, password: str) -> Credentials | None:
    """Both or none (cell.md 5.1)."""
    if bool(username) != bool(password):
        raise ImageRefused("image_username and image_password must be given together")
    if ":" in username:
        raise ImageRefused("image_username must not contain a colon")
    return Credentials(username, password) if username else None


def _parsed(parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except ReferenceInvalid as error:
        raise ImageRefused(str(error)) from error


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turn what the rooms below raise for a reason users have to hear into ``ImageRefused``."""
    try:
        yield
    except (FetchFailed, RepositoryUnusable) as error:
        raise ImageRefused(str(error)) from error
    except (LayoutBroken, SourceUnusable, ToolFailed, TooLarge) as error:
        raise ImageRefused(f"{name}: {error}") from error
    except OSError as error:
        raise ImageRefused(f"{name}: {error.strerror or error}") from error
    except FlightsEnded as error:
        raise ImageRefused(f"{name}: the image store was closed") from error
