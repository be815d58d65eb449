"""A directory of certificates: made whole, added to, renewed, looked at; nothing is overwritten."""

from __future__ import annotations

import datetime as dt
import errno
import os
import stat

import pytest

from bulletin.trust import directory as directories
from bulletin.trust.authority import Purpose, read_certificate
from bulletin.trust.contexts import TrustError, client_context, server_context
from bulletin.trust.directory import Order, create, issue, load, renew
from bulletin.wire.routes import Role

NOW = dt.datetime.now(dt.UTC)
BOARD = Order("board", Purpose.BOARD, hosts=("localhost",))
CELL = Order("c1", Purpose.PEER, frozenset({Role.CELL}))
CLIENT = Order("client", Purpose.PEER, frozenset({Role.CLIENT}))


@pytest.fixture
def place(tmp_path):
    create(tmp_path / "certs", [BOARD, CELL], NOW, days=30)
    return tmp_path / "certs"


def content(place):
    return {path.name: path.read_bytes() for path in place.iterdir()}


def test_a_new_directory_is_its_owners_alone(place, tmp_path):
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    names = {path.name for path in place.iterdir()}
    assert names == {f"{name}.{kind}" for name in ("ca", "board", "c1") for kind in ("pem", "key")}
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}
    assert [path.name for path in tmp_path.iterdir()] == ["certs"], "nothing is left beside it"


def test_modes_do_not_depend_on_the_umask(tmp_path):
    old = os.umask(0)
    try:
        create(tmp_path / "certs", [BOARD], NOW, days=30)
        issue(tmp_path / "certs", CLIENT, NOW)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "certs").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "certs").iterdir()} == {0o600}


def test_what_is_made_can_be_used(place):
    entries = {entry.certificate.name: entry for entry in load(place, NOW)}
    assert list(entries) == ["Bulletin authority", "board", "c1"]
    assert not any(entry.problems for entry in entries.values())
    server_context(entries["board"].files)
    client_context(entries["c1"].files)


def test_an_empty_directory_may_be_filled(tmp_path):
    (tmp_path / "certs").mkdir(mode=0o755)
    create(tmp_path / "certs", [BOARD], NOW, days=30)
    assert stat.S_IMODE((tmp_path / "certs").stat().st_mode) == 0o700


@pytest.mark.parametrize("there", ["file", "link", "full"])
def test_what_is_there_is_not_touched(tmp_path, there):
    place = tmp_path / "certs"
    if there == "file":
        place.write_text("mine")
    elif there == "link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to("elsewhere")
    else:
        place.mkdir()
        (place / "mine").touch()
    with pytest.raises(TrustError, match="nothing is overwritten"):
        create(place, [BOARD], NOW, days=30)
    assert len(list(tmp_path.iterdir())) == 1 + (there == "link")


@pytest.mark.parametrize(
    ("orders", "text"),
    [
        ([BOARD, BOARD], "stands twice"),
        ([Order("ca", Purpose.BOARD, hosts=("h",))], "is the authority"),
        ([Order("../up", Purpose.BOARD, hosts=("h",))], "it names two files"),
        ([BOARD, Order("b2", Purpose.BOARD)], "the hosts it is reached by"),
    ],
)
def test_all_or_nothing(tmp_path, orders, text):
    with pytest.raises(TrustError, match=text):
        create(tmp_path / "certs", orders, NOW, days=30)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", range(8))
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, step):
    """Whichever file cannot be written."""
    count = 0
    fsync = os.fsync

    def full(descriptor):
        nonlocal count
        count += 1
        if count > step:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(directories.os, "fsync", full)
    if step == 7:  # everything is there; only that it is was not made sure of
        with pytest.raises(TrustError, match="No space left"):
            create(tmp_path / "certs", [BOARD, CELL], NOW, days=30)
        assert len(list((tmp_path / "certs").iterdir())) == 6
        return
    with pytest.raises(TrustError, match="No space left"):
        create(tmp_path / "certs", [BOARD, CELL], NOW, days=30)
    assert not list(tmp_path.iterdir())


def test_one_more(place):
    before = content(place)
    entry = issue(place, CLIENT, NOW, days=5)
    assert entry.certificate.roles == {Role.CLIENT}
    assert entry.certificate.not_after.date() == (NOW + dt.timedelta(days=5)).date()
    assert not entry.problems
    after = content(place)
    assert set(after) - set(before) == {"client.pem", "client.key"}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("there", ["client.pem", "client.key"])
