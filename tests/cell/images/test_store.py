"""The store with real registries, skopeo and umoci."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.skips import needs_command

from bulletin.cell.images.api import ImageRefused
from bulletin.cell.images.index import Origin
from bulletin.cell.images.store import ImageStore

pytestmark = pytest.mark.system


def trees(store_root: Path) -> list[str]:
    return sorted(path.name for path in (store_root / "trees").iterdir())


def blobs(store_root: Path) -> set[str]:
    return {f"sha256:{path.name}" for path in (store_root / "blobs" / "sha256").iterdir()}


def command_lines() -> list[bytes]:
    """Of every process there is."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines.append((process / "cmdline").read_bytes())
    return lines


@pytest.fixture
def two_layers(kit, tmp_path) -> Path:
    """Files of several owners and modes, and a second layer that removes, replaces and adds."""
    first = kit.tar(
        kit.directory("etc"),
        kit.file("etc/gone", b"x"),
        kit.file("etc/kept", b"kept", mode=0o640, uid=7),
        kit.directory("opaque"),
        kit.file("opaque/old", b"old"),
        kit.directory("home"),
        kit.directory("home/vcap", uid=2000),
        kit.file("home/vcap/.profile", b"hi", uid=2000),
    )
    second = kit.tar(
        kit.file("etc/.wh.gone"),
        kit.file("opaque/.wh..wh..opq"),
        kit.file("opaque/new", b"new"),
        kit.file("su", b"#!", mode=0o4755),
        kit.link("su2", "su", tarfile.LNKTYPE),
        kit.link("way", "/etc/kept"),
        kit.directory("tmp", mode=0o1777),
    )
    return kit.image(tmp_path / "two-layers", first, second, env=("PATH=/bin", "A=b=c", "odd", "A=d"), User="vcap")


EXPECTED = {
    "etc": "755 0 dir",
    "etc/kept": "640 7 kept",
    "home": "755 0 dir",
    "home/vcap": "755 2000 dir",
    "home/vcap/.profile": "644 2000 hi",
    "opaque": "755 0 dir",
    "opaque/new": "644 0 new",
    "su": "4755 0 #!",
    "su2": "4755 0 #!",
    "tmp": "1777 0 dir",
    "way": "777 0 -> /etc/kept",
}


async def test_layers_become_one_tree_with_the_ids_of_the_image(store, registry, two_layers, tree_of) -> None:
    image = await store.ensure(registry.push(two_layers, "team/two:v1"), "", "")
    assert tree_of(image.rootfs) == EXPECTED
    assert (image.rootfs / "su").stat().st_ino == (image.rootfs / "su2").stat().st_ino
    assert image.rootfs.stat().st_mode & 0o7777 == 0o755
    assert image.env == (("PATH", "/bin"), ("A", "b=c"), ("A", "d"))


async def test_an_image_is_found_by_tag_digest_and_default_tag(store, registry, kit, two_layers) -> None:
    url = registry.push(two_layers, "forms:latest").removesuffix("#latest")
    digest = kit.digest(two_layers)
    by_default = await store.ensure(url, "", "")
    by_tag = await store.ensure(f"{url}#latest", "", "")
    by_digest = await store.ensure(f"{url}@{digest}", "", "")
    assert by_default == by_tag == by_digest
    assert by_default.digest == digest
    assert [record.name for record in await store.list()] == [f"{registry.host}/forms:latest"]


async def test_an_image_asked_for_by_digest_first_is_pulled_by_it(store, registry, kit, two_layers) -> None:
    url = registry.push(two_layers, "pinned:v1").removesuffix("#v1")
    digest = kit.digest(two_layers)
    assert (await store.ensure(f"{url}@{digest}", "", "")).digest == digest
    assert [record.name for record in await store.list()] == [f"{registry.host}/pinned@{digest}"]


async def test_a_docker_manifest_is_as_good(store, registry, two_layers, tree_of) -> None:
    image = await store.ensure(registry.push(two_layers, "docker:v2", "--format", "v2s2"), "", "")
    assert tree_of(image.rootfs) == EXPECTED


