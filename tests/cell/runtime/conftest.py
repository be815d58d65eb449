"""A small image, a room of real containers, and a look at what it leaves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import pytest_asyncio
from support.leaks import LeakCheck
from support.skips import require_command, require_root

from bulletin.cell.images.api import Image, ImageRefused
from bulletin.cell.runtime.api import ContainerOrder, ProcessExit, Stream
from bulletin.cell.runtime.containers import Containers, ContainersSettings
from bulletin.cell.runtime.machine import find_init
from bulletin.core.actions import ResourceLimits, RunAction
from bulletin.core.definition import TaskDefinition

_BUSYBOX = shutil.which("busybox") or "/bin/busybox"
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nvcap:x:2000:2000::/home/vcap:/bin/sh\nfar:x:70000:70000::/:/bin/sh\n"
_GROUP = "root:x:0:\nvcap:x:2000:\nstaff:x:50:vcap\n"


def build_image(root: Path) -> None:
    """A root file system with nothing but busybox."""
    for name in ("bin", "etc", "tmp", "root", "home/vcap", "srv"):
        (root / name).mkdir(parents=True)
    shutil.copy(_BUSYBOX, root / "bin/busybox")
    applets = subprocess.run([_BUSYBOX, "--list"], capture_output=True, check=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(_PASSWD)
    (root / "etc/group").write_text(_GROUP)
    (root / "etc/secret").write_text("root only\n")
    (root / "etc/secret").chmod(0o600)
    (root / "bin/plain").write_text("no program\n")
    (root / "bin/lost").write_text("#!/no/such/shell\n")
    (root / "bin/lost").chmod(0o755)
    (root / "tmp").chmod(0o1777)
    os.chown(root / "home/vcap", 2000, 2000)
    # Busybox gives such rights up by itself, so it has to be another program.
    shutil.copy(find_init() or _BUSYBOX, root / "bin/set-user-id")
    (root / "bin/set-user-id").chmod(0o4755)


_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="module", autouse=True)
def no_subreaper_afterwards():
    """A room makes its process the parent of orphans; the tests of other rooms run in the same one and must not."""
    yield
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="session")
def image_directory(tmp_path_factory):
    if not Path(_BUSYBOX).exists():
        pytest.skip("busybox is missing: apt-get install busybox-static")
    require_root()
    root = tmp_path_factory.mktemp("image") / "rootfs"
    build_image(root)
    return root


@dataclass
class FakeImages:
    """An ``ImageSource`` that has one image."""

    rootfs: Path
    env: tuple[tuple[str, str], ...] = (("PATH", "/bin"), ("FROM_IMAGE", "yes"))
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    async def ensure(self, rootfs_url, username, password):
        self.asked.append((rootfs_url, username, password))
        if rootfs_url != "docker:///busybox":
            raise ImageRefused(f"no such image: {rootfs_url}")
        return Image(self.rootfs, self.env, "sha256:test")


@dataclass
class Outcome:
    """All that is seen of a task that ran one process."""

    exit: ProcessExit
    out: str
    err: str
    result: bytes | None


class Room:
    """Containers of one engine, with shorthands."""

    def __init__(self, containers: Containers, settings: ContainersSettings) -> None:
        self.containers = containers
        self.settings = settings

    def order(self, run, *, sole=True, guid=None, **definition):
        definition.setdefault("root_fs", "docker:///busybox")
        whole = TaskDefinition(action=run, **definition)
        return ContainerOrder(guid or f"task-{uuid.uuid4().hex[:12]}", whole, run if sole else None)

    def sh(self, script, **fields):
        fields.setdefault("user", "vcap")
        return RunAction(path="/bin/sh", args=("-c", script), **fields)

    @contextlib.asynccontextmanager
    async def container(self, run, **order):
        container = await self.containers.create(self.order(run, **order))
        try:
            yield container
        finally:
            await container.destroy()

    async def run(self, run, *, result=None, **order):
        """Run one process in a container of its own."""
        if isinstance(run, str):
            run = self.sh(run)
        async with self.container(run, **order) as container:
            output = Output()
            process = await container.spawn(run, output)
            ended = await process.wait()
            content = None if result is None else await container.read_result(result, 51_200)
            return Outcome(ended, output.out, output.err, content)


class Output:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.parts: list[tuple[Stream, bytes]] = []

    def __call__(self, stream, data):
        assert data
        self.parts.append((stream, data))

    def text(self, stream):
        return b"".join(data for other, data in self.parts if other is stream).decode()

    @property
    def out(self):
        return self.text(Stream.OUT)

    @property
    def err(self):
        return self.text(Stream.ERR)


@pytest.fixture(scope="session")
def run_directory():
    """A directory that root of a container can pass through, as those of pytest are not."""
    require_root()
    path = Path(tempfile.mkdtemp(prefix="bulletin-test-", dir="/run"))
    yield path
    path.rmdir()


@pytest.fixture(scope="session")
def make_settings(run_directory):
    def make(data, **changes):
        cell_id = f"test-{uuid.uuid4().hex[:12]}"
        return replace(ContainersSettings(data=data, cell_id=cell_id, run=run_directory), **changes)

    return make


@contextlib.asynccontextmanager
async def opened(settings, images):
    """A room that is open, proven to leave nothing when it is closed."""
    settings.data.mkdir(parents=True, exist_ok=True)
    check = LeakCheck(directories=[settings.data, settings.run], scope=settings.cell_id, descriptors=True)
    containers = Containers(settings, images)
    await containers.open()
    try:
        yield Room(containers, settings)
    finally:
        await containers.close()
    check.assert_clean()


@pytest.fixture
def open_room(image_directory, make_settings, tmp_path):
    """Open a room in a test of its own; use as ``async with open_room(engine="crun") as room``."""
    require_command("catatonit")

    def open_it(images=None, **changes):
        if changes.get("engine", "auto") != "auto":
            require_command(changes["engine"])
        return opened(make_settings(tmp_path / "data", **changes), images or FakeImages(image_directory))

    return open_it


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["crun", "runc"])
async def room(request, image_directory, make_settings, tmp_path_factory):
    """A room for all tests of a module, once under each engine."""
    require_command("catatonit", request.param)
    settings = make_settings(tmp_path_factory.mktemp("room") / "data", engine=request.param)
    async with opened(settings, FakeImages(image_directory)) as made:
        yield made


@pytest.fixture
def limits():
    return lambda **fields: ResourceLimits(**fields)
