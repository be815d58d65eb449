"""The committed pictures are those of the tables (docs/diagrams)."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "generate-diagrams"


@pytest.fixture(scope="module")
def tool() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(TOOL)))


class Light(Enum):
    RED = 1
    GREEN = 2


class Switch:
    pass


class Wait:
    pass


class Break:
    pass


LIGHTS = {
    (Switch, None): (Light.RED,),
    (Switch, Light.RED): (Light.GREEN,),
    (Wait, Light.RED): (Light.RED, Light.GREEN),
    (Break, Light.GREEN): (None, Light.RED),
}


def test_no_committed_picture_is_stale(tool):
    assert tool.stale(ROOT) == [], "run tools/generate-diagrams and commit what it writes"


def test_the_life_of_a_task_is_drawn():
    picture = (ROOT / "docs/diagrams/task-lifecycle.md").read_text(encoding="utf-8")
    assert "    [*] --> Pending : Desire\n" in picture
    assert "    Running --> Completed : Complete, Fail, Cancel, Reject, CellDisappeared\n" in picture
    assert "    Completed --> [*] : Prune\n" in picture


def test_a_table_is_drawn_with_one_arrow_for_each_pair_of_states(tool):
    assert tool.draw(LIGHTS).splitlines() == [
        "stateDiagram-v2",
        "    [*] --> Red : Switch",
        "    Red --> Green : Switch, Wait",
        "    Red --> Red : Wait",
        "    Green --> [*] : Break",
        "    Green --> Red : Break",
    ]


def test_what_changes_no_state_may_be_left_out(tool):
    assert "Red --> Red" not in tool.draw(LIGHTS, loops=False)
    assert "Red --> Green : Switch, Wait" in tool.draw(LIGHTS, loops=False)


def test_a_picture_is_stale_until_it_is_drawn_and_once_it_is_touched(tool, tmp_path):
    files = [diagram.file for diagram in tool.DIAGRAMS]
    assert tool.stale(tmp_path) == files
    tool.write(tmp_path)
    assert tool.stale(tmp_path) == []
    (tmp_path / files[0]).write_text("something else", encoding="utf-8")
    assert tool.stale(tmp_path) == files[:1]


def test_the_command_checks_without_the_environment():
    # -I and -S: neither the working directory nor an installed package helps; -B: nothing is left behind.
    command = [sys.executable, "-I", "-S", "-B", str(TOOL), "--check"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_command_fails_when_a_picture_is_stale(tmp_path):
    shutil.copytree(ROOT / "src/bulletin/core", tmp_path / "src/bulletin/core")
    (tmp_path / "src/bulletin/__init__.py").touch()
    (tmp_path / "tools").mkdir()
    tool = shutil.copy(TOOL, tmp_path / "tools")
    check = [sys.executable, "-I", "-S", "-B", tool, "--check"]
    ran = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr.startswith("stale: docs/diagrams/task-lifecycle.md")) == (1, True)
    subprocess.run(check[:-1], timeout=60, check=True)
    subprocess.run(check, timeout=60, check=True)
