"""The real Go client of the BBS, unchanged, against a running board and cell; the tests themselves are in ``go/``."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from support.bulletin import BulletinUp
from support.skips import require_command

MODULE = Path(__file__).parent / "go"
#: The first build fetches and compiles the client's modules.
BUILD_SECONDS = 600
#: One Go test: its own waits are bounded by a minute each.
RUN_SECONDS = 180

GO_TESTS = sorted(
    name
    for source in MODULE.glob("*_test.go")
    for name in re.findall(r"^func (Test\w+)\(t \*testing\.T\)", source.read_text(), re.MULTILINE)
)


@pytest.fixture(scope="module")
def go_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled Go tests."""
    require_command("go")
    binary = tmp_path_factory.mktemp("go") / "interop.test"
    build = subprocess.run(
        ["go", "test", "-c", "-vet=all", "-o", str(binary), "."],
        cwd=MODULE,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return binary


def test_every_go_test_is_known(go_tests: Path) -> None:
    """The list below is read from the sources; the compiler's own list has to be the same."""
    listed = subprocess.run(
        [str(go_tests), "-test.list", "."], cwd=MODULE, capture_output=True, text=True, timeout=60, check=True
    )
    assert sorted(listed.stdout.split()) == GO_TESTS
    assert GO_TESTS


@pytest.mark.system
@pytest.mark.parametrize("name", GO_TESTS)
def test_go_client(name: str, go_tests: Path, bulletin_up: BulletinUp) -> None:
    run = subprocess.run(
        [str(go_tests), "-test.v", "-test.run", f"^{name}$", "-test.timeout", f"{RUN_SECONDS}s"],
        cwd=MODULE,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS + 10,
        check=False,
        env={**os.environ, "BULLETIN_BOARD_URL": bulletin_up.url, "BULLETIN_CELL_ID": bulletin_up.cell_id},
    )
    story = f"{run.stdout}{run.stderr}\nthe end of bulletin's log:\n{bulletin_up.process.log_text()[-4000:]}"
    assert run.returncode == 0, story
    assert f"--- PASS: {name} " in run.stdout, story
