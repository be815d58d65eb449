"""The harness says what went wrong when a process does not serve, and ends what it started."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest
from support.processes import ProcessFailed, ServingProcess, marked

#: Stands in for ``python -m bulletin``: runs the script that is its first argument.
RUNNER = "import sys; exec(sys.argv[1])"


@pytest.fixture
def script_runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes ``python -m bulletin SCRIPT`` run the script; returns the log."""
    package = tmp_path / "modules" / "bulletin"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(RUNNER)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return tmp_path / "log"


def test_ready_and_stop(script_runner: Path) -> None:
    # The signal is blocked first, so that the stop cannot come before the wait for it.
    script = (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {15}); print('ready http://here', flush=True);"
        "signal.sigwait({15}); raise SystemExit(3)"
    )
    process = ServingProcess([script], script_runner)
    assert process.start() == "http://here"
    assert process.running
    assert process.pids() == [process.pid]
    assert process.stop() == 3
    assert not process.running


def test_a_process_that_ends_is_no_server(script_runner: Path) -> None:
    process = ServingProcess(["import sys; print('no disk', file=sys.stderr); sys.exit(1)"], script_runner)
    with pytest.raises(ProcessFailed, match=r"(?s)ended with 1 before it was ready.*no disk"):
        process.start()


def test_a_chatty_process_is_no_server(script_runner: Path) -> None:
    process = ServingProcess(["print('hello', flush=True); input()"], script_runner)
    with pytest.raises(ProcessFailed, match="'hello' instead of being ready"):
        process.start()


def test_a_silent_process_is_given_up(script_runner: Path) -> None:
    process = ServingProcess(["import signal; signal.pause()"], script_runner)
    with pytest.raises(ProcessFailed, match="not ready in time"):
        process.start(within_seconds=0.2)
    assert not process.running


def test_kill_ends_what_it_started(script_runner: Path) -> None:
    script = (
        "import subprocess, sys, signal;"
        "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True);"
        "print('ready x', flush=True); signal.pause()"
    )
    process = ServingProcess([script], script_runner)
    process.start()
    (child,) = set(process.pids()) - {process.pid}
    descriptor = os.pidfd_open(child)
    try:
        process.kill()
        assert select.select([descriptor], [], [], 30)[0], "the child was not killed"
    finally:
        os.close(descriptor)
    assert marked(process.mark) == []
