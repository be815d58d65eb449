"""machine.py, leftovers.py and probe.py: opening, refusing, sweeping after a kill, reporting."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from support.leaks import LeakCheck
from support.skips import needs_root, require_command, require_root

from bulletin.cell.runtime import machine, mounts, probe, spec
from bulletin.cell.runtime.api import ContainerRefused, DestroyFailed, RuntimeUnusable
from bulletin.cell.runtime.cgroups import Cgroups, parse_layout
from bulletin.cell.runtime.containers import Containers
from bulletin.cell.runtime.engine import EngineFailed
from bulletin.cell.runtime.leftovers import CellLock, sweep

pytestmark = pytest.mark.system


# -- opening ----------------------------------------------------------------------------------------------------


async def refused(settings, match):
    containers = Containers(settings, None)
    with pytest.raises(RuntimeUnusable, match=match):
        await containers.open()
    await containers.close()


async def test_only_root_can(make_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    await refused(make_settings(tmp_path / "data"), "run the cell as root")


@needs_root
async def test_without_an_init(make_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "find_init", lambda: None)
    await refused(make_settings(tmp_path / "data"), "apt-get install catatonit")


@needs_root
async def test_without_control_groups(make_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_mountinfo", lambda: "")
    await refused(make_settings(tmp_path / "data"), "mount -t cgroup2 none /sys/fs/cgroup")


@needs_root
@pytest.mark.parametrize(("engine", "packages"), [("auto", "crun runc"), ("crun", "crun"), ("runc", "runc")])
async def test_without_an_engine(make_settings, tmp_path, monkeypatch, engine, packages):
    monkeypatch.setattr(machine, "find_program", lambda _name: None)
    monkeypatch.setattr(machine, "find_init", lambda: "/bin/true")
    settings = make_settings(tmp_path / "data", engine=engine)
    check = LeakCheck(directories=[tmp_path, settings.run], scope=settings.cell_id, descriptors=True)
    await refused(settings, f"not installed.*apt-get install {packages} catatonit$")
    (tmp_path / "data").rmdir()
    check.assert_clean()


@needs_root
async def test_an_engine_that_runs_nothing_is_passed_over(make_settings, tmp_path, monkeypatch):
    """A false crun that makes no containers; runc is taken instead."""
    require_command("runc", "catatonit")
    false = tmp_path / "crun"
    false.write_text("#!/bin/sh\nexit 3\n")
    false.chmod(0o755)
    real = machine.find_program
    monkeypatch.setattr(machine, "find_program", lambda name: str(false) if name == "crun" else real(name))
    settings = make_settings(tmp_path / "data")
    check = LeakCheck(directories=[tmp_path / "data", settings.run], scope=settings.cell_id, descriptors=True)
    containers = Containers(settings, None)
    await containers.open()
    assert containers.engine == "runc"
    await containers.close()
    assert containers.engine == ""
    (tmp_path / "data").rmdir()
    check.assert_clean()


@needs_root
async def test_a_container_that_ends_badly_is_no_recommendation(make_settings, tmp_path, monkeypatch):
    """An init that does not understand its arguments, as one of another make."""
    require_command("crun", "busybox")
    monkeypatch.setattr(machine, "find_init", lambda: "/bin/busybox")
    settings = make_settings(tmp_path / "data", engine="crun")
    await refused(settings, "a test container ended with status")


@needs_root
async def test_one_process_for_each_cell(open_room):
    async with open_room() as room:
        other = Containers(replace(room.settings, data=room.settings.data / "other"), None)
        with pytest.raises(RuntimeUnusable, match=f"runs on this machine already, as process {os.getpid()}"):
            await other.open()
        other = Containers(replace(room.settings, cell_id=f"{room.settings.cell_id}-other"), None)
        with pytest.raises(RuntimeUnusable, match="give each cell a data directory of its own"):
            await other.open()
        assert (await room.run("echo well")).out == "well\n"


@needs_root
async def test_two_cells_side_by_side(open_room, make_settings, tmp_path, image_directory):
    async with open_room() as one:
        other = Containers(make_settings(tmp_path / "other"), one.containers._images)
        await other.open()
        run = one.sh("hostname")
        container = await other.create(one.order(run, guid="same"))
        assert (await one.run("echo well", guid="same")).out == "well\n"
        await other.close()
        assert not (tmp_path / "other/containers").exists()
        assert container.memory_peak_bytes is None or container.memory_peak_bytes > 0


@needs_root
async def test_closing_destroys_what_is_left(open_room):
    async with open_room() as room:
        run = room.sh("sleep 1000")
        container = await room.containers.create(room.order(run))
        await container.spawn(run, print)
        await room.containers.create(room.order(run, sole=False))


@needs_root
async def test_closing_waits_for_what_is_being_made(open_room, image_directory):
    async with open_room() as room:
        task = asyncio.ensure_future(room.containers.create(room.order(room.sh("true"))))
        while not room.containers._making:
            await asyncio.sleep(0)
        await room.containers.close()
        container = await task
        await container.destroy()


@needs_root
async def test_a_room_can_be_opened_again(open_room):
    async with open_room() as room:
        await room.containers.close()
        await room.containers.open()
        assert (await room.run("echo again")).out == "again\n"


@needs_root
async def test_seccomp_can_be_turned_off(open_room):
    async with open_room(seccomp=False) as room:
        assert (await room.run("grep Seccomp: /proc/self/status")).out == "Seccomp:\t0\n"


@needs_root
async def test_memory_at_its_peak_is_known_afterwards(open_room):
    async with open_room() as room:
        container = await room.containers.create(room.order(room.sh("true")))
        await container.destroy()
        assert container.memory_peak_bytes is None or container.memory_peak_bytes > 0


# -- failures on order ------------------------------------------------------------------------------------------


@needs_root
async def test_a_destroy_that_fails_can_be_tried_again(open_room, monkeypatch):
    async with open_room(engine="runc") as room:
        container = await room.containers.create(room.order(room.sh("true")))
        engine = room.containers._machine.engine

        async def fail(_guid):
            raise EngineFailed("not today")

        with monkeypatch.context() as patch:
            patch.setattr(engine, "delete", fail)
            with pytest.raises(DestroyFailed, match="not today"):
                await container.destroy()
            with pytest.raises(DestroyFailed, match="not today"):
                await container.destroy()
        assert container.guid in room.containers._taken
        await container.destroy()
        assert container.guid not in room.containers._taken


@needs_root
@pytest.mark.parametrize("engine", ["crun", "runc"])
@pytest.mark.parametrize("fault", ["bad bind", "no directory", "full disk"])
async def test_a_create_that_fails_leaves_nothing(open_room, monkeypatch, engine, fault):
    async with open_room(engine=engine) as room:
        real = spec.container_document
        match fault:
            case "bad bind":

                def broken(facts):
                    return real(replace(facts, binds=(spec.Bind("/no/such/file", "/etc/x"),)))

                monkeypatch.setattr(spec, "container_document", broken)
            case "no directory":

                def broken(*_arguments):
                    raise FileNotFoundError(2, "No such file or directory")

                monkeypatch.setattr(mounts, "prepare_upper", broken)
            case "full disk":

                def broken(*_arguments, **_fields):
                    raise OSError(28, "No space left on device")

                monkeypatch.setattr(mounts, "mount_root", broken)
        order = room.order(room.sh("true"))
        with pytest.raises(ContainerRefused):
            await room.containers.create(order)
        assert room.containers._taken == set()
        assert not (room.settings.containers / order.guid).exists()


# -- what a killed cell leaves ----------------------------------------------------------------------------------

CELL = textwrap.dedent(
    """
    import asyncio, json, os, sys
    from pathlib import Path
    from bulletin.cell.images.api import Image
    from bulletin.cell.runtime.api import ContainerOrder
    from bulletin.cell.runtime.containers import Containers, ContainersSettings
    from bulletin.core.actions import RunAction
    from bulletin.core.definition import TaskDefinition

    data, run, cell_id, engine, image = sys.argv[1:]

    class Images:
        async def ensure(self, *_):
            return Image(Path(image), (), "sha256:test")

    async def main():
        containers = Containers(
            ContainersSettings(data=Path(data), run=Path(run), cell_id=cell_id, engine=engine), Images()
        )
        await containers.open()
        run_action = RunAction(path="/bin/sh", args=("-c", "trap '' TERM; sleep 1000 & sleep 1000"), user="vcap")
        definition = TaskDefinition(root_fs="x:y", action=run_action, memory_mb=32)
        for guid, sole, spawn in (("runs", 1, 1), ("waits", 1, 0), ("paused", 0, 0), ("entered", 0, 1)):
            container = await containers.create(ContainerOrder(guid, definition, run_action if sole else None))
            if spawn:
                await container.spawn(run_action, print)
        print(json.dumps(sorted(containers._machine.cgroups.processes(containers._settings.cgroup))), flush=True)
        creating = [
            containers.create(ContainerOrder(f"late-{number}", definition, run_action)) for number in range(8)
        ]
        await asyncio.gather(*creating)
        await asyncio.sleep(1000)

    asyncio.run(main())
    """
)


@needs_root
@pytest.mark.parametrize("engine", ["crun", "runc"])
async def test_what_a_killed_cell_left_is_swept_away(make_settings, tmp_path, image_directory, engine):
    require_command(engine, "catatonit")
    settings = make_settings(tmp_path / "data", engine=engine)
    settings.data.mkdir()
    check = LeakCheck(directories=[settings.data, settings.run], scope=settings.cell_id, descriptors=True)
    arguments = [str(settings.data), str(settings.run), settings.cell_id, engine, str(image_directory)]
    pids = await asyncio.to_thread(start_and_kill, arguments)
    assert len(pids) >= 6
    survivors = [pid for pid in pids if alive(pid)]
    left = os.listdir(settings.containers)

    containers = Containers(settings, None)
    await containers.open()
    cgroups = containers._machine.cgroups
    processes = cgroups.processes(settings.cgroup)
    groups = [name for name in left if cgroups.exists(f"{settings.cgroup}/{name}")]
    directories = os.listdir(settings.containers)
    await containers.close()
    assert survivors == pids, "containers outlive their cell"
    assert {"runs", "waits", "paused", "entered"} <= set(left)
    assert (processes, groups, directories) == (set(), [], [])
    assert not any(alive(pid) for pid in pids)
    check.assert_clean()


def start_and_kill(arguments):
    """Start a cell and kill it while it makes more containers, so that an engine outlives it and goes on."""
    with subprocess.Popen([sys.executable, "-c", CELL, *arguments], stdout=subprocess.PIPE) as cell:
        pids = json.loads(cell.stdout.readline())
        cell.send_signal(signal.SIGKILL)
        cell.wait()
    return pids


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@needs_root
async def test_an_engine_that_does_not_end_is_told(make_settings, tmp_path, monkeypatch):
    settings = make_settings(tmp_path / "data")
    cgroups = Cgroups(parse_layout(machine._mountinfo()))
    lock = CellLock(settings)
    holder = os.open(settings.run / f"{settings.name}.engines.lock", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    monkeypatch.setattr("bulletin.core.limits.ENGINE_SECONDS_MAX", 0.05)
    with pytest.raises(RuntimeUnusable, match="do not end; look into /bulletin/test-"):
        await sweep(settings, cgroups, lock)
    os.close(holder)
    await sweep(settings, cgroups, lock)
    lock.close()
    assert list(settings.run.iterdir()) == []


@needs_root
def test_a_lock_file_that_its_holder_removed_is_not_taken_for_the_lock(make_settings, tmp_path):
    settings = make_settings(tmp_path / "data")
    first = CellLock(settings)
    with pytest.raises(RuntimeUnusable, match="runs on this machine already"):
        CellLock(settings)
    first.close()
    second = CellLock(settings)
    with pytest.raises(RuntimeUnusable, match="runs on this machine already"):
        CellLock(settings)
    second.close()
    assert list(settings.run.iterdir()) == []
    assert not settings.containers.exists()


# -- the report -------------------------------------------------------------------------------------------------


@needs_root
async def test_the_report_of_a_machine_that_is_well(make_settings, tmp_path):
    require_command("crun", "runc", "catatonit")
    settings = make_settings(tmp_path / "not/yet/there")
    check = LeakCheck(directories=[tmp_path, settings.run], scope="probe-", descriptors=True)
    findings = {finding.check: finding for finding in await probe.probe(settings)}
    check.assert_clean()
    for name in (
        "root",
        "crun",
        "runc",
        "init",
        "control groups",
        "container",
        "overlay",
        "user namespaces",
        "seccomp",
    ):
        assert findings[name].ok, findings[name]
        assert findings[name].mend == ""
    assert findings["container"].found == "runs with crun"
    assert {"skopeo", "umoci", "nft", "disk", "open files", "shifted images"} <= set(findings)
    assert not (tmp_path / "not").exists()


async def test_the_report_of_a_machine_that_is_not(make_settings, tmp_path, monkeypatch):
    require_root()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for module in (machine, probe):
        monkeypatch.setattr(module, "find_program", lambda _name: None)
        monkeypatch.setattr(module, "find_init", lambda: None)
    monkeypatch.setattr(probe, "_text", lambda _path: "")
    findings = {finding.check: finding for finding in await probe.probe(make_settings(tmp_path / "data"))}
    mends = {name: finding.mend for name, finding in findings.items() if not finding.ok}
    assert mends["crun"] == "apt-get install crun"
    assert mends["nft"] == "apt-get install nftables"
    assert mends["init"] == "apt-get install catatonit"
    assert mends["control groups"] == "mount -t cgroup2 none /sys/fs/cgroup"
    assert "root" in mends
    assert "run the cell as root" in findings["container"].found
    assert not findings["crun"].required
    assert findings["container"].required
