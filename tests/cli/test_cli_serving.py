"""Options of the serving commands: to settings, to another process's command line, and in the reference."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import trustme
from cyclopts import App

from bulletin.board.settings import Address, BoardSettings
from bulletin.cell.settings import CellSettings
from bulletin.cli.board import BoardOptions, make_board_settings
from bulletin.cli.cell import CellOptions, make_cell_settings
from bulletin.cli.exits import CommandFailed
from bulletin.cli.run import ContainerOptions, TaskOptions
from bulletin.cli.serving import as_arguments, as_environment
from bulletin.trust.files import TlsFiles

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()

BOARD = BoardOptions(
    health="127.0.0.1:1",
    max_task_retries=0,
    when_full="reject",
    converge_interval=0.25,
    kick_after=1.5,
    expire_pending=2.0,
    expire_completed=3.0,
    resolved_retention=4.0,
    callback_expiry=6.0,
    output_retention=7.0,
    database="postgresql://u:secret@h:5432/d",
    tls_ca=Path("/t/b ca.pem"),
    tls_cert=Path("/t/board.pem"),
    tls_key=Path("/t/board.key"),
    roles="off",
    encryption_keys=Path("/t/keys.json"),
    active_key_label="--2026",
    metrics="127.0.0.1:2",
    access_log=Path("/t/access.log"),
    callback_allow=("10.1.0.0/16", "fd00::/8"),
    callback_deny=("10.0.0.0/8",),
    callback_system_roots=True,
    event_ring=9,
    lease=1.5,
    lease_retry=0.25,
)
CELL = CellOptions(
    id="c 1",
    ca=Path("/t/ca.pem"),
    cert=Path("/t/c1.pem"),
    key=Path("/t/c1.key"),
    zone="--z",
    memory_mb="5",
    disk_mb="6",
    containers=7,
    engine="runc",
    placement_tag=("a", "b=c"),
    optional_placement_tag=("d",),
)


def parse(kind, arguments):
    """What a process that is started with ``arguments`` takes them for."""
    app = App(result_action="return_value")

    def command(*, options=None):
        return options or kind()

    command.__annotations__ = {"options": kind | None}
    app.default(command)
    return app(arguments, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("options", [BoardOptions(), BOARD, CellOptions(), CELL])
def test_a_child_gets_the_options_of_its_parent(options, monkeypatch):
    environment = as_environment(options)
    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse(type(options), as_arguments(options)) == options


def test_secrets_are_not_on_a_command_line_and_go_only_to_who_needs_them(monkeypatch):
    monkeypatch.setenv("BULLETIN_DATABASE", "postgresql://other:secret@h/d")
    assert "secret" not in " ".join(as_arguments(BOARD))
    assert as_environment(BOARD)["BULLETIN_DATABASE"] == BOARD.database
    assert "BULLETIN_DATABASE" not in as_environment(BoardOptions())
    assert "BULLETIN_DATABASE" not in as_environment(CELL)
    assert "secret" not in repr(BOARD)


@pytest.mark.parametrize("options", [BoardOptions(), CellOptions()])
def test_defaults_need_no_words(options):
    assert as_arguments(options) == []


@pytest.mark.parametrize("options", [BOARD, CELL])
def test_no_option_is_left_out_of_these_tests(options):
    assert all(getattr(options, field.name) != field.default for field in fields(options))


@pytest.fixture
def files(tmp_path):
    """The options of ``BOARD`` with files that are there."""
    authority = trustme.CA()
    cert = authority.issue_cert("board.example")
    tls = TlsFiles(tmp_path / "ca.pem", tmp_path / "board.pem", tmp_path / "board.key")
    authority.cert_pem.write_to_path(tls.ca)
    cert.cert_chain_pems[0].write_to_path(tls.cert)
    cert.private_key_pem.write_to_path(tls.key)
    keys = tmp_path / "keys.json"
    keys.write_text('{"--2026": "p", "2025": "q"}')
    for private in (keys, tls.key):
        private.chmod(0o600)
    return replace(BOARD, tls_ca=tls.ca, tls_cert=tls.cert, tls_key=tls.key, encryption_keys=keys)


def test_board_settings(files):
    settings = make_board_settings("127.0.0.1:0", Path("/d"), files, insecure_plain_http=True, log_level="debug")
    assert settings == BoardSettings(
        listen=Address("127.0.0.1", 0),
        health=Address("127.0.0.1", 1),
        data=Path("/d/board"),
        insecure_plain_http=True,
        log_level="debug",
        max_task_retries=0,
        when_full="reject",
        converge_repeat_interval_seconds=0.25,
        kick_task_duration_seconds=1.5,
        expire_pending_task_duration_seconds=2.0,
        expire_completed_task_duration_seconds=3.0,
        resolved_retention_seconds=4.0,
        callback_expiry_seconds=6.0,
        output_retention_seconds=7.0,
        database="postgresql://u:secret@h:5432/d",
        tls=TlsFiles(files.tls_ca, files.tls_cert, files.tls_key),
        roles="off",
        encryption_keys={"--2026": "p", "2025": "q"},
        active_key_label="--2026",
        metrics=Address("127.0.0.1", 2),
        access_log=Path("/t/access.log"),
        callback_allow=("10.1.0.0/16", "fd00::/8"),
        callback_deny=("10.0.0.0/8",),
        callback_system_roots=True,
        event_ring_max=9,
        lease_seconds=1.5,
        lease_retry_seconds=0.25,
    )


def test_a_single_key_is_the_active_one(files):
    files.encryption_keys.write_text('{"only": "p"}')
    options = BoardOptions(encryption_keys=files.encryption_keys)
    settings = make_board_settings("127.0.0.1:0", Path("/d"), options, insecure_plain_http=False, log_level="info")
    assert settings.active_key_label == "only"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tls_key": None}, "go together"),
        ({"active_key_label": ""}, "say which"),
        ({"encryption_keys": Path("/nowhere")}, "/nowhere: cannot be read"),
        ({"metrics": "x"}, "metrics: 'x'"),
        ({"callback_deny": ("10.0.0.1/8",)}, "callback_deny: "),
        ({"database": "secret"}, "database: "),
    ],
)
def test_what_cannot_be(files, changes, words):
    with pytest.raises(CommandFailed) as refused:
        make_board_settings(
            "127.0.0.1:0", Path("/d"), replace(files, **changes), insecure_plain_http=False, log_level="info"
        )
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_defaults_are_the_settings_own():
    board = make_board_settings(
        "127.0.0.1:8889", Path("/var/lib/bulletin"), BoardOptions(), insecure_plain_http=False, log_level="info"
    )
    assert board == BoardSettings()
    cell = make_cell_settings(
        "http://127.0.0.1:8889", Path("/var/lib/bulletin"), CellOptions(), insecure_plain_http=False, log_level="info"
    )
    assert cell == CellSettings()


def test_cell_settings():
    settings = make_cell_settings("http://h:1", Path("/d"), CELL, insecure_plain_http=True, log_level="error")
    assert replace(settings) == CellSettings(
        board_url="http://h:1",
        tls=TlsFiles(Path("/t/ca.pem"), Path("/t/c1.pem"), Path("/t/c1.key")),
        data=Path("/d/cell"),
        cell_id="c 1",
        zone="--z",
        memory_mb=5,
        disk_mb=6,
        containers=7,
        engine="runc",
        placement_tags=frozenset({"a", "b=c"}),
        optional_placement_tags=frozenset({"d"}),
        insecure_plain_http=True,
        log_level="error",
    )


@pytest.mark.parametrize("kind", [BoardOptions, CellOptions, ContainerOptions, TaskOptions])
def test_the_reference_names_every_option(kind):
    for field in fields(kind):
        assert f"`--{field.name.replace('_', '-')}" in PAGE


def test_environment_variables_do_as_well(bulletin, monkeypatch):
    monkeypatch.setenv("BULLETIN_LISTEN", "from-the-environment")
    assert "'from-the-environment' is not HOST:PORT" in bulletin("board").err
    monkeypatch.setenv("BULLETIN_BOARD", "nowhere")
    assert "'nowhere'" in bulletin("cells").err
    assert "'nowhere'" in bulletin("cell").err
    monkeypatch.setenv("BULLETIN_BOARD", "http://127.0.0.1:1")
    monkeypatch.setenv("BULLETIN_MEMORY_MB", "lots")
    assert "'lots'" in bulletin("cell").err
    for name in ("HEALTH", "MAX_TASK_RETRIES", "WHEN_FULL", "CONVERGE_INTERVAL", "CELL_ID", "ZONE", "ENGINE", "DATA"):
        assert f"BULLETIN_{name}" in bulletin("up", "--help").out.replace("\n│", "").replace("  ", "")
        assert f"`BULLETIN_{name}`" in PAGE