@needs_command("zstd")
async def test_zstd_layers_are_read(store, scripted_registry, kit, tmp_path, tree_of) -> None:
    layer = kit.tar(kit.file("a", b"packed by zstd"))
    url = scripted_registry.add("zstd", kit.image(tmp_path / "zstd", layer, compression="zstd"))
    assert tree_of((await store.ensure(url, "", "")).rootfs) == {"a": "644 0 packed by zstd"}


async def test_uncompressed_layers_are_read(store, scripted_registry, kit, tmp_path, tree_of) -> None:
    layer = kit.tar(kit.file("a", b"plain"))
    url = scripted_registry.add("plain", kit.image(tmp_path / "plain", layer, compression=""))
    assert tree_of((await store.ensure(url, "", "")).rootfs) == {"a": "644 0 plain"}


@pytest.mark.parametrize("name", ["nobody/here", "there#nope", "there@sha256:" + "0" * 64])
async def test_what_the_registry_has_not_is_not_found(store, registry, two_layers, name) -> None:
    registry.push(two_layers, "there:v1")
    with pytest.raises(ImageRefused, match=r"^127\.0\.0\.1:[0-9]+/(nobody/here|there)[:@]\S+: not found$"):
        await store.ensure(f"docker://{registry.host}/{name}", "", "")
    assert await store.list() == ()


async def test_a_registry_that_is_not_there(store, unused_port) -> None:
    with pytest.raises(ImageRefused, match="/app:latest: the registry cannot be reached$"):
        await store.ensure(f"docker://127.0.0.1:{unused_port()}/app", "", "")


async def test_a_registry_that_fails_is_asked_again_a_bounded_number_of_times(
    store, scripted_registry, two_layers
) -> None:
    url = scripted_registry.add("shaky", two_layers)
    scripted_registry.failures = [500, 503]
    assert (await store.ensure(url, "", "")).env
    assert scripted_registry.pulls == 3
    scripted_registry.failures = [500] * 10
    with pytest.raises(ImageRefused, match="the registry failed$"):
        await store.pull(url)
    assert scripted_registry.pulls == 6


async def test_a_refusal_is_final(store, scripted_registry, two_layers) -> None:
    url = scripted_registry.add("closed", two_layers)
    scripted_registry.failures = [403]
    with pytest.raises(ImageRefused, match="unauthorized$"):
        await store.ensure(url, "", "")
    assert scripted_registry.pulls == 1


async def test_a_forged_layer_is_refused(store, scripted_registry, kit, two_layers, tmp_path) -> None:
    url = scripted_registry.add("forged", two_layers)
    other = kit.image(tmp_path / "other", kit.tar(kit.file("evil", b"x")))
    content = next(path for path in (other / "blobs" / "sha256").iterdir() if path.read_bytes()[:2] == b"\x1f\x8b")
    for path in (two_layers / "blobs" / "sha256").iterdir():
        if path.read_bytes()[:2] == b"\x1f\x8b":
            scripted_registry.forged[f"sha256:{path.name}"] = content.read_bytes()
    with pytest.raises(ImageRefused, match="it arrived damaged$"):
        await store.ensure(url, "", "")
    assert trees(tmp_path / "store") == []


async def test_an_image_for_another_system_is_refused(store, scripted_registry, kit, tmp_path) -> None:
    layout = tmp_path / "windows"
    config = {"os": "windows", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}
    kit.manifest(layout, str(config).replace("'", '"').encode(), [])
    with pytest.raises(ImageRefused, match="not for Linux but for 'windows'"):
        await store.ensure(scripted_registry.add("windows", layout), "", "")


# -- sharing ----------------------------------------------------------------------------------------------------


async def test_many_tasks_wait_for_one_pull(store, scripted_registry, two_layers) -> None:
    url = scripted_registry.add("one", two_layers)
    scripted_registry.gate.clear()
    waiters = [asyncio.create_task(store.ensure(url, "", "")) for _ in range(20)]
    await scripted_registry.blob_asked.wait()
    # Some give up; the others must not notice, and whoever comes late joins the same pull.
    for waiter in waiters[:5]:
        waiter.cancel()
    late = asyncio.create_task(store.ensure(url, "", ""))
    ended = await asyncio.gather(*waiters[:5], return_exceptions=True)
    assert all(isinstance(error, asyncio.CancelledError) for error in ended)
    scripted_registry.gate.set()
    images = await asyncio.gather(*waiters[5:], late)
    assert len({image.rootfs for image in images}) == 1
    assert scripted_registry.pulls == 1


