"""Options of the serving commands: to settings, to another process's command line, and in the reference."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from cyclopts import App

from bulletin.board.settings import Address, BoardSettings
from bulletin.cell.settings import CellSettings
from bulletin.cli.run import ContainerOptions, TaskOptions
from bulletin.cli.serving import BoardOptions, CellOptions, as_arguments, make_board_settings, make_cell_settings

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
)
CELL = CellOptions(
    id="c 1",
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
def test_a_child_gets_the_options_of_its_parent(options):
    assert parse(type(options), as_arguments(options)) == options


@pytest.mark.parametrize("options", [BoardOptions(), CellOptions()])
def test_defaults_need_no_words(options):
    assert as_arguments(options) == []


@pytest.mark.parametrize("options", [BOARD, CELL])
def test_no_option_is_left_out_of_these_tests(options):
    assert all(getattr(options, field.name) != field.default for field in fields(options))


def test_board_settings():
    settings = make_board_settings("127.0.0.1:0", Path("/d"), BOARD, insecure_plain_http=True, log_level="debug")
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
    )


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
