"""Images made by hand, registries to fetch them from, and a store of their own for each test."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import gzip
import hashlib
import io
import json
import re
import subprocess
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from support.leaks import LeakCheck
from support.skips import require_command, require_root

from bulletin.cell.images.settings import ImageSettings
from bulletin.cell.images.store import ImageStore

Entry = tuple[tarfile.TarInfo, bytes]


class ImageKit:
    """Makes layers and OCI layouts entry by entry, proper and improper ones."""

    def file(self, name: str, content: bytes = b"", mode: int = 0o644, uid: int = 0, gid: int = 0, **pax: str) -> Entry:
        entry = tarfile.TarInfo(name)
        entry.mode, entry.uid, entry.gid, entry.size = mode, uid, gid, len(content)
        entry.pax_headers = {key.replace("__", "."): value for key, value in pax.items()}
        return entry, content

    def directory(self, name: str, mode: int = 0o755, uid: int = 0) -> Entry:
        entry, _ = self.file(name, mode=mode, uid=uid)
        entry.type = tarfile.DIRTYPE
        return entry, b""

    def link(self, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Entry:
        entry, _ = self.file(name)
        entry.type, entry.linkname = kind, target
        return entry, b""

    def device(self, name: str, kind: bytes, major: int, minor: int) -> Entry:
        entry, _ = self.file(name, mode=0o666)
        entry.type, entry.devmajor, entry.devminor = kind, major, minor
        return entry, b""

    def tar(self, *entries: Entry) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for entry, content in entries:
                archive.addfile(entry, io.BytesIO(content))
        return out.getvalue()

    def blob(self, layout: Path, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        directory = layout / "blobs" / "sha256"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def image(
        self,
        layout: Path,
        *layers: bytes,
        compression: str = "gzip",
        env: tuple[str, ...] = ("PATH=/bin",),
        **config: object,
    ) -> Path:
        """Write a layout with one image, tagged latest; ``config`` goes into its configuration."""
        descriptors = []
        for layer in layers:
            if compression == "gzip":
                packed = gzip.compress(layer, mtime=0)
            elif compression == "zstd":
                packed = subprocess.run(["zstd", "-c"], input=layer, capture_output=True, check=True).stdout
            else:
                packed = layer
            suffix = f"+{compression}" if compression else ""
            media_type = f"application/vnd.oci.image.layer.v1.tar{suffix}"
            descriptors.append({"mediaType": media_type, **self.blob(layout, packed)})
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": list(env), **config},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers],
            },
        }
        self.manifest(layout, json.dumps(document).encode(), descriptors)
        return layout

    def manifest(self, layout: Path, config: bytes, layers: list[dict[str, object]]) -> None:
        manifest_type = "application/vnd.oci.image.manifest.v1+json"
        document = {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **self.blob(layout, config)},
            "layers": layers,
        }
        entry = {
            "mediaType": manifest_type,
            **self.blob(layout, json.dumps(document).encode()),
            "annotations": {"org.opencontainers.image.ref.name": "latest"},
        }
        (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def digest(self, layout: Path) -> str:
        """Of the one manifest."""
        return str(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"])


@pytest.fixture
def kit() -> ImageKit:
    return ImageKit()


@dataclass
class Registry:
    """A real registry on a port of the loopback."""

    host: str
    credentials: str = ""

    def push(self, layout: Path, name: str, *options: str) -> str:
        """Put the image of a layout there; its docker URL, with ``name`` as ``path:tag``."""
        login = ["--dest-creds", self.credentials] if self.credentials else []
        target = f"docker://{self.host}/{name}"
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", *login, *options]
        subprocess.run([*command, f"oci:{layout}:latest", target], check=True, timeout=60)
        path, _, tag = name.partition(":")
        return f"docker://{self.host}/{path}#{tag}"


def _serve_registry(directory: Path, *more: str) -> Iterator[str]:
    require_command("docker-registry", "skopeo", "umoci")
    config = directory / "config.yml"
    config.write_text(
        "\n".join(
            (
                "version: 0.1",
                "log: {level: info, accesslog: {disabled: true}}",
                f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}",
                "http: {addr: '127.0.0.1:0'}",
                *more,
            )
        )
    )
    with subprocess.Popen(["docker-registry", "serve", str(config)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"listening on (127\.0\.0\.1:[0-9]+)", line):
                break
        else:
            pytest.fail(f"docker-registry did not start: {''.join(said)}")
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        try:
            yield found[1]
        finally:
            process.terminate()
            process.wait(10)
            reader.join()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry anybody may read and write."""
    require_root()
    for host in _serve_registry(tmp_path_factory.mktemp("registry")):
        yield Registry(host)