def test_a_taken_name_is_refused(place, there):
    (place / there).symlink_to("nowhere")
    before = set(os.listdir(place))
    with pytest.raises(TrustError, match="is there already"):
        issue(place, CLIENT, NOW)
    assert set(os.listdir(place)) == before


def test_half_an_issue_is_taken_back(place, monkeypatch):
    before = content(place)
    link = os.link
    links = []

    def failing(source, target):
        links.append(target)
        if len(links) == 2:
            raise OSError(errno.EIO, "Input/output error")
        link(source, target)

    monkeypatch.setattr(directories.os, "link", failing)
    with pytest.raises(TrustError, match="Input/output error"):
        issue(place, CLIENT, NOW)
    assert content(place) == before


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-x", "a/b", "a\0b", "a b", "ä"])
def test_names_that_are_no_files(place, name):
    before = content(place)
    for attempt in (
        lambda: issue(place, Order(name, Purpose.PEER, frozenset({Role.CELL})), NOW),
        lambda: renew(place, [name], NOW),
    ):
        with pytest.raises(TrustError, match="it names two files"):
            attempt()
    assert content(place) == before


def test_renewing_changes_one_file(place):
    before = content(place)
    later = NOW + dt.timedelta(days=20)
    (entry,) = renew(place, ["c1"], later, days=30)
    after = content(place)
    assert {name for name in after if after[name] != before[name]} == {"c1.pem"}
    assert entry.certificate.not_after.date() == (NOW + dt.timedelta(days=50)).date()
    assert not entry.problems
    assert stat.S_IMODE((place / "c1.pem").stat().st_mode) == 0o600


def test_the_authority_is_not_renewed(place):
    with pytest.raises(TrustError, match="is the authority"):
        renew(place, ["ca"], NOW)


def test_without_the_authoritys_key_nothing_is_issued_and_all_is_shown(place):
    (place / "ca.key").unlink()
    with pytest.raises(TrustError, match=r"ca\.key: is not there"):
        issue(place, CLIENT, NOW)
    with pytest.raises(TrustError, match=r"ca\.key: is not there"):
        renew(place, ["c1"], NOW)
    assert not any(entry.problems for entry in load(place, NOW))


def problems(place, name, now=NOW):
    return next(entry.problems for entry in load(place, now) if entry.files.cert.stem == name)


def test_what_is_wrong_is_said(place, tmp_path):
    assert problems(place, "c1", NOW + dt.timedelta(days=31)) == ("has expired",)
    assert problems(place, "c1", NOW - dt.timedelta(days=1)) == ("is not valid yet",)
    (place / "c1.key").chmod(0o644)
    assert problems(place, "c1") == ("others may read its key",)
    (place / "c1.key").unlink()
    assert problems(place, "c1") == (), "the key is where it is used"
    (place / "c1.key").write_bytes((place / "board.key").read_bytes())
    (place / "c1.key").chmod(0o600)
    assert problems(place, "c1") == ("has another key beside it",)
    (place / "c1.key").write_bytes(b"nonsense")
    assert problems(place, "c1") == ("has a key beside it that cannot be read",)
    create(tmp_path / "others", [CELL], NOW, days=30)
    (place / "c1.key").unlink()
    (place / "c1.pem").write_bytes((tmp_path / "others" / "c1.pem").read_bytes())
    assert problems(place, "c1") == ("is of another authority",)


def test_no_directory_of_certificates(tmp_path):
    with pytest.raises(TrustError, match=r"ca\.pem: is not there; `bulletin certs init`"):
        load(tmp_path, NOW)
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(TrustError, match=r"ca\.pem: not a certificate"):
        load(tmp_path, NOW)


def test_keys_are_not_the_same_twice(tmp_path):
    keys = set()
    for number in range(2):
        create(tmp_path / str(number), [BOARD], NOW, days=30)
        keys |= {(tmp_path / str(number) / name).read_bytes() for name in ("ca.key", "board.key")}
    assert len(keys) == 4
    assert read_certificate((tmp_path / "0" / "ca.pem").read_bytes()).is_authority
