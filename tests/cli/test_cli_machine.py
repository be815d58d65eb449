"""``bulletin image`` and ``bulletin doctor``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from bulletin.cell.runtime import probe
from bulletin.cell.runtime.probe import Finding
from bulletin.cli.images import _show_bytes


def test_no_images(bulletin, tmp_path):
    said = bulletin("image", "list", "--data", str(tmp_path))
    assert said.status == 0
    assert said.out.split() == ["IMAGE", "DIGEST", "ORIGIN", "STORED", "UNPACKED", "ADDED"]
    assert bulletin("image", "list", "--json", "--data", str(tmp_path)).out == ""


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("import", "x", "/no/such/source"), 1, "docker.io/library/x:latest"),
        (("import", "Bad Name", "/"), 1, "invalid image reference"),
        (("remove", "x"), 1, "there is no such image here"),
        (("pull", "x", "--username", "u"), 2, "user name and password go together"),
        (("pull", "x", "--password-file", "/no/such/file"), 2, "cannot be read"),
        (("pull",), 2, "IMAGE"),
        (("import", "x"), 2, "SOURCE"),
    ],
)
def test_what_cannot_be(bulletin, tmp_path, arguments, status, words):
    said = bulletin("image", *arguments, "--data", str(tmp_path))
    assert (said.status, said.out) == (status, "")
    assert words in said.err
    assert "\ntry: " in said.err


def test_a_data_directory_that_is_none(bulletin, tmp_path):
    (tmp_path / "file").touch()
    said = bulletin("image", "list", "--data", str(tmp_path / "file"))
    assert said.status == 1
    assert "Not a directory" in said.err.splitlines()[0]


def test_a_password_comes_from_a_file_or_the_environment(bulletin, tmp_path, monkeypatch):
    seen = []

    async def pull(self, url, progress, *, username, password):
        from bulletin.cell.images.api import ImageRefused

        seen.append((username, password))
        raise ImageRefused("no")

    monkeypatch.setattr("bulletin.cell.images.store.ImageStore.pull", pull)
    file = tmp_path / "password"
    file.write_text("from file\nnot this\n")
    data = f"--data={tmp_path}"
    assert bulletin("image", "pull", "x", "--username", "u", "--password-file", str(file), data).status == 1
    monkeypatch.setenv("BULLETIN_IMAGE_PASSWORD", "from environment")
    assert bulletin("image", "pull", "x", "--username", "u", data).status == 1
    assert bulletin("image", "pull", "x", data).status == 1
    assert seen == [("u", "from file"), ("u", "from environment"), ("", "")]


@pytest.mark.system
@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("busybox", "umoci"))), reason="needs root, busybox and umoci"
)
def test_an_image_comes_and_goes(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bulletin", "image", *arguments, "--data", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    done = run("import", "tools:v1", f"busybox:{shutil.which('busybox')}", "--json")
    imported = json.loads(done.stdout)
    assert imported["name"] == "docker.io/library/tools:v1"
    assert imported["digest"].startswith("sha256:")
    assert "unpacking" in done.stderr
    assert json.loads(run("list", "--json").stdout) == imported
    assert "docker.io/library/tools:v1" in run("list").stdout
    assert run("remove", "tools:v1").stderr.endswith("removed tools:v1\n")
    assert run("list", "--json").stdout == ""


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (1023, "1023B"), (1536, "1.5K"), (2**20, "1M"), (5 * 2**30, "5G"), (2**41, "2048G")]
)
def test_sizes(size, text):
    assert _show_bytes(size) == text


FINE = Finding("root", ok=True, found="user id 0")
POOR = Finding("nft", ok=False, found="not installed", mend="apt-get install nftables", required=False)
GONE = Finding("crun", ok=False, found="not installed", mend="apt-get install crun")


@pytest.mark.parametrize(
    ("findings", "status", "words"),
    [([FINE], 0, ["ok"]), ([FINE, POOR], 0, ["ok", "could be better"]), ([FINE, GONE], 1, ["ok", "missing"])],
)
def test_doctor(bulletin, monkeypatch, findings, status, words):
    async def examine(_settings):
        return findings

    monkeypatch.setattr(probe, "probe", examine)
    said = bulletin("doctor")
    assert said.status == status
    lines = said.out.splitlines()[1:]
    for line, word, finding in zip(lines, words, findings, strict=True):
        assert line.startswith(word)
        assert finding.found in line
        assert finding.mend in line
    said = bulletin("doctor", "--json")
    assert said.status == status
    assert [document["mend"] for document in said.documents] == [finding.mend for finding in findings]


def test_doctor_looks_where_it_is_told(bulletin, monkeypatch, tmp_path):
    seen = []

    async def examine(settings):
        seen.append((settings.data, settings.engine))
        return []

    monkeypatch.setattr(probe, "probe", examine)
    assert bulletin("doctor", "--data", str(tmp_path), "--engine", "runc").status == 0
    assert seen == [(tmp_path / "cell", "runc")]
