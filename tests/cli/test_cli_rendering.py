"""``bulletin.cli.rendering``, ``panels`` and ``printing``: nothing secret, nothing a terminal would obey."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin import (
    DedicatedDevice,
    DownloadAction,
    EmitProgressAction,
    MetricTag,
    ParallelAction,
    RunAction,
    SerialAction,
    SharedDevice,
    Task,
    TaskDefinition,
    TaskState,
    TimeoutAction,
    TryAction,
    VolumeMount,
)
from bulletin.cli.panels import describe_action, print_task, show_time
from bulletin.cli.printing import harmless, show_age, show_size_mb
from bulletin.cli.rendering import MASK, _mask_url, definition_value, task_value
from bulletin.wire.tasks import encode_definition, summarise


def task_of(definition: TaskDefinition) -> Task:
    return Task("g", "d", summarise(encode_definition(definition)), TaskState.PENDING, 1, 1)


TREE = SerialAction(
    (
        DownloadAction("http://a", "/b", "root", artifact="app"),
        ParallelAction(
            (
                TryAction(RunAction("/one", "root", args=("x",), env=(("A", "sekret"),), dir="/d")),
                TimeoutAction(EmitProgressAction(RunAction("/two", "bob"), start_message="go"), 500),
            )
        ),
    )
)


def test_secrets_are_masked_wherever_they_stand():
    definition = TaskDefinition(
        root_fs="docker:///x",
        action=TREE,
        environment_variables=(("B", "sekret"),),
        image_username="u",
        image_password="sekret",
        volume_mounts=(
            VolumeMount("drv", "/m", "rw", shared=SharedDevice("v", '{"password": "sekret"}')),
            VolumeMount("drv", "/n", "r", dedicated=DedicatedDevice("m", "sekret", "sekret")),
        ),
        completion_callback_url="http://u:sekret@h:1/p?t=sekret#f",
    )
    value = definition_value(task_of(definition))
    assert "sekret" not in json.dumps(value)
    assert value["completion_callback_url"] == f"http://{MASK}@h:1/p?{MASK}#f"
    assert value["volume_mounts"][0]["shared"] == {"volume_id": "v", "mount_config": MASK}
    shown = definition_value(task_of(definition), show_secrets=True)
    assert json.dumps(shown).count("sekret") == 8


def test_words_of_the_user_are_no_field_names():
    definition = TaskDefinition(
        root_fs="docker:///x",
        action=RunAction("/x", "root"),
        metric_tags={
            "env": MetricTag("prod"),
            "image_password": MetricTag("x"),
            "environment_variables": MetricTag("y"),
        },
        network_properties={"env": "a", "volume_mounted_files": "b"},
    )
    value = definition_value(task_of(definition))
    assert value["metric_tags"] == {
        "env": {"static": "prod"},
        "image_password": {"static": "x"},
        "environment_variables": {"static": "y"},
    }
    assert value["network"]["properties"] == {"env": "a", "volume_mounted_files": "b"}


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("http://h/p", "http://h/p"),
        ("http://u@h/p", f"http://{MASK}@h/p"),
        ("http://h/p?q", f"http://h/p?{MASK}"),
        ("http://[bad", MASK),
        ("", ""),
    ],
)
def test_urls(url, masked):
    assert _mask_url(url) == masked


def test_a_task_has_every_field():
    value = task_value(task_of(TaskDefinition(root_fs="docker:///x", action=RunAction("/x", "root"))))
    definition = value.pop("task_definition")
    assert definition["root_fs"] == "docker:///x"
    assert definition["action"]["run_action"]["path"] == "/x"
    assert value == {
        "task_guid": "g",
        "domain": "d",
        "state": "Pending",
        "cell_id": "",
        "created_at": 1,
        "updated_at": 1,
        "first_completed_at": 0,
        "failed": False,
        "failure_reason": "",
        "result": "",
        "rejection_count": 0,
        "rejection_reason": "",
    }


def test_an_action_tree_is_shown_as_a_tree():
    value = definition_value(task_of(TaskDefinition(root_fs="docker:///x", action=TREE)))
    assert describe_action(value["action"]) == [
        "serial",
        "  download artifact app  from http://a  to /b  user root",
        "  parallel",
        "    try",
        f"      run /one x  as root  env A={MASK}  dir /d",
        "    timeout timeout_ms 500",
        "      emit_progress start_message go",
        "        run /two  as bob",
    ]
    assert describe_action({}) == ["nothing"]


def test_a_hostile_task_cannot_write_on_the_terminal(capsys):
    evil = "\x1b[2J\x9b1m\u202e[bold red]x[/]"
    task = Task(
        "g" + evil,
        "d" + evil,
        summarise(encode_definition(TaskDefinition(root_fs="a:" + evil, action=RunAction("/x" + evil, "root" + evil)))),
        TaskState.COMPLETED,
        1,
        2,
        2,
        cell_id=evil,
        result=evil + "\n" + evil,
        failed=True,
        failure_reason=evil,
        rejection_count=1,
        rejection_reason=evil,
    )
    print_task(task, [], show_secrets=True)
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x9b\u202e")
    assert out.count("[bold red]x[/]") >= 8


@given(st.text())
def test_harmless_text_has_no_control_characters_and_one_line(text):
    shown = harmless(text)
    assert "\n" not in shown
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in shown)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0, "0s"), (119.9, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d")],
)
def test_ages(seconds, text):
    assert show_age(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "-"), (1, "1M"), (1023, "1023M"), (1024, "1G"), (1536, "1.5G"), (10 * 1024, "10G")]
)
def test_sizes(size, text):
    assert show_size_mb(size) == text


def test_times():
    assert show_time(0) == "-"
    assert show_time(86_400_000_000_000).startswith("1970-01-0")
    assert "00:00.123" in show_time(123_000_000)