async def test_a_pull_nobody_waits_for_ends_and_leaves_nothing(store, scripted_registry, two_layers, tmp_path) -> None:
    url = scripted_registry.add("unwanted", two_layers)
    scripted_registry.gate.clear()
    waiters = [asyncio.create_task(store.ensure(url, "", "")) for _ in range(3)]
    await scripted_registry.blob_asked.wait()
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    await store.close()
    assert list((tmp_path / "store" / "work").iterdir()) == []
    assert trees(tmp_path / "store") == []
    assert blobs(tmp_path / "store") == set()


async def test_a_failure_reaches_every_waiter_and_is_not_remembered(store, scripted_registry, two_layers) -> None:
    url = scripted_registry.add("later", two_layers)
    scripted_registry.failures = [403]
    waiters = [asyncio.create_task(store.ensure(url, "", "")) for _ in range(3)]
    failures = await asyncio.gather(*waiters, return_exceptions=True)
    assert [str(failure) for failure in failures] == [f"{scripted_registry.host}/later:latest: unauthorized"] * 3
    assert (await store.ensure(url, "", "")).env


async def test_closing_ends_a_pull_and_tells_who_waits(store, scripted_registry, two_layers) -> None:
    scripted_registry.gate.clear()
    waiter = asyncio.create_task(store.ensure(scripted_registry.add("closing", two_layers), "", ""))
    await scripted_registry.blob_asked.wait()
    await store.close()
    with pytest.raises(ImageRefused, match="the image store was closed"):
        await waiter


async def test_layers_that_are_here_are_not_fetched_again(store, scripted_registry, kit, tmp_path) -> None:
    base = kit.tar(kit.file("base", os.urandom(3000)))
    first = kit.image(tmp_path / "first", base)
    second = kit.image(tmp_path / "second", base, kit.tar(kit.file("top", b"top")))
    await store.ensure(scripted_registry.add("first", first), "", "")
    before = len(scripted_registry.blobs)
    image = await store.ensure(scripted_registry.add("second", second), "", "")
    assert {path.name for path in image.rootfs.iterdir()} == {"base", "top"}
    # Its configuration and the layer on top.
    assert len(scripted_registry.blobs) - before == 2


async def test_a_name_here_is_not_looked_up_again_until_it_is_pulled(store, scripted_registry, kit, tmp_path) -> None:
    old = kit.image(tmp_path / "old", kit.tar(kit.file("old")))
    new = kit.image(tmp_path / "new", kit.tar(kit.file("new")))
    url = scripted_registry.add("moving", old)
    await store.ensure(url, "", "")
    scripted_registry.add("moving", new)
    assert (await store.ensure(url, "", "")).digest == kit.digest(old)
    assert scripted_registry.pulls == 1
    said: list[str] = []
    record = await store.pull(url, said.append)
    assert record.digest == kit.digest(new)
    assert said[0] == f"pulling {record.name}"
    assert "unpacking" in said
    assert (await store.ensure(url, "", "")).digest == kit.digest(new)


# -- credentials ------------------------------------------------------------------------------------------------


async def test_credentials_are_asked_for_and_checked(store, private_registry, two_layers, caplog, capfd) -> None:
    url = private_registry.push(two_layers, "secret:v1")
    for username, password in (("", ""), ("bob", "wr0ng-password")):
        with pytest.raises(ImageRefused, match="/secret:v1: unauthorized$"):
            await store.ensure(url, username, password)
    image = await store.ensure(url, "bob", "s3cret-of-bob")
    assert image.env
    said = caplog.text + "".join(capfd.readouterr()) + repr([await store.list(), vars(store)])
    for secret in ("s3cret-of-bob", "wr0ng-password", "Ym9iOnMzY3JldC1vZi1ib2I="):
        assert secret not in said


