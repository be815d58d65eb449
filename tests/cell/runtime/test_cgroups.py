"""cgroups.py: layouts from texts, counters and sweeping in made-up trees, and the machine's own."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.skips import require_root

from bulletin.cell.runtime import spawn
from bulletin.cell.runtime.cgroups import Cgroups, Kind, Layout, oom_kills, own_group_file, parse_layout

ROOT = "21 1 8:1 / / rw,relatime - ext4 /dev/vda rw\n"
V1 = """\
30 21 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
UNIFIED = "34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
V2 = "40 21 0:31 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,favordynmods\n"
POINTS = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/systemd")


def test_v1():
    assert parse_layout(ROOT + V1) == Layout(Kind.V1, POINTS, "/sys/fs/cgroup/memory")


def test_hybrid():
    expected = Layout(Kind.HYBRID, POINTS, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified")
    assert parse_layout(ROOT + V1 + UNIFIED) == expected


def test_v2():
    point = "/sys/fs/cgroup"
    assert parse_layout(ROOT + V2) == Layout(Kind.V2, (point,), point, point, favor_dynmods=True)


def test_none():
    assert parse_layout(ROOT) == Layout(Kind.NONE)


def test_a_hierarchy_mounted_twice_counts_once():
    again = V1.splitlines()[1].replace("/sys/fs/cgroup/memory", "/mnt/memory") + "\n"
    assert parse_layout(ROOT + V1 + again).hierarchies == POINTS


def test_odd_names_of_mount_points():
    line = "40 21 0:31 / /sys/a\\040b\\134c rw - cgroup2 none rw\n"
    assert parse_layout(line).unified == "/sys/a b\\c"


@given(st.text())
def test_no_text_breaks_it(text):
    assert isinstance(parse_layout(text), Layout)
    assert oom_kills(text) >= 0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", 3),
        ("low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n", 1),
        ("oom_kill_disable 0\nunder_oom 0\n", 0),
        ("oom_kill x\n", 0),
        ("", 0),
    ],
)
def test_the_counter_of_out_of_memory_kills(text, count):
    assert oom_kills(text) == count


@pytest.mark.parametrize(
    ("layout", "membership", "path"),
    [
        (ROOT + V1, "4:cpu,cpuacct:/\n3:memory:/a/b\n", "/sys/fs/cgroup/memory/a/b/cgroup.procs"),
        (ROOT + V1 + UNIFIED, "3:memory:/\n0::/x\n", "/sys/fs/cgroup/memory/cgroup.procs"),
        (ROOT + V2, "0::/system.slice/a:b.service\n", "/sys/fs/cgroup/system.slice/a:b.service/cgroup.procs"),
        (ROOT + V2, "", None),
        (ROOT, "0::/\n", None),
        (ROOT + V1, "4:cpu,cpuacct:/\n", None),
    ],
)
def test_the_group_we_are_in(layout, membership, path):
    assert own_group_file(parse_layout(layout), membership) == path


# -- made-up trees ----------------------------------------------------------------------------------------------


def make_tree(root, kind):
    """A tree of ordinary directories; what belongs to the group ``/b/cell/task`` is in it."""
    if kind is Kind.V2:
        points, memory, unified = (root,), root, root
    else:
        points, memory = (root / "memory", root / "pids"), root / "memory"
        unified = root / "unified" if kind is Kind.HYBRID else None
    for point in {*points, *([unified] if unified else [])}:
        (point / "b/cell/task/below").mkdir(parents=True)
    layout = Layout(kind, tuple(map(str, points)), str(memory), str(unified) if unified else None)
    return Cgroups(layout), memory / "b/cell/task"


KINDS = pytest.mark.parametrize("kind", [Kind.V1, Kind.V2, Kind.HYBRID])


@KINDS
def test_out_of_memory(tmp_path, kind):
    cgroups, memory = make_tree(tmp_path, kind)
    assert not cgroups.out_of_memory("/b/cell/task")
    file = memory / ("memory.events" if kind is Kind.V2 else "memory.oom_control")
    file.write_text("oom_kill 0\n")
    assert not cgroups.out_of_memory("/b/cell/task")
    file.write_text("oom_kill 1\n")
    assert cgroups.out_of_memory("/b/cell/task")
    assert not cgroups.out_of_memory("/b/cell/other")


@KINDS
def test_the_peak(tmp_path, kind):
    cgroups, memory = make_tree(tmp_path, kind)
    assert cgroups.memory_peak_bytes("/b/cell/task") is None
    (memory / ("memory.peak" if kind is Kind.V2 else "memory.max_usage_in_bytes")).write_text("4096\n")
    assert cgroups.memory_peak_bytes("/b/cell/task") == 4096


@KINDS
async def test_removing_from_the_bottom_up_in_every_hierarchy(tmp_path, kind):
    cgroups, _ = make_tree(tmp_path, kind)
    assert cgroups.exists("/b/cell/task")
    assert await cgroups.remove("/b/cell/task")
    assert not cgroups.exists("/b/cell/task")
    assert cgroups.exists("/b/cell")
    assert await cgroups.remove("/b/cell/task"), "gone is gone"


