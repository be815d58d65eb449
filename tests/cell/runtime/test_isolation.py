"""What a task can see and do of its machine, tried from inside real containers under each engine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bulletin.cell.runtime import spec

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

WAYS = pytest.mark.parametrize("sole", [True, False], ids=["sole", "exec"])
STATUS = "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status"
CEILING = 0xA80425FB  # the fourteen of cell.md 5.3


def parse_status(text):
    return {name: int(value, 16) for name, value in (line.split(":\t") for line in text.splitlines())}


async def spawn_until_up(container, run):
    """Start a process and wait until it has said something."""
    said = asyncio.Event()
    process = await container.spawn(run, lambda _stream, _data: said.set())
    await asyncio.wait_for(said.wait(), 30)
    return process


def group(container):
    return container._group


def mounts_here():
    return Path("/proc/self/mountinfo").read_text()


def ours():
    """What this process holds."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":\t") for line in file.read().splitlines() if line.startswith(("CapEff", "CapBnd")))
    return int(lines["CapEff"], 16) & int(lines["CapBnd"], 16)


@WAYS
@pytest.mark.parametrize("user", ["vcap", "root"])
async def test_rights_of_an_unprivileged_process(room, sole, user):
    status = parse_status((await room.run(room.sh(STATUS, user=user), sole=sole)).out)
    held = CEILING & ours() if user == "root" else 0
    assert status == {
        "CapInh": 0,
        "CapPrm": held,
        "CapEff": held,
        "CapBnd": CEILING & ours(),
        "CapAmb": 0,
        "NoNewPrivs": 1,
        "Seccomp": 2,
    }


@WAYS
async def test_rights_of_a_privileged_process(room, sole):
    root = parse_status((await room.run(room.sh(STATUS, user="root"), sole=sole, privileged=True)).out)
    assert root["CapEff"] == root["CapBnd"] == ours()
    assert root["Seccomp"] == 0
    user = parse_status((await room.run(room.sh(STATUS), sole=sole, privileged=True)).out)
    assert user["CapEff"] == user["CapPrm"] == user["CapInh"] == user["CapAmb"] == 0
    assert user["CapBnd"] == (CEILING | 1 << 21) & ours()


@WAYS
@pytest.mark.parametrize("privileged", [False, True])
@pytest.mark.parametrize(("user", "uid"), [("root", 0), ("vcap", 2000)])
async def test_ids_as_the_machine_sees_them(room, sole, privileged, user, uid):
    run = room.sh("echo mine > /tmp/mine; echo up; exec sleep 1000", user=user)
    async with room.container(run, sole=sole, privileged=privileged) as container:
        process = await spawn_until_up(container, run)
        base = 0 if privileged else room.settings.ids.base
        assert os.stat(f"/proc/{process.child.pid}").st_uid == base + uid
        await container.read_result("/tmp/mine", 100)
        upper = room.settings.containers / container.guid / "upper"
        assert (upper / "tmp/mine").lstat().st_uid == base + uid
        assert upper.stat().st_uid == base


#: What neither a user nor root of an unprivileged container may do.
FORBIDDEN = (
    "mount -t tmpfs none /tmp",
    "mount -o remount,rw /sys",
    "umount /proc",
    "unshare -U true",
    "unshare -m true",
    "unshare -n true",
    "mknod /tmp/disk b 8 0 && cat /tmp/disk",
    "mknod /tmp/mem c 1 1 && cat /tmp/mem",
    "chroot /proc/1/root/../.. /bin/true && cat /proc/kcore > /dev/null && false",
    "echo h > /proc/sysrq-trigger",
    "echo 1 > /proc/sys/kernel/sysrq",
    "echo x > /proc/sys/kernel/core_pattern",
    "cat /proc/kcore",
    "head -c 1 /proc/kcore | grep .",
    "cat /proc/keys | grep .",
    "cat /proc/timer_list | grep .",
    "ls /sys/firmware | grep .",
    "echo x > /sys/kernel/x",
    "dmesg",
    "date -s 2000-01-01; date +%Y | grep 2000",
    "hostname other",
    "ip link add x type dummy",
    "echo 1 > /proc/1/oom_score_adj && echo -500 > /proc/1/oom_score_adj",
    "swapoff -a; swapon /tmp",
    "insmod /tmp/x.ko",
    "losetup /dev/loop0 /bin/busybox",
    "nsenter -t 1 -m true",
    "pivot_root /tmp /tmp",
    "echo x >> /dev/.init",
    "rm /dev/.init",
    "cat /dev/fuse",
    "ping -c 1 -W 1 192.0.2.1",
)


@WAYS
@pytest.mark.parametrize("user", ["vcap", "root"])
async def test_refused_to_an_unprivileged_task(room, sole, user):
    script = "\n".join(f"{{ {attempt}; }} > /dev/null && echo {number}" for number, attempt in enumerate(FORBIDDEN))
    outcome = await room.run(room.sh(f"echo begun\n{script}\necho ended", user=user), sole=sole)
    begun, *done, ended = outcome.out.splitlines()
    assert (begun, ended) == ("begun", "ended")
    assert [FORBIDDEN[int(number)] for number in done] == []


#: Starts a set-user-id program and shows the user ids it runs with: real, effective, saved, of the file system. Its
#: name is there before its ids are; it sleeps only when it has both.
SET_USER_ID = """
    /bin/set-user-id -P &
    until grep -q set-user-id /proc/$!/cmdline && grep -q '^State:.S' /proc/$!/status; do :; done
    grep Uid: /proc/$!/status | tr -s '\\t' ' '
"""


@WAYS
async def test_a_set_user_id_program_gives_nothing(room, sole):
    assert (await room.run(SET_USER_ID, sole=sole)).out == "Uid: 2000 2000 2000 2000\n"