async def test_a_private_image_is_nobody_elses(store, private_registry, two_layers, tmp_path, settings) -> None:
    url = private_registry.push(two_layers, "mine:v1")
    await store.ensure(url, "bob", "s3cret-of-bob")
    for username, password in (("", ""), ("bob", "guess"), ("eve", "s3cret-of-bob")):
        with pytest.raises(ImageRefused, match="unauthorized$"):
            await store.ensure(url, username, password)
    assert [record.private for record in await store.list()] == [True]
    # Another process knows no proof, asks the registry again, and uses what is here.
    async with ImageStore(tmp_path / "store", settings) as other:
        with pytest.raises(ImageRefused, match="unauthorized$"):
            await other.ensure(url, "", "")
        assert (await other.ensure(url, "bob", "s3cret-of-bob")).env


async def test_a_private_image_cannot_be_had_by_its_digest(store, private_registry, kit, two_layers) -> None:
    url = private_registry.push(two_layers, "by-digest:v1")
    record = await store.pull(url, username="bob", password="s3cret-of-bob")
    assert record.private
    for digest in (record.digest, kit.digest(two_layers)):
        with pytest.raises(ImageRefused, match="unauthorized$"):
            await store.ensure(f"{url.removesuffix('#v1')}@{digest}", "", "")


async def test_the_operators_own_logins_are_not_lent_to_tasks(
    store, private_registry, two_layers, tmp_path, monkeypatch
) -> None:
    url = private_registry.push(two_layers, "lent:v1")
    login = json.dumps({"auths": {private_registry.host: {"auth": "Ym9iOnMzY3JldC1vZi1ib2I="}}})
    for path in ("home/.docker/config.json", "home/.config/containers/auth.json"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(login)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ImageRefused, match="unauthorized$"):
        await store.ensure(url, "", "")


async def test_credentials_are_never_on_a_command_line_or_a_disk(
    store, scripted_registry, two_layers, tmp_path
) -> None:
    url = scripted_registry.add("watched", two_layers)
    scripted_registry.gate.clear()
    waiter = asyncio.create_task(store.ensure(url, "bob", "pass-to-look-for"))
    await scripted_registry.blob_asked.wait()
    lines = command_lines()
    assert any(b"skopeo" in line and b"/watched" in line for line in lines)
    files = [path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()]
    for secret in (b"pass-to-look-for", b"Ym9iOnBhc3MtdG8tbG9vay1mb3I="):
        assert not any(secret in content for content in (*lines, *files))
    scripted_registry.gate.set()
    await waiter


@pytest.mark.parametrize(("username", "password"), [("bob", ""), ("", "x"), ("a:b", "x")])
async def test_credentials_come_together(store, scripted_registry, two_layers, username, password) -> None:
    url = scripted_registry.add("half", two_layers)
    with pytest.raises(ImageRefused, match="image_username"):
        await store.ensure(url, username, password)
    assert scripted_registry.asked == []


