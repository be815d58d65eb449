"""The store's directory, without tools: names, leases, workspaces, sweeping."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.leaks import LeakCheck

from bulletin.cell.images.index import ImageRecord, Origin
from bulletin.cell.images.layout import LayoutBroken, read_layout, write_index
from bulletin.cell.images.repository import Repository, RepositoryUnusable, Workspace, write_tree_note
from bulletin.core import limits


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    check = LeakCheck(machine=False, descriptors=True)
    opened = Repository(tmp_path / "store")
    opened.open()
    yield opened
    opened.close()
    check.assert_clean()


@pytest.fixture
def workspace(repository: Repository) -> Iterator[Workspace]:
    made = repository.new_workspace()
    yield made
    made.close()


@pytest.fixture
def add(repository: Repository, workspace: Workspace, kit, tmp_path: Path) -> Callable[..., ImageRecord]:
    """Adds an image of one file under a name, unpacked or not."""

    def add(name: str, content: bytes = b"x", *, tree: bool = True, private: bool = False) -> ImageRecord:
        layout = kit.image(tmp_path / f"layout-{content.decode()}", kit.tar(kit.file("file", content)))
        manifest = read_layout(layout)
        record = ImageRecord(name, manifest.digest, manifest.size_bytes, 1, 2, 3, Origin.PULLED, private)
        made = None
        if tree:
            made = workspace.path / "tree"
            (made / "rootfs").mkdir(parents=True)
            (made / "rootfs" / "file").write_bytes(content)
            write_tree_note(made, (("A", "b"),), 2)
        repository.adopt(record, manifest, layout, made)
        return record

    return add


def test_a_store_is_private_and_an_oci_layout(repository: Repository) -> None:
    assert repository.root.stat().st_mode & 0o777 == 0o700
    assert (repository.root / "oci-layout").exists()
    assert repository.read().names == {}


def test_opening_keeps_what_is_there(repository: Repository, add) -> None:
    record = add("a")
    repository.open()
    again = Repository(repository.root)
    again.open()
    assert again.read().names == {("a", False): record}
    again.close()


def test_the_generation_is_never_that_of_the_index_that_was_read(repository: Repository) -> None:
    """Most file systems use a freed inode for the next file; as long as it is remembered, it must not be free."""
    for _ in range(3):
        generation = repository.read().generation
        assert repository.generation() == generation
        for _ in range(20):
            write_index(repository.root / "index.json", [])
            assert repository.generation() != generation


def test_a_lease_keeps_a_tree_through_a_sweep(repository: Repository, workspace: Workspace, add) -> None:
    record = add("a")
    lease = repository.lease(record.digest)
    assert lease is not None
    assert lease.tree.env == (("A", "b"),)
    assert repository.forget("a")
    repository.sweep(workspace)
    assert (lease.tree.rootfs / "file").read_bytes() == b"x"
    lease.close()
    lease.close()
    repository.sweep(workspace)
    assert not lease.tree.rootfs.exists()
    assert repository.lease(record.digest) is None


def test_a_tree_that_is_being_removed_cannot_be_leased(repository: Repository, add) -> None:
    record = add("a")
    tree = repository.root / "trees" / record.digest.partition(":")[2]
    alone = os.open(tree, os.O_RDONLY)
    fcntl.flock(alone, fcntl.LOCK_EX)
    assert repository.lease(record.digest) is None
    os.close(alone)
    lease = repository.lease(record.digest)
    assert lease is not None
    lease.close()


def test_sweeping_takes_what_no_name_leads_to(repository: Repository, workspace: Workspace, add) -> None:
    kept, gone = add("kept", b"kept"), add("gone", b"gone")
    blobs = repository.root / "blobs" / "sha256"
    assert len(list(blobs.iterdir())) == 6
    assert repository.forget("gone")
    assert not repository.forget("gone")
    dead = repository.new_workspace()
    (dead.path / "half").write_text("")
    dead.close()
    alive = repository.new_workspace()
    repository.sweep(workspace)
    assert [path.name for path in (repository.root / "trees").iterdir()] == [kept.digest.partition(":")[2]]
    assert len(list(blobs.iterdir())) == 3
    assert set((repository.root / "work").iterdir()) == {workspace.path, alive.path}
    assert {path.name for path in workspace.path.iterdir()} == {
        f"tree-{gone.digest.partition(':')[2]}",
        f"work-{dead.path.name}",
    }
    alive.close()


def test_a_second_tree_of_the_same_image_is_not_needed(repository: Repository, workspace: Workspace, add) -> None:
    record = add("a")
    lease = repository.lease(record.digest)
    assert lease is not None
    add("b")
    assert (workspace.path / "tree").exists()
    assert lease.tree.rootfs.exists()
    lease.close()


def test_a_name_may_be_public_and_private(repository: Repository, add) -> None:
    add("a", b"public")
    add("a", b"private", tree=False, private=True)
    assert set(repository.read().names) == {("a", False), ("a", True)}
    assert repository.forget("a")
    assert repository.read().names == {}


def test_a_view_shows_one_image(repository: Repository, add, tmp_path) -> None:
    record = add("a")
    add("b", b"other", tree=False)
    view = tmp_path / "view"
    assert repository.view(record.digest, view) == read_layout(view)
    assert len(list((view / "blobs" / "sha256").iterdir())) == 3


def test_a_view_of_an_image_that_lacks_a_part_is_refused(repository: Repository, add, tmp_path) -> None:
    record = add("a")
    for blob in (repository.root / "blobs" / "sha256").iterdir():
        if blob.read_bytes().startswith(b"\x1f\x8b"):
            blob.unlink()
    with pytest.raises(LayoutBroken, match="lacks a part"):
        repository.view(record.digest, tmp_path / "view")


def test_damaged_blobs_are_dropped(repository: Repository, add, tmp_path) -> None:
    record = add("a")
    manifest = repository.view(record.digest, tmp_path / "view")
    assert not repository.drop_damaged(manifest)
    layer = repository.root / "blobs" / "sha256" / manifest.layers[0].digest.partition(":")[2]
    layer.write_bytes(b"")
    assert repository.drop_damaged(manifest)
    assert not layer.exists()
    assert not repository.drop_damaged(manifest)


def test_seeds_are_links_to_every_blob(repository: Repository, add, tmp_path) -> None:
    add("a", b"a")
    add("b", b"b")
    repository.seed(tmp_path / "seed")
    blobs = repository.root / "blobs" / "sha256"
    seeds = tmp_path / "seed" / "blobs" / "sha256"
    assert {path.name: path.stat().st_ino for path in seeds.iterdir()} == {
        path.name: path.stat().st_ino for path in blobs.iterdir()
    }


def test_images_are_bounded(repository: Repository, add, monkeypatch) -> None:
    monkeypatch.setattr(limits, "IMAGES_MAX", 2)
    add("a", tree=False)
    add("b", tree=False)
    add("b", tree=False)
    with pytest.raises(RepositoryUnusable, match="holds 2 images"):
        add("c", tree=False)
    assert {name for name, _ in repository.read().names} == {"a", "b"}


def test_a_lock_held_by_another_is_waited_for_a_bounded_time(repository: Repository, monkeypatch) -> None:
    monkeypatch.setattr(limits, "IMAGE_STORE_LOCK_SECONDS", 0.1)
    other = os.open(repository.root / "lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(RepositoryUnusable, match="held by another process"):
        repository.new_workspace()
    os.close(other)
    repository.new_workspace().close()


def test_a_failed_change_leaves_the_index_as_it_was(repository: Repository, add, monkeypatch) -> None:
    record = add("a")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bulletin.cell.images.layout.os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        add("b", b"b", tree=False)
    monkeypatch.undo()
    assert repository.read().names == {("a", False): record}
    add("b", b"b", tree=False)