@KINDS
def test_removing_only_what_is_empty(tmp_path, kind):
    cgroups, _ = make_tree(tmp_path, kind)
    cgroups.remove_empty("/b")
    assert cgroups.exists("/b/cell/task")
    cgroups.try_remove("/b/cell")
    cgroups.remove_empty("/b")
    assert not cgroups.exists("/b")


@KINDS
def test_making(tmp_path, kind):
    cgroups, _ = make_tree(tmp_path, kind)
    cgroups.make("/b/new/cell")
    cgroups.make("/b/new/cell")
    assert all(Path(point, "b/new/cell").is_dir() for point in cgroups.layout.hierarchies)


@KINDS
def test_processes_of_all_hierarchies_and_levels(tmp_path, kind):
    cgroups, memory = make_tree(tmp_path, kind)
    (memory / "cgroup.procs").write_text("0\n12\n")
    (memory / "below/cgroup.procs").write_text("13\n")
    assert cgroups.processes("/b/cell/task") == {12, 13}
    assert cgroups.processes("/b/cell/none") == set()


async def test_a_group_that_stays_in_use_is_given_up(tmp_path, monkeypatch):
    cgroups, memory = make_tree(tmp_path, Kind.V1)
    (memory / "below/file").write_text("as good as a process")
    monkeypatch.setattr("bulletin.core.limits.CONTAINER_KILL_SECONDS_MAX", 0.01)
    assert not await cgroups.remove("/b/cell/task")


def test_swap_is_bounded_where_the_kernel_counts_it(tmp_path):
    cgroups, _ = make_tree(tmp_path, Kind.V1)
    assert not cgroups.limits_swap
    (tmp_path / "memory/memory.memsw.limit_in_bytes").write_text("1")
    assert cgroups.limits_swap
    assert make_tree(tmp_path / "v2", Kind.V2)[0].limits_swap


# -- the machine's own ------------------------------------------------------------------------------------------


@pytest.fixture
def machine():
    require_root()
    cgroups = Cgroups(parse_layout(Path("/proc/self/mountinfo").read_text()))
    if cgroups.layout.kind is Kind.NONE:
        pytest.skip("no control groups are mounted")
    group = f"/bulletin-test-{uuid.uuid4().hex[:12]}"
    yield cgroups, group
    assert not cgroups.exists(group)


def move(directory, pid):
    Path(directory, "cgroup.procs").write_text(str(pid))


def freeze(directory):
    for name, value in (("freezer.state", "FROZEN"), ("cgroup.freeze", "1")):
        if Path(directory, name).exists():
            Path(directory, name).write_text(value)
            return True
    return False


def sleeping():
    return spawn.start(spawn.Command(("/bin/sleep", "1000")))


@pytest.mark.system
async def test_killing_and_removing_for_real(machine):
    cgroups, group = machine
    cgroups.make(f"{group}/below")
    pid = sleeping()
    for point in cgroups.layout.hierarchies:
        if "cpuset" not in point:
            move(f"{point}{group}/below", pid)
    assert cgroups.processes(group) == {pid}
    assert await cgroups.kill(group)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert await cgroups.remove(group)
    assert not cgroups.exists(group)


@pytest.mark.system
def test_rousing_the_kernel_changes_nothing():
    require_root()
    membership = Path("/proc/self/cgroup").read_text()
    cgroups = Cgroups(parse_layout(Path("/proc/self/mountinfo").read_text()), membership)
    cgroups.rouse()
    assert Path("/proc/self/cgroup").read_text() == membership


def test_rousing_is_given_up_where_it_cannot_be(tmp_path):
    layout = Layout(Kind.V2, (str(tmp_path),), str(tmp_path), str(tmp_path))
    (tmp_path / "cgroup.procs").mkdir()
    cgroups = Cgroups(layout, "0::/\n")
    cgroups.rouse()
    (tmp_path / "cgroup.procs").rmdir()
    (tmp_path / "cgroup.procs").touch()
    cgroups.rouse()
    assert (tmp_path / "cgroup.procs").read_text() == ""


def test_rousing_writes_our_own_pid(tmp_path):
    layout = Layout(Kind.V2, (str(tmp_path),), str(tmp_path), str(tmp_path))
    (tmp_path / "cgroup.procs").touch()
    Cgroups(layout, "0::/\n").rouse()
    assert (tmp_path / "cgroup.procs").read_text() == str(os.getpid())


@pytest.mark.system
async def test_a_frozen_process_is_killed_too(machine):
    cgroups, group = machine
    cgroups.make(group)
    pid = sleeping()
    freezer = next(point + group for point in cgroups.layout.hierarchies if freeze(point + group))
    move(freezer, pid)
    assert await cgroups.kill(group)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert await cgroups.remove(group)