async def test_plain_http_needs_loopback_or_a_setting(scripted_registry, two_layers, settings, tmp_path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; it only chooses the address to send from
        except OSError:
            pytest.skip("this machine has no address but those of loopback")
        host = await scripted_registry.listen(probe.getsockname()[0])
    scripted_registry.add("app", two_layers)
    async with ImageStore(tmp_path / "strict", settings) as strict:
        with pytest.raises(ImageRefused, match="the registry speaks plain HTTP, which is not allowed for it$"):
            await strict.ensure(f"docker://{host}/app", "", "")
    lax = dataclasses.replace(settings, insecure_registries=frozenset({host}))
    async with ImageStore(tmp_path / "lax", lax) as store:
        assert (await store.ensure(f"docker://{host}/app", "", "")).env


# -- preloaded --------------------------------------------------------------------------------------------------


async def test_preloaded_is_a_directory_of_the_operator(settings, tmp_path) -> None:
    stack = tmp_path / "stack"
    stack.mkdir()
    chosen = dataclasses.replace(settings, preloaded={"cflinuxfs4": stack, "gone": tmp_path / "gone"})
    async with ImageStore(tmp_path / "store", chosen) as store:
        image = await store.ensure("preloaded:cflinuxfs4", "", "")
        assert (image.rootfs, image.env) == (stack, ())
        assert image == await store.ensure("preloaded:cflinuxfs4", "", "")
        store.release(image)
        with pytest.raises(ImageRefused, match="no root file system 'other' is preloaded on this cell"):
            await store.ensure("preloaded:other", "", "")
        with pytest.raises(ImageRefused, match="'gone' is not in its place"):
            await store.ensure("preloaded:gone", "", "")


@pytest.mark.parametrize("url", ["", "nothing", "docker:///Up", "garden://x"])
async def test_a_bad_reference_is_refused(store, url) -> None:
    with pytest.raises(ImageRefused):
        await store.ensure(url, "", "")


# -- removal ----------------------------------------------------------------------------------------------------


async def test_removing_frees_what_only_it_needed(store, scripted_registry, kit, tmp_path) -> None:
    base = kit.tar(kit.file("base", b"base"))
    first = kit.image(tmp_path / "first", base)
    second = kit.image(tmp_path / "second", base, kit.tar(kit.file("top", b"top")))
    kept = await store.pull(scripted_registry.add("first", first))
    gone = await store.pull(scripted_registry.add("second", second))
    await store.remove(gone.name)
    await store.close()
    assert trees(tmp_path / "store") == [kept.digest.partition(":")[2]]
    assert blobs(tmp_path / "store") == {f"sha256:{path.name}" for path in (first / "blobs" / "sha256").iterdir()}


async def test_an_image_in_use_stays_until_it_is_released(store, registry, two_layers, settings, tmp_path) -> None:
    url = registry.push(two_layers, "used:v1")
    image = await store.ensure(url, "", "")
    assert image is await store.ensure(url, "", "")
    # Another process, as the command line is, removes it.
    async with ImageStore(tmp_path / "store", settings) as other:
        await other.remove(url)
        assert await other.list() == ()
    assert (image.rootfs / "etc" / "kept").read_text() == "kept"
    store.release(image)
    async with ImageStore(tmp_path / "store", settings):
        pass
    assert image.rootfs.exists()
    store.release(image)
    async with ImageStore(tmp_path / "store", settings):
        pass
    assert not image.rootfs.exists()
    # It is not answered from memory either.
    assert (await store.ensure(url, "", "")).rootfs.exists()


async def test_what_is_not_here_cannot_be_removed(store) -> None:
    with pytest.raises(ImageRefused, match=r"^docker\.io/library/nothing:latest: there is no such image here$"):
        await store.remove("nothing")


async def test_a_lost_tree_is_unpacked_again_without_the_registry(store, registry, two_layers, tmp_path) -> None:
    url = registry.push(two_layers, "lost:v1")
    record = await store.pull(url)
    shutil.rmtree(tmp_path / "store" / "trees" / record.digest.partition(":")[2])
    before = (await store.list())[0]
    image = await store.ensure(url, "", "")
    assert (image.rootfs / "etc" / "kept").read_text() == "kept"
    after = (await store.list())[0]
    assert (after.digest, after.name, after.origin) == (before.digest, before.name, Origin.PULLED)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
async def test_a_damaged_image_is_fetched_again(store, registry, two_layers, tmp_path, damage) -> None:
    url = registry.push(two_layers, f"{damage}:v1")
    record = await store.pull(url)
    shutil.rmtree(tmp_path / "store" / "trees" / record.digest.partition(":")[2])
    for path in (tmp_path / "store" / "blobs" / "sha256").iterdir():
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            if damage == "remove":
                path.unlink()
            else:
                path.write_bytes(content[:40] if damage == "truncate" else content[:-9] + b"X" + content[-8:])
    image = await store.ensure(url, "", "")
    assert (image.rootfs / "etc" / "kept").read_text() == "kept"


# -- crashes ----------------------------------------------------------------------------------------------------

PULL = """
import asyncio, sys
from pathlib import Path
from bulletin.cell.images.settings import ImageSettings
from bulletin.cell.images.store import ImageStore

async def main():
    async with ImageStore(Path(sys.argv[1]), ImageSettings()) as store:
        print("image", (await store.ensure(sys.argv[2], "", "")).digest)

asyncio.run(main())
"""


async def test_a_process_killed_in_a_pull_leaves_nothing_that_is_used(
    scripted_registry, two_layers, settings, tmp_path, kit
) -> None:
    root = tmp_path / "store"
    url = scripted_registry.add("killed", two_layers)
    scripted_registry.gate.clear()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PULL, str(root), url)
    await scripted_registry.blob_asked.wait()
    process.send_signal(signal.SIGKILL)
    await process.wait()
    (left,) = (root / "work").iterdir()
    assert (trees(root), blobs(root)) == ([], set())
    # skopeo is still there and holds its workspace: opening the store must not pull the ground from under it.
    async with ImageStore(root, settings) as store:
        assert await store.list() == ()
    assert left.exists()
    held = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
    scripted_registry.gate.set()
    await asyncio.to_thread(fcntl.flock, held, fcntl.LOCK_EX)
    os.close(held)
    async with ImageStore(root, settings):
        pass
    assert list((root / "work").iterdir()) == []
    async with ImageStore(root, settings) as store:
        assert (await store.ensure(url, "", "")).digest == kit.digest(two_layers)


