"""``bulletin up``: the supervision, with children that do as they are told, and once for real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from bulletin.cli import up as module
from bulletin.cli.up import ChildEnded, Children, Stopped

CHILD = """\
import os, signal, sys, time
name, *words = sys.argv[1:]
log = open(os.environ["CHILD_LOG"], "a")

def note(what):
    log.write(f"{name} {what}\\n")
    log.flush()

def stop(number, frame):
    note("stopped")
    if "deaf" not in words:
        sys.exit(0)

signal.signal(signal.SIGTERM, stop)
note(f"pid {os.getpid()} of {os.getppid()}")
if "dies" in words:
    sys.exit(7)
if "rude" in words:
    print("hello", flush=True)
if "endless" in words:
    print("x" * 9000, flush=True)
if "silent" not in words:
    print(f"ready {name}-place", flush=True)
if "chatty" in words:
    print("more words", flush=True)
    note("chatted")
while True:
    signal.pause()
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("CHILD_LOG", str(path))
    return path


@pytest.fixture
def children(tmp_path, log):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    with Children([sys.executable, str(script)], ready_seconds=30, stop_seconds=30) as children:
        yield children


def pid_of(log: Path, name: str) -> int:
    return next(int(line.split()[2]) for line in log.read_text().splitlines() if line.startswith(f"{name} pid"))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_gets_the_environment_it_is_given_and_no_other(children, log):
    given = {"CHILD_LOG": str(log), "BULLETIN_DATABASE": "postgresql://u:secret@h/d"}
    children.start("board", [], given)
    seen = Path(f"/proc/{pid_of(log, 'board')}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    assert {entry.decode() for entry in seen} >= {f"{name}={value}" for name, value in given.items()}
    assert not any(entry.startswith(b"PATH=") for entry in seen)
    children.start("cell", [])
    assert b"secret" not in Path(f"/proc/{pid_of(log, 'cell')}/environ").read_bytes()


def test_each_is_started_when_the_last_is_ready_and_stopped_in_reverse(children, log):
    assert children.start("board", []) == "board-place"
    assert children.start("cell", []) == "cell-place"
    children.stop()
    lines = log.read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["board", "pid"],
        ["cell", "pid"],
        ["cell", "stopped"],
        ["board", "stopped"],
    ]
    assert not is_alive(pid_of(log, "board"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_a_reason_to_stop(children, number):
    children.start("board", [])
    os.kill(os.getpid(), number)
    with pytest.raises(Stopped):
        children.watch()
    children.stop()


def test_a_signal_ends_the_wait_for_a_ready_line(children):
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped):
        children.start("board", ["silent"])


def test_a_child_that_dies_is_told_of(children, log):
    with pytest.raises(ChildEnded, match="the board ended with status 7"):
        children.start("board", ["dies"])


def test_a_child_that_dies_later_is_told_of(children, log):
    children.start("board", [])
    children.start("cell", [])
    os.kill(pid_of(log, "cell"), signal.SIGKILL)
    with pytest.raises(ChildEnded, match=r"the cell ended by signal 9 \(Killed\)"):
        children.watch()
    children.stop()
    assert log.read_text().splitlines()[-1] == "board stopped"


def test_the_first_may_die_while_the_second_starts(children, log):
    children.start("board", [])
    os.kill(pid_of(log, "board"), signal.SIGKILL)
    with pytest.raises(ChildEnded, match="the board ended"):
        children.start("cell", ["silent"])


@pytest.mark.parametrize(("word", "said"), [("rude", "said b'hello' instead of ready"), ("endless", "said b'xxx")])
def test_a_child_that_says_something_else_is_none_of_ours(children, word, said):
    with pytest.raises(ChildEnded, match=said):
        children.start("board", [word])


def test_a_child_that_says_nothing_is_given_up(children):
    children._ready_seconds = 0.05
    with pytest.raises(ChildEnded, match=r"the board was not ready within 0\.05 s"):
        children.start("board", ["silent"])


def test_a_deaf_child_is_killed(children, log, capsys):
    children._stop_seconds = 0.05
    children.start("board", ["deaf"])
    children.stop()
    assert not is_alive(pid_of(log, "board"))
    assert "did not stop in time and was killed" in capsys.readouterr().err


def test_a_second_signal_kills(children, log, capsys):
    children.start("board", ["deaf"])
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Stopped):
        children.watch()
    os.kill(os.getpid(), signal.SIGINT)
    children.stop()
    assert not is_alive(pid_of(log, "board"))
    assert "told to stop again" in capsys.readouterr().err


