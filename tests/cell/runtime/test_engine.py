"""engine.py: commands, logs, and a false runtime that fails on order."""

from __future__ import annotations

import os
import stat

import pytest
from support.skips import needs_root

from bulletin.cell.runtime.engine import EngineFailed, EngineKind, OciEngine, Streams, last_error
from bulletin.cell.runtime.linux import set_child_subreaper
from bulletin.cell.runtime.namespace import MountNamespace

KIND = EngineKind(
    "false-runtime",
    "none",
    ("--flag",),
    takes_program=False,
    starts_by_fifo=True,
    keeps_plain_files=True,
    refuses_hybrid=False,
)


@pytest.mark.parametrize(
    ("log", "text"),
    [
        ("", ""),
        ("plain text\n", "plain text"),
        ('{"level":"error","msg":"first"}\n{"level":"error","msg":"last"}\n', "last"),
        ('{"level":"error","msg":"real"}\n{"level":"warning","msg":"no"}\n', "real"),
        ('{"level":"error","msg":"real"}\n{"level":"err', "real"),
        ('{"level":"info","msg":"x"}\n', '{"level":"info","msg":"x"}'),
        ("[]\n1\nnull\n", "[]\n1\nnull"),
        ('{"level":"error","msg":7}', "7"),
    ],
)
def test_the_last_error_of_a_log(log, text):
    assert last_error(log) == text


@pytest.fixture
async def make_engine(tmp_path):
    """Make an engine out of a shell script, in which ``$verb`` and ``$bundle`` are set."""
    set_child_subreaper()
    spaces = []
    (tmp_path / "engine").mkdir()
    (tmp_path / "bundles/task").mkdir(parents=True)
    fd = os.open(tmp_path, os.O_PATH)
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)

    def make(script):
        program = tmp_path / "program"
        program.write_text(
            f'#!/bin/sh\nbundle={tmp_path}/bundles/task; echo "$@" >> {tmp_path}/calls\n'
            f'for verb in "$@"; do case $verb in create|start|exec|delete) break;; esac; done\n{script}\n'
        )
        program.chmod(0o755)
        namespace = MountNamespace()
        spaces.append(namespace)
        return OciEngine(KIND, str(program), str(tmp_path), fd, namespace, lock)

    yield make
    for namespace in spaces:
        await namespace.close()
    os.close(fd)
    os.close(lock)


async def test_create_hands_over_the_init(make_engine, tmp_path):
    engine = make_engine("sleep 1000 & echo $! > $bundle/create.pid; : <&3")
    prepared = []

    def prepare():
        prepared.append(True)
        return Streams()

    init = await engine.create("task", prepare)
    assert prepared == [True]
    assert init.pid == int((tmp_path / "bundles/task/create.pid").read_text())
    assert not init.ended
    assert await init.kill()
    directory = tmp_path
    assert (tmp_path / "calls").read_text() == (
        f"--root {directory}/engine --flag --log {directory}/bundles/task/create.log --log-format json create"
        f" --bundle {directory}/bundles/task --pid-file {directory}/bundles/task/create.pid -- task\n"
    )


async def test_a_failed_create_tells_the_engines_reason(make_engine):
    engine = make_engine("""echo '{"level":"error","msg":"no luck"}' > $bundle/create.log; exit 7""")
    with pytest.raises(EngineFailed, match="false-runtime: no luck"):
        await engine.create("task", Streams)


async def test_a_failure_without_a_reason(make_engine):
    with pytest.raises(EngineFailed, match="false-runtime: exit status 7"):
        await make_engine("exit 7").create("task", Streams)
    with pytest.raises(EngineFailed, match="false-runtime: exit status 137"):
        await make_engine("kill -9 $$").create("task", Streams)


async def test_what_prepare_raises_comes_out_and_nothing_is_run(make_engine, tmp_path):
    def prepare():
        raise LookupError("not today")

    with pytest.raises(LookupError, match="not today"):
        await make_engine("").create("task", prepare)
    assert not (tmp_path / "calls").exists()


@needs_root
async def test_an_engine_that_hangs_is_killed_with_all_below_it(make_engine, monkeypatch):
    monkeypatch.setattr("bulletin.core.limits.ENGINE_SECONDS_MAX", 0.2)
    before = children()
    with pytest.raises(EngineFailed, match="took longer than"):
        await make_engine("sleep 1000 & sleep 1000").create("task", Streams)
    with pytest.raises(EngineFailed, match="took longer than"):
        await make_engine("sleep 1000").delete("task")
    assert children() == before, "whatever else the session runs"


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


async def test_start_by_the_fifo_runs_nothing(make_engine, tmp_path):
    engine = make_engine("exit 1")
    (tmp_path / "engine/task").mkdir()
    os.mkfifo(tmp_path / "engine/task/exec.fifo")
    listener = os.open(tmp_path / "engine/task/exec.fifo", os.O_RDONLY | os.O_NONBLOCK)
    await engine.start("task")
    assert os.read(listener, 10) == b"\0"
    os.close(listener)
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("there", [False, True])
async def test_start_falls_back_to_the_engine(make_engine, tmp_path, there):
    if there:
        (tmp_path / "engine/task").mkdir()
        os.mkfifo(tmp_path / "engine/task/exec.fifo")  # and nobody listens
    await make_engine("test $verb = start").start("task")
    assert (tmp_path / "calls").read_text().endswith("start -- task\n")
    with pytest.raises(EngineFailed, match="start: sorry"):
        await make_engine("echo sorry >&2; exit 1").start("task")


async def test_execute(make_engine, tmp_path):
    engine = make_engine("sleep 1000 & echo $! > $bundle/process.1.pid")
    child = await engine.execute("task", "process.1", Streams)
    assert await child.kill()
    call = (tmp_path / "calls").read_text()
    bundle = tmp_path / "bundles/task"
    assert call.endswith(f"exec --detach --process {bundle}/process.1 --pid-file {bundle}/process.1.pid -- task\n")


async def test_delete(make_engine, tmp_path):
    await make_engine("test $verb = delete").delete("-odd")
    assert (tmp_path / "calls").read_text().endswith("delete --force -- -odd\n")
    with pytest.raises(EngineFailed, match="delete: still there"):
        await make_engine("echo still there >&2; exit 1").delete("task")


async def test_forgetting_removes_plain_files_and_nothing_else(make_engine, tmp_path):
    engine = make_engine("")
    assert not engine.forget("task")
    (tmp_path / "engine/task").mkdir()
    (tmp_path / "engine/task/status").touch()
    os.mkfifo(tmp_path / "engine/task/exec.fifo")
    assert engine.forget("task")
    assert os.listdir(tmp_path / "engine") == []
    (tmp_path / "engine/task/below").mkdir(parents=True)
    assert not engine.forget("task"), "what it does not know it leaves to the engine"
    assert stat.S_ISDIR((tmp_path / "engine/task/below").stat().st_mode)