async def test_processes_share_a_store(scripted_registry, two_layers, settings, tmp_path, kit) -> None:
    root = tmp_path / "store"
    url = scripted_registry.add("shared", two_layers)
    scripted_registry.gate.clear()
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", PULL, str(root), url, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    async with ImageStore(root, settings) as store:
        here = asyncio.create_task(store.ensure(url, "", ""))
        await scripted_registry.blob_asked.wait()
        scripted_registry.gate.set()
        outputs = [await process.communicate() for process in processes]
        assert [out.decode() for out, _ in outputs] == [f"image {kit.digest(two_layers)}\n"] * 2
        assert (await here).digest == kit.digest(two_layers)
        assert len(await store.list()) == 1
    assert list((root / "work").iterdir()) == []


# -- bounds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        ({"image_bytes_max": 1_000_000}, "a file of it is larger than 1000000 bytes"),
        ({"image_bytes_max": 2_500_000}, "it takes more than 2500000 bytes"),
        ({"image_entries_max": 3}, "it has more than 3 files"),
    ],
)
async def test_an_image_over_a_bound_is_refused(scripted_registry, kit, settings, tmp_path, bound, text) -> None:
    # Well compressed: what goes over the wire is within the bound, what it becomes is not.
    layer = kit.tar(*(kit.file(name, b"\0" * 1_200_000) for name in "abcd"))
    url = scripted_registry.add("large", kit.image(tmp_path / "large", layer))
    async with ImageStore(tmp_path / "store", dataclasses.replace(settings, **bound)) as store:
        with pytest.raises(ImageRefused, match=f"^{scripted_registry.host}/large:latest: {text}$"):
            await store.ensure(url, "", "")
        assert await store.list() == ()
    assert trees(tmp_path / "store") == []
    assert list((tmp_path / "store" / "work").iterdir()) == []


async def test_a_pull_that_takes_too_long_is_ended(scripted_registry, two_layers, settings, tmp_path) -> None:
    url = scripted_registry.add("slow", two_layers)
    scripted_registry.gate.clear()
    hasty = dataclasses.replace(settings, pull_seconds_max=0.2)
    async with ImageStore(tmp_path / "store", hasty) as store:
        with pytest.raises(ImageRefused, match=r"skopeo took longer than 0\.2 s$"):
            await store.ensure(url, "", "")


async def test_a_store_that_cannot_be_used_says_so(settings, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageRefused, match="Not a directory"):
        await ImageStore(tmp_path / "file" / "store", settings).open()
    root = tmp_path / "store"
    async with ImageStore(root, settings):
        pass
    (root / "index.json").write_text("{")
    with pytest.raises(ImageRefused, match="move the directory away"):
        await ImageStore(root, settings).open()