def test_further_words_do_not_reach_our_standard_output(children, log, capfd):
    children.start("board", ["chatty"])
    children.start("cell", [])
    while "chatted" not in log.read_text():
        time.sleep(0.001)
    children._step(0)
    out, err = capfd.readouterr()
    assert out == ""
    assert "more words" in err


def test_leaving_leaves_nobody_and_our_signals_as_they_were(tmp_path, log):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    before = signal.getsignal(signal.SIGTERM)
    with Children([sys.executable, str(script)]) as children:
        children.start("board", ["deaf"])
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert not is_alive(pid_of(log, "board"))


def test_the_kernel_ends_them_when_we_are_killed(tmp_path, log):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    parent = textwrap.dedent(f"""
        import os, signal
        from bulletin.cli.up import Children
        with Children([{sys.executable!r}, {str(script)!r}]) as children:
            children.start("board", [])
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", parent], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    pid = pid_of(log, "board")
    for _ in range(10_000):
        if not is_alive(pid):
            break
        time.sleep(0.001)
    assert not is_alive(pid)
    assert log.read_text().splitlines()[-1] == "board stopped"


@pytest.fixture
def fake_program(tmp_path, log, monkeypatch):
    """``bulletin up`` with the children of this file."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    real = Children
    monkeypatch.setattr(module, "Children", lambda: real([sys.executable, str(script)]))
    return log


def test_up_says_ready_once_and_stops_with_0(fake_program, bulletin):
    def stop_when_both_are_there() -> None:
        while "cell pid" not in fake_program.read_text():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop_when_both_are_there)
    stopper.start()
    said = bulletin("up")
    stopper.join()
    assert said.status == 0
    assert said.out in ("", "ready board-place\n")
    assert fake_program.read_text().splitlines()[-1] == "board stopped"


def test_up_ends_with_1_when_one_dies(fake_program, bulletin):
    def kill_the_cell() -> None:
        while "cell pid" not in fake_program.read_text():
            time.sleep(0.001)
        os.kill(pid_of(fake_program, "cell"), signal.SIGKILL)

    killer = threading.Thread(target=kill_the_cell)
    killer.start()
    said = bulletin("up")
    killer.join()
    assert said.status == 1
    assert said.err.startswith("error: the cell ended by signal 9 (Killed)\ntry: ")
    assert fake_program.read_text().splitlines()[-1] == "board stopped"


@pytest.mark.parametrize(
    ("arguments", "err"),
    [
        (("--listen", "nowhere"), "listen: 'nowhere' is not HOST:PORT"),
        (("--listen", "192.0.2.1:80"), "plain HTTP is for loopback only"),
        (("--memory-mb", "-3"), "memory-mb"),
        (("--containers", "0"), "containers"),
        (("--engine", "docker"), "--engine"),
        (("--expire-pending", "soon"), "is not a length of time"),
    ],
)
def test_up_refuses_what_cannot_be_before_it_starts_anything(fake_program, bulletin, arguments, err):
    said = bulletin("up", *arguments)
    assert said.status == 2
    assert err in said.err
    assert fake_program.read_text() == ""


needs_machine = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("busybox", "umoci", "skopeo"))) or not shutil.which("crun"),
    reason="needs root, busybox, crun, skopeo and umoci",
)


@pytest.mark.system
@needs_machine
def test_up_for_real(tmp_path):
    """One image, one board, one cell, one task; and nothing left of them."""
    data = f"--data={tmp_path}"
    base = [sys.executable, "-m", "bulletin"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BULLETIN_")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*base, *arguments], capture_output=True, text=True, timeout=120, env=environment, check=False
        )

    assert run("image", "import", "busybox", f"busybox:{shutil.which('busybox')}", data).returncode == 0
    serving = subprocess.Popen(
        [*base, "up", "--listen", "127.0.0.1:0", data, f"--id=up-{os.getpid()}", "--log-level", "warning"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert serving.stdout is not None
        word, url = serving.stdout.readline().split()
        assert word == "ready"
        environment["BULLETIN_BOARD"] = url
        done = run(
            "run", "busybox", "--result-file", "/tmp/r", "--", "sh", "-c", "echo out; echo err >&2; echo 42 >/tmp/r"
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "out\n42\n", "err\n")
        done = run("run", "busybox", "--", "sh", "-c", "printf tail; exit 7")
        assert (done.returncode, done.stdout, done.stderr) == (7, "tail", "")
        done = run("run", "busybox", "--timeout", "100ms", "--", "sleep", "60")
        assert done.returncode == 124
        assert f"up-{os.getpid()}" in run("cells").stdout
        assert run("task", "list", "--json").stdout == ""
    finally:
        serving.send_signal(signal.SIGTERM)
        rest, _ = serving.communicate(timeout=60)
    assert serving.returncode == 0
    assert rest == ""
