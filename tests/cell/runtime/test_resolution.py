"""resolution.py: from a run action to what an engine starts."""

from __future__ import annotations

import pytest

from bulletin.cell.runtime.api import ProcessRefused
from bulletin.cell.runtime.environment import Addresses
from bulletin.cell.runtime.resolution import ProcessContext, resolve_process
from bulletin.cell.runtime.rootfs import Rootfs
from bulletin.core import limits
from bulletin.core.actions import ResourceLimits, RunAction

CONTEXT = ProcessContext(
    image_env=(("IMAGE", "1"),),
    task_env=(("TASK", "2"),),
    addresses=Addresses("10.0.0.1", "10.0.0.2"),
    nofile_max=20_000,
    privileged=False,
)


@pytest.fixture
def rootfs(tmp_path):
    for name in ("etc", "usr/bin", "usr/sbin", "home/vcap"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nvcap:x:2000:2001::/home/vcap:/bin/sh\n")
    for name in ("usr/bin/tool", "usr/sbin/admin"):
        (tmp_path / name).touch(0o755)
    made = Rootfs(str(tmp_path), None)
    yield made
    made.close()


def resolve(rootfs, context=CONTEXT, **fields):
    return resolve_process(RunAction(**{"path": "tool", "user": "vcap", **fields}), rootfs, context)


def test_everything_is_looked_up(rootfs):
    process = resolve(rootfs, args=("-x", "y"), env=(("ACTION", "3"),))
    assert process.args == ("tool", "-x", "y")
    assert (process.uid, process.gid, process.groups, process.cwd) == (2000, 2001, (), "/home/vcap")
    assert {("IMAGE", "1"), ("TASK", "2"), ("ACTION", "3"), ("HOME", "/home/vcap"), ("USER", "vcap")} <= set(
        process.env
    )
    assert process.nofile == 16_384
    assert not process.privileged


def test_what_is_found_depends_on_the_user(rootfs, tmp_path):
    with pytest.raises(ProcessRefused, match="not found"):
        resolve(rootfs, path="admin")
    (tmp_path / "root").mkdir()
    assert resolve(rootfs, path="admin", user="root").uid == 0


def test_a_home_that_is_set_does_not_move_the_working_directory(rootfs):
    assert resolve(rootfs, env=(("HOME", "/elsewhere"),)).cwd == "/home/vcap"


def test_a_relative_directory_is_refused(rootfs):
    with pytest.raises(ProcessRefused, match="Cwd must be an absolute path: home"):
        resolve(rootfs, dir="home")


@pytest.mark.parametrize(
    ("wanted", "given"), [(None, 16_384), (0, 0), (10, 10), (20_000, 20_000), (20_001, 20_000), (2**63, 20_000)]
)
def test_open_files(rootfs, wanted, given):
    assert resolve(rootfs, resource_limits=ResourceLimits(nofile=wanted)).nofile == given


def test_the_default_is_never_above_the_cells_own(rootfs):
    context = ProcessContext((), (), CONTEXT.addresses, nofile_max=1000, privileged=True)
    process = resolve(rootfs, context=context)
    assert process.nofile == 1000
    assert process.privileged


@pytest.mark.parametrize(
    "fields", [{"path": "to\0ol"}, {"args": ("a\0",)}, {"env": (("A", "\0"),)}, {"env": (("A\0B", ""),)}]
)
def test_zero_bytes_are_refused(rootfs, fields):
    with pytest.raises(ProcessRefused, match="zero byte"):
        resolve(rootfs, **fields)


def test_one_long_string(rootfs):
    longest = "x" * (limits.PROCESS_STRING_BYTES_MAX - 1)
    assert resolve(rootfs, args=(longest,)).args[1] == longest
    for fields in ({"args": (longest + "x",)}, {"args": ("é" * 65_536,)}, {"env": (("A", longest),)}):
        with pytest.raises(ProcessRefused, match="argument list too long"):
            resolve(rootfs, **fields)


def test_many_strings_together(rootfs):
    part = "x" * 99_999
    resolve(rootfs, args=(part,) * 10)
    with pytest.raises(ProcessRefused, match="argument list too long"):
        resolve(rootfs, args=(part,) * 11)


def test_values_of_variables_are_not_told(rootfs):
    with pytest.raises(ProcessRefused) as caught:
        resolve(rootfs, env=(("TOKEN", "hush\0"),))
    assert "hush" not in str(caught.value)