@pytest.fixture(scope="session")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry for bob, whose password is s3cret-of-bob, and nobody else."""
    require_root()
    directory = tmp_path_factory.mktemp("private-registry")
    passwords = directory / "htpasswd"
    passwords.write_text(f"bob:{_bcrypt('s3cret-of-bob')}\n")
    for host in _serve_registry(directory, f"auth: {{htpasswd: {{realm: test, path: {passwords}}}}}"):
        yield Registry(host, "bob:s3cret-of-bob")


def _bcrypt(password: str) -> str:
    """A password as the registry wants it; the C library of most systems can make one."""
    name = ctypes.util.find_library("crypt")
    hashed = None
    if name is not None:
        library = ctypes.CDLL(name)
        library.crypt.restype = ctypes.c_char_p
        hashed = library.crypt(password.encode(), b"$2b$05$abcdefghijklmnopqrstuu")
    if not hashed or not hashed.startswith(b"$2b$"):
        pytest.skip("no libcrypt that makes bcrypt hashes, so no registry with passwords")
    return str(hashed.decode())


@dataclass
class ScriptedRegistry:
    """A registry inside the test: it counts, stalls and fails as told."""

    layouts: dict[str, Path] = field(default_factory=dict)
    host: str = ""
    #: Paths asked for, in order.
    asked: list[str] = field(default_factory=list)
    #: Statuses to answer the next requests for manifests with, before any real answer.
    failures: list[int] = field(default_factory=list)
    #: When cleared, blobs are not handed out until it is set.
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set when somebody asks for a blob.
    blob_asked: asyncio.Event = field(default_factory=asyncio.Event)
    #: Bytes sent instead of the content of these blobs.
    forged: dict[str, bytes] = field(default_factory=dict)
    runner: web.AppRunner | None = None

    async def listen(self, address: str) -> str:
        """Listen on a free port of one more address; both."""
        assert self.runner is not None
        await web.TCPSite(self.runner, address, 0).start()
        return f"{address}:{self.runner.addresses[-1][1]}"

    def add(self, path: str, layout: Path) -> str:
        """Serve a layout's image under ``path``; its docker URL."""
        self.layouts[path] = layout
        return f"docker://{self.host}/{path}"

    @property
    def pulls(self) -> int:
        """How often a manifest was asked for."""
        return sum("/manifests/" in path for path in self.asked)

    @property
    def blobs(self) -> list[str]:
        """The digests of the blobs that were asked for."""
        return [path.rpartition("/")[2] for path in self.asked if "/blobs/" in path]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", request.path)
        if found is None:
            return web.Response()
        layout = self.layouts.get(found[1])
        if found[2] == "manifests":
            if self.failures:
                return web.Response(status=self.failures.pop(0))
            if layout is None:
                return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
            digest = ImageKit().digest(layout)
            content = (layout / "blobs" / "sha256" / digest.partition(":")[2]).read_bytes()
            return web.Response(body=content, content_type=json.loads(content)["mediaType"])
        assert layout is not None
        self.blob_asked.set()
        await self.gate.wait()
        content = (layout / "blobs" / "sha256" / found[3].partition(":")[2]).read_bytes()
        return web.Response(body=self.forged.get(found[3], content))


@pytest.fixture
async def scripted_registry() -> AsyncIterator[ScriptedRegistry]:
    require_root()
    require_command("skopeo", "umoci")
    scripted = ScriptedRegistry()
    scripted.gate.set()
    application = web.Application()
    application.router.add_get("/{path:.*}", scripted.answer)
    scripted.runner = web.AppRunner(application, shutdown_timeout=1.0)
    await scripted.runner.setup()
    scripted.host = await scripted.listen("127.0.0.1")
    yield scripted
    scripted.gate.set()
    await scripted.runner.cleanup()


@pytest.fixture
def settings() -> ImageSettings:
    """Those of the operator, with no pause before a retry."""
    return ImageSettings(pull_retry_seconds=0.0)


@pytest.fixture
async def store(tmp_path: Path, settings: ImageSettings) -> AsyncIterator[ImageStore]:
    """A store in ``tmp_path/store``; after the test nothing of its work may be left."""
    require_root()
    require_command("skopeo", "umoci")
    check = LeakCheck(machine=False, descriptors=True)
    try:
        async with ImageStore(tmp_path / "store", settings) as opened:
            yield opened
        assert list((tmp_path / "store" / "work").iterdir()) == []
        check.assert_clean()
    finally:
        # Its trees may be deeper than the test runner itself can remove.
        await asyncio.to_thread(subprocess.run, ["rm", "-rf", str(tmp_path / "store")], check=True)


@pytest.fixture
def tree_of() -> Callable[[Path], dict[str, str]]:
    """Describes a tree: relative path to the type, mode, owner and content of what is there."""

    def describe(root: Path) -> dict[str, str]:
        described = {}
        for path in sorted(root.rglob("*")):
            status = path.lstat()
            if path.is_symlink():
                kind = f"-> {path.readlink()}"
            elif path.is_dir():
                kind = "dir"
            elif path.is_file():
                kind = path.read_bytes().decode(errors="replace")
            else:
                kind = "special"
            described[str(path.relative_to(root))] = f"{status.st_mode & 0o7777:o} {status.st_uid} {kind}"
        return described

    return describe