@WAYS
async def test_a_set_user_id_program_works_in_a_privileged_container(room, sole):
    assert (await room.run(SET_USER_ID, sole=sole, privileged=True)).out == "Uid: 2000 0 0 0\n"


#: Writes a setting of the whole machine back as it is.
WRITE_SETTING = "cat /proc/sys/kernel/panic > /tmp/panic; cat /tmp/panic > /proc/sys/kernel/panic && echo DONE"


@WAYS
@pytest.mark.parametrize(("privileged", "out"), [(True, "DONE\n"), (False, "")])
async def test_only_a_privileged_root_is_root_of_the_machine(room, sole, privileged, out):
    run = room.sh(WRITE_SETTING, user="root")
    assert (await room.run(run, sole=sole, privileged=privileged)).out == out


async def test_a_privileged_root_mounts(room):
    run = room.sh("mkdir /mnt && mount -t tmpfs none /mnt && echo DONE", user="root")
    assert (await room.run(run, privileged=True)).out == "DONE\n"


async def test_a_mount_of_a_privileged_container_is_seen_nowhere_else(room):
    run = room.sh("mkdir /leak; mount -t tmpfs bulletin-leak /leak; echo up; sleep 1000", user="root")
    async with room.container(run, privileged=True) as container:
        await spawn_until_up(container, run)
        assert "bulletin-leak" not in mounts_here()
        inside = await room.containers._machine.mounts.run(Path("/proc/thread-self/mountinfo").read_text)
        assert container.guid in inside
        assert "bulletin-leak" not in inside


@WAYS
@pytest.mark.parametrize("privileged", [False, True])
async def test_only_its_own_processes_are_seen(room, sole, privileged):
    outcome = await room.run("ps -o pid,args | tail -n +2", sole=sole, privileged=privileged)
    commands = [line.split(None, 1)[1] for line in outcome.out.splitlines()]
    assert commands[0].startswith(spec.INIT_PATH)
    assert len(commands) <= 4
    assert all(word in spec.INIT_PATH or word for word in commands)


async def test_a_task_cannot_kill_its_init(room):
    outcome = await room.run("kill -9 1; kill -15 1; sleep 0.05; echo alive", sole=False)
    assert outcome.out == "alive\n"


@WAYS
async def test_there_is_no_network_but_the_loopback(room, sole):
    script = """
        ls /sys/class/net; ip -o addr | grep -o 'inet [0-9./]*'
        nc -l -p 7777 < /etc/passwd > /dev/null &
        until nc -w 5 127.0.0.1 7777 < /dev/null > /tmp/got 2> /dev/null; do :; done; head -1 /tmp/got
        nc -w 1 192.0.2.1 80 < /dev/null || echo unreachable
    """
    outcome = await room.run(script, sole=sole)
    assert outcome.out.splitlines() == ["lo", "inet 127.0.0.1/8", "root:x:0:0:root:/root:/bin/sh", "unreachable"]


async def test_the_hostname_is_the_guid(room):
    assert (await room.run("hostname; cat /proc/sys/kernel/hostname", guid="guid-1")).out == "guid-1\nguid-1\n"
    assert (await room.run("hostname", guid="g" * 100)).out == "g" * 64 + "\n"


async def test_nothing_of_the_machine_is_mounted(room):
    outcome = await room.run("cat /proc/self/mountinfo")
    for line in outcome.out.splitlines():
        left, _, right = line.partition(" - ")
        point, kind = left.split()[4], right.split()[0]
        assert kind in ("overlay", "proc", "tmpfs", "devpts", "mqueue", "sysfs", "devtmpfs"), line
        if point == "/":
            assert {"nosuid", "nodev"} <= set(left.split()[5].split(",")), line
            assert "volatile" in right, "else the machine syncs its disk whenever a container goes"


async def test_control_groups_do_not_tell_where_they_are(room):
    outcome = await room.run("cat /proc/self/cgroup; ls /sys/fs/cgroup | wc -l")
    *groups, entries = outcome.out.splitlines()
    assert {line.split(":", 2)[2] for line in groups} == {"/"}
    assert entries == "0"


@WAYS
async def test_no_descriptor_of_the_cell_comes_along(room, sole):
    run = room.sh("echo up; exec sleep 1000")
    async with room.container(run, sole=sole) as container:
        process = await spawn_until_up(container, run)
        # Of the init too: it reads its signals from a descriptor, and the task could read the init's.
        for pid in {
            process.child.pid,
            container._init.pid,
            *room.containers._machine.cgroups.processes(group(container)),
        }:
            targets = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
            assert targets.pop("0") == "/dev/null"
            assert all(target.startswith(("pipe:", "/dev/null")) for target in (targets.pop("1"), targets.pop("2")))
            assert set(targets.values()) <= {"anon_inode:[signalfd]"}


async def test_the_secrets_of_the_cells_environment_do_not_come_along(room, monkeypatch):
    monkeypatch.setenv("BULLETIN_SECRET", "hush")
    for sole in (True, False):
        outcome = await room.run("cat /proc/*/environ; env", sole=sole)
        assert "hush" not in outcome.out


async def test_one_task_does_not_see_the_files_of_another(room):
    run = room.sh("echo secret > /tmp/mine; echo secret > /dev/shm/mine; echo up; sleep 1000")
    async with room.container(run) as container:
        await spawn_until_up(container, run)
        assert (await room.run("ls /tmp /dev/shm | grep mine; echo none")).out == "none\n"


async def test_signals_of_the_cells_terminal_do_not_reach_a_task(room):
    run = room.sh("echo up; sleep 1000")
    for sole in (True, False):
        async with room.container(run, sole=sole) as container:
            process = await spawn_until_up(container, run)
            assert os.getpgid(process.child.pid) != os.getpgrp()
