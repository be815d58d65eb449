"""The file of encryption keys: its one form, and that no refusal shows a passphrase."""

from __future__ import annotations

import json
import os

import pytest

from bulletin.board.keyfile import read_keys
from bulletin.board.settings import SettingError


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, mode: int = 0o600):
        path = tmp_path / "keys.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return path

    return write


def refused(path) -> str:
    with pytest.raises(SettingError) as error:
        read_keys(path)
    text = str(error.value)
    assert text.startswith(f"encryption_keys: {path}: ")
    assert "secret" not in text.removeprefix(f"encryption_keys: {path}")
    assert error.value.__cause__ is None or isinstance(error.value.__cause__, OSError)
    return text


def test_labels_and_passphrases(write):
    assert read_keys(write('{"2025": "old", "2026": "nü"}')) == {"2025": "old", "2026": "nü"}


def test_its_group_may_read_it(write):
    assert read_keys(write('{"a": "b"}', 0o640)) == {"a": "b"}


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o666, 0o660, 0o602, 0o601])
def test_others_may_not(write, mode):
    assert "chmod 0600" in refused(write('{"a": "secret"}', mode))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "secret",
        '{"a": "secret"',
        '{"a": "secret",}',
        b'{"a": "secret\xff"}',
        '["secret"]',
        '"secret"',
        "17",
        "null",
        "{}",
        "[]",
        '{"a": {"secret": "secret"}}',
        '{"a": ["secret"]}',
        '{"a": 5}',
        '{"a": null}',
        '{"a": "secret", "a": "secret2"}',
        '[["a", "secret"]]',
        "[" * 50_000,
    ],
)
def test_other_forms(write, content):
    refused(write(content))


def test_equal_labels_are_named(write):
    assert "two keys have the label 'a'" in refused(write('{"a": "secret", "b": "x", "a": "y"}'))


def test_its_size_is_bounded(write):
    assert "bytes" in refused(write(json.dumps({"a": "secret" * 20_000})))


def test_it_has_to_be_a_file(tmp_path):
    assert "No such file" in refused(tmp_path / "none")
    assert "directory" in refused(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert "is not a file" in refused(fifo)
