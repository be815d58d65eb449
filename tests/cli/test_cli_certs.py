"""``bulletin certs``: what it makes, what it prints for people and for programs, and what it refuses."""

from __future__ import annotations

import json
import shlex
import socket
from pathlib import Path

import pytest

from bulletin.cli.board import BoardOptions, make_board_settings
from bulletin.cli.cell import CellOptions, make_cell_settings
from bulletin.trust.contexts import client_context
from bulletin.trust.files import TlsFiles


@pytest.fixture
def place(bulletin, tmp_path):
    said = bulletin("certs", "init", str(tmp_path / "certs"), "--cell", "c1", "--host", "board.example")
    assert said.status == 0, said.err
    return tmp_path / "certs"


def shown(said) -> dict[str, dict]:
    return {row["name"]: row for row in map(json.loads, said.out.splitlines())}


def test_the_first_certificates(bulletin, place):
    rows = shown(bulletin("certs", "show", str(place), "--json"))
    assert {name: (row["for"], row["roles"]) for name, row in rows.items()} == {
        "Bulletin authority": ("authority", []),
        "board": ("board", []),
        "c1": ("peer", ["cell"]),
        "client": ("peer", ["client"]),
        "operator": ("peer", ["operator"]),
    }
    assert {"board.example", "localhost", "127.0.0.1", "::1"} <= set(rows["board"]["hosts"])
    assert not any(row["problems"] for row in rows.values())
    assert {row["key_type"] for row in rows.values()} == {"ecdsa"}


def test_what_is_printed_next_can_be_done(bulletin, tmp_path):
    """The commands are taken at their word."""
    said = bulletin("certs", "init", str(tmp_path / "the certs"), "--cell", "c1")
    commands = [shlex.split(line) for line in said.err.splitlines() if line.startswith("  bulletin ")]
    assert [command[1] for command in commands] == ["board", "cell", "task"]
    options = [dict(zip(command[2::2], command[3::2], strict=False)) for command in commands[:2]]
    board, cell = options
    make_board_settings(
        board["--listen"],
        tmp_path,
        _paths(BoardOptions, board, "tls_"),
        insecure_plain_http=False,
        log_level="info",
    )
    settings = make_cell_settings(
        cell["--board"], tmp_path, _paths(CellOptions, cell, ""), insecure_plain_http=False, log_level="info"
    )
    assert settings.cell_id == "c1", "the name in the certificate is the cell's"
    assert cell["--board"] == "https://localhost:8889"
    client = dict(zip(commands[2][3::2], commands[2][4::2], strict=False))
    client_context(TlsFiles(*(tmp_path / client[f"--{name}"] for name in ("ca", "cert", "key"))))


def _paths(kind, options, prefix):
    flag = prefix.replace("_", "-")
    return kind(**{f"{prefix}{name}": Path(options[f"--{flag}{name}"]) for name in ("ca", "cert", "key")})


def test_without_hosts_the_board_stays_at_home(bulletin, tmp_path):
    assert "--listen 127.0.0.1:8889" in bulletin("certs", "init", str(tmp_path / "a")).err
    said = bulletin("certs", "init", str(tmp_path / "b"), "--host", "fd00::5")
    assert "--listen 0.0.0.0:8889" in said.err
    assert "--board https://[fd00::5]:8889" in said.err
    assert socket.gethostname() in shown(bulletin("certs", "show", str(tmp_path / "a"), "--json"))


def test_json_is_all_there_is(bulletin, tmp_path):
    said = bulletin("certs", "init", str(tmp_path / "certs"), "--json", "--cell", "c1", "--key-type", "rsa")
    assert said.err == ""
    assert {row["key_type"] for row in shown(said).values()} == {"rsa"}


def test_one_more(bulletin, place):
    said = bulletin("certs", "issue", str(place), "--role", "client", "--role", "operator", "--name", "ci", "--json")
    (row,) = shown(said).values()
    assert (row["roles"], row["cert"], row["key"]) == (
        ["client", "operator"],
        str(place / "ci.pem"),
        str(place / "ci.key"),
    )
    said = bulletin("certs", "issue", str(place), "--role", "board", "--name", "b2", "--host", "10.0.0.6", "--json")
    (row,) = shown(said).values()
    assert (row["for"], row["hosts"]) == ("board", ["10.0.0.6"])


def test_renewing_what_ends_soon(bulletin, place):
    issued = bulletin("certs", "issue", str(place), "--role", "cell", "--name", "c2", "--days", "5", "--json")
    (old,) = shown(issued).values()
    said = bulletin("certs", "renew", str(place), "--within-days", "30", "--json")
    (row,) = shown(said).values()
    assert row["name"] == "c2"
    assert row["not_after"] > old["not_after"]
    assert bulletin("certs", "renew", str(place), "--within-days", "30", "--json").out == ""
    assert set(shown(bulletin("certs", "renew", str(place), "board", "c1", "--json"))) == {"board", "c1"}


def test_an_authority_that_ends_soon_is_said(bulletin, place):
    said = bulletin("certs", "renew", str(place), "--within-days", "4000")
    assert "the authority ends on" in said.err
    assert said.status == 0


def test_people_see_days_and_problems(bulletin, place):
    bulletin("certs", "issue", str(place), "--role", "cell", "--name", "c2", "--days", "5")
    (place / "c1.key").chmod(0o644)
    said = bulletin("certs", "show", str(place))
    assert said.status == 1
    lines = {line.split()[0]: line for line in said.out.splitlines()}
    assert "(4 days)" in lines["c2"]
    assert "others may read its key" in lines["c1"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("init", "{place}"), 1, "nothing is overwritten"),
        (("init", "{place}/x", "--host", "a b"), 1, "is neither a host name nor an address"),
        (("init", "{place}/x", "--cell", "client"), 1, "stands twice"),
        (("init", "{place}/x", "--days", "0"), 1, "days: must be from 1"),
        (("init",), 2, "DIRECTORY"),
        (("issue", "{place}", "--name", "x"), 2, "--role"),
        (("issue", "{place}", "--role", "cell"), 2, "--name"),
        (("issue", "{place}", "--role", "king", "--name", "x"), 2, "king"),
        (("issue", "{place}", "--role", "cell", "--name", "c1"), 1, "is there already"),
        (("issue", "{place}", "--role", "cell", "--name", "x" * 65), 1, "64 characters"),
        (("issue", "{place}", "--role", "cell", "--name", "x", "--host", "h"), 2, "--host is for boards"),
        (("issue", "{place}", "--role", "board", "--name", "x"), 2, "--role board needs --host"),
        (("issue", "{place}", "--role", "board", "--role", "cell", "--name", "x"), 2, "no other role"),
        (("issue", "/no/such", "--role", "cell", "--name", "x"), 1, "is not there"),
        (("renew", "{place}"), 2, "name certificates, or pass --within-days"),
        (("renew", "{place}", "c1", "--within-days", "1"), 2, "name certificates, or pass --within-days"),
        (("renew", "{place}", "nobody"), 1, "is not there"),
        (("show", "/no/such"), 1, "is not there"),
    ],
)
def test_what_cannot_be(bulletin, place, arguments, status, words):
    said = bulletin("certs", *(argument.format(place=place) for argument in arguments))
    assert (said.status, said.out) == (status, "")
    assert words in said.err
    assert "\ntry: " in said.err
    assert not (place / "x").exists()
