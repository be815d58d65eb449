"""containers.py and container.py with the real system: what a task sees and what comes back of it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from bulletin.cell.runtime.api import (
    ContainerRefused,
    ProcessExit,
    ProcessRefused,
    ResultUnreadable,
    Signal,
    Stream,
)
from bulletin.core import limits
from bulletin.core.actions import ResourceLimits, RunAction
from bulletin.core.definition import File, VolumeMount

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

#: A container made for its process, and one whose processes join it later.
BOTH_WAYS = pytest.mark.parametrize("sole", [True, False], ids=["sole", "exec"])


async def until_output(output, text):
    async with asyncio.timeout(30):
        while text not in output.out:
            await asyncio.sleep(0.001)


# -- the happy path ---------------------------------------------------------------------------------------------


@BOTH_WAYS
async def test_hello_world(room, sole):
    outcome = await room.run("echo hello world > result-file.txt", sole=sole, result="/home/vcap/result-file.txt")
    assert outcome.exit == ProcessExit(0)
    assert outcome.result == b"hello world\n"


@BOTH_WAYS
async def test_both_outputs_come_apart_and_whole(room, sole):
    outcome = await room.run("echo out; echo err >&2; seq 1 100000", sole=sole)
    assert outcome.out == "out\n" + "".join(f"{n}\n" for n in range(1, 100_001))
    assert outcome.err == "err\n"


@BOTH_WAYS
async def test_the_streams_can_be_opened_by_name(room, sole):
    outcome = await room.run("echo a > /dev/stdout; echo b > /dev/stderr", sole=sole)
    assert (outcome.out, outcome.err) == ("a\n", "b\n")


@BOTH_WAYS
async def test_there_is_no_input(room, sole):
    assert (await room.run("cat; echo end", sole=sole)).out == "end\n"


@BOTH_WAYS
@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 1", 1), ("exit 127", 127), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)],
)
async def test_exit_statuses(room, sole, script, status):
    assert (await room.run(script, sole=sole)).exit == ProcessExit(status)


async def test_an_abandoned_child_is_reaped_and_does_not_outlive_the_process(room):
    outcome = await room.run("(sleep 1000 &) ; sh -c 'true & exec true'; echo done")
    assert outcome.out == "done\n"


# -- the process ------------------------------------------------------------------------------------------------


@BOTH_WAYS
async def test_the_user_and_its_groups(room, sole):
    assert (await room.run("id", sole=sole)).out == "uid=2000(vcap) gid=2000(vcap) groups=50(staff)\n"


@BOTH_WAYS
async def test_root(room, sole):
    run = room.sh("id -u; id -g; echo $HOME; cat /etc/secret", user="root")
    assert (await room.run(run, sole=sole)).out == "0\n0\n/root\nroot only\n"


@BOTH_WAYS
async def test_an_unknown_user_is_refused(room, sole):
    run = room.sh("true", user="alice")
    async with room.container(run, sole=sole) as container:
        with pytest.raises(ProcessRefused, match="unable to find user alice"):
            await container.spawn(run, print)


@BOTH_WAYS
async def test_a_user_beyond_the_ids_of_the_container_is_refused(room, sole):
    run = room.sh("true", user="far")
    async with room.container(run, sole=sole) as container:
        with pytest.raises(ProcessRefused, match="id 70000 is not mapped"):
            await container.spawn(run, print)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("nope", r'exec: "nope": executable file not found in \$PATH'),
        ("/bin/nope", 'exec: "/bin/nope": no such file or directory'),
        ("plain", 'exec: "plain": permission denied'),
        ("/bin/plain", 'exec: "/bin/plain": permission denied'),
        ("/home", 'exec: "/home": permission denied'),
        ("", 'exec: "": permission denied'),
        ("lost", 'exec: "lost": its interpreter /no/such/shell is not there'),
        ("/bin/lost", 'exec: "/bin/lost": its interpreter /no/such/shell is not there'),
    ],
)
async def test_a_program_that_cannot_be_run_is_refused(room, sole, path, text):
    run = RunAction(path=path, user="vcap")
    async with room.container(run, sole=sole) as container:
        with pytest.raises(ProcessRefused, match=text):
            await container.spawn(run, print)


async def test_the_result_can_be_read_though_the_process_was_refused(room):
    run = room.sh("true", user="alice")
    async with room.container(run) as container:
        with pytest.raises(ProcessRefused):
            await container.spawn(run, print)
        assert (await container.read_result("/etc/passwd", 51_200)).startswith(b"root:")


@BOTH_WAYS
async def test_a_name_is_looked_up_in_the_path_of_the_process(room, sole):
    run = RunAction(path="sh", args=("-c", "echo $0 $PATH"), user="vcap", env=(("PATH", "/srv:/bin"),))
    assert (await room.run(run, sole=sole)).out == "sh /srv:/bin\n"
    lost = RunAction(path="sh", user="vcap", env=(("PATH", "/srv"),))
    async with room.container(lost, sole=sole) as container:
        with pytest.raises(ProcessRefused, match="not found"):
            await container.spawn(lost, print)


@BOTH_WAYS
async def test_arguments_arrive_as_they_are(room, sole):
    hard = ("", " ", "a b", "-x", "--", "$HOME", "'\"\\", "ünï", "\n")
    run = RunAction(path="/bin/sh", args=("-c", 'for a in "$@"; do printf "<%s>" "$a"; done', "sh", *hard), user="vcap")
    assert (await room.run(run, sole=sole)).out == "".join(f"<{text}>" for text in hard)


@BOTH_WAYS
async def test_zero_bytes_and_endless_arguments_are_refused(room, sole):
    for argument, text in (("a\0b", "zero byte"), ("x" * 131_072, "argument list too long")):
        run = RunAction(path="/bin/true", args=(argument,), user="vcap")
        async with room.container(run, sole=sole) as container:
            with pytest.raises(ProcessRefused, match=text):
                await container.spawn(run, print)


async def test_the_longest_argument_goes_through(room):
    run = RunAction(path="/bin/sh", args=("-c", "echo ${#0}", "x" * 131_071), user="vcap")
    assert (await room.run(run)).out == "131071\n"


@BOTH_WAYS
async def test_the_environment_in_its_order(room, sole):
    run = RunAction(
        path="/bin/env",
        user="vcap",
        env=(("BOTH", "action"), ("TWICE", "old"), ("TWICE", "new"), ("CF_INSTANCE_IP", "mine")),
    )
    task_env = (("BOTH", "task"), ("TASK", "a=b"), ("FROM_IMAGE", "no"))
    outcome = await room.run(run, sole=sole, environment_variables=task_env)
    variables = dict(line.split("=", 1) for line in outcome.out.splitlines())
    assert {name: value for name, value in variables.items() if name not in ("PWD", "OLDPWD", "SHLVL")} == {
        "PATH": "/bin",
        "FROM_IMAGE": "no",
        "TASK": "a=b",
        "BOTH": "action",
        "TWICE": "new",
        "CF_INSTANCE_IP": "127.0.0.1",
        "CF_INSTANCE_INTERNAL_IP": "127.0.0.1",
        "CF_INSTANCE_PORT": "",
        "CF_INSTANCE_ADDR": "",
        "CF_INSTANCE_PORTS": "[]",
        "USER": "vcap",
        "HOME": "/home/vcap",
    }


@BOTH_WAYS
async def test_a_missing_directory_is_made_for_the_user(room, sole):
    run = room.sh("echo $PWD; stat -c '%u:%g %a' /srv /srv/a /srv/a/b; touch here", dir="/srv/a/b")
    outcome = await room.run(run, sole=sole)
    assert outcome.out == "/srv/a/b\n0:0 755\n2000:2000 755\n2000:2000 755\n"
    assert outcome.exit.status == 0


@BOTH_WAYS
@pytest.mark.parametrize(
    ("directory", "text"),
    [("srv", "Cwd must be an absolute path"), ("/etc/passwd/x", "unable to create working directory")],
)
async def test_an_impossible_directory_is_refused(room, sole, directory, text):
    run = room.sh("true", dir=directory)
    async with room.container(run, sole=sole) as container:
        with pytest.raises(ProcessRefused, match=text):
            await container.spawn(run, print)


@BOTH_WAYS
@pytest.mark.parametrize(("nofile", "expected"), [(None, 16_384), (100, 100), (64, 64), (10**9, None)])
async def test_open_files(room, sole, nofile, expected):
    if expected is None:
        expected = room.containers._machine.nofile_max
    run = room.sh("ulimit -Sn; ulimit -Hn", resource_limits=ResourceLimits(nofile=nofile))
    assert (await room.run(run, sole=sole)).out == f"{expected}\n{expected}\n"


async def test_too_few_open_files_to_start_at_all_are_told(room):
    run = room.sh("true", resource_limits=ResourceLimits(nofile=3))
    async with room.container(run) as container:
        with pytest.raises(ProcessRefused, match="too many open files"):
            await container.spawn(run, print)


# -- limits -----------------------------------------------------------------------------------------------------


@BOTH_WAYS
async def test_too_much_memory_is_told(room, sole):
    outcome = await room.run("dd if=/dev/zero of=/dev/null bs=200M count=1", sole=sole, memory_mb=24)
    assert outcome.exit == ProcessExit(137, out_of_memory=True)


async def test_an_out_of_memory_kill_below_the_process_is_told(room):
    outcome = await room.run("dd if=/dev/zero of=/dev/null bs=200M count=1; exit 3", memory_mb=24)
    assert outcome.exit == ProcessExit(3, out_of_memory=True)


async def test_enough_memory_is_not_told(room):
    assert (await room.run("exit 137", memory_mb=24)).exit == ProcessExit(137, out_of_memory=False)


async def test_the_number_of_processes_is_bounded(room):
    outcome = await room.run("for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo all", max_pids=6)
    assert "all" not in outcome.out
    assert "can't fork" in outcome.err


async def test_the_limits_stand_in_the_kernel(room):
    run = room.sh("echo up; sleep 1000")
    async with room.container(run, memory_mb=32, max_pids=20, cpu_weight=50) as container:
        output = Output()
        await container.spawn(run, output)
        await until_output(output, "up")
        assert limits_of(room, container.guid) == {"memory": 32 << 20, "pids": 20, "shares": 512}


def limits_of(room, guid):
    cgroups, group = room.containers._machine.cgroups, f"{room.settings.cgroup}/{guid}"
    names = {"memory.limit_in_bytes": "memory", "memory.max": "memory", "pids.max": "pids", "cpu.shares": "shares"}
    found = {}
    for point in cgroups.layout.hierarchies:
        for name, key in names.items():
            path = f"{point}{group}/{name}"
            if os.path.exists(path):
                with open(path) as file:
                    found[key] = int(file.read())
    return found


# -- signals ----------------------------------------------------------------------------------------------------


@BOTH_WAYS
@pytest.mark.parametrize(("which", "status"), [(Signal.TERM, 143), (Signal.KILL, 137)])
async def test_a_signal_ends_a_shell_at_once(room, sole, which, status):
    run = room.sh("echo up; sleep 1000")
    async with room.container(run, sole=sole) as container:
        output = Output()
        process = await container.spawn(run, output)
        await until_output(output, "up")
        process.signal(which)
        assert await asyncio.wait_for(process.wait(), 10) == ProcessExit(status)
        process.signal(which)  # of no use, and no harm


@BOTH_WAYS
async def test_a_signal_right_after_the_start_is_not_lost(room, sole):
    run = room.sh("sleep 1000")
    for _ in range(5):
        async with room.container(run, sole=sole) as container:
            process = await container.spawn(run, print)
            process.signal(Signal.TERM)
            assert await asyncio.wait_for(process.wait(), 10) == ProcessExit(143)


@BOTH_WAYS
async def test_a_process_may_handle_the_signal(room, sole):
    run = room.sh("trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.01; done")
    async with room.container(run, sole=sole) as container:
        output = Output()
        process = await container.spawn(run, output)
        await until_output(output, "up")
        process.signal(Signal.TERM)
        assert await asyncio.wait_for(process.wait(), 10) == ProcessExit(5)
        assert output.out == "up\nbye\n"


@BOTH_WAYS
async def test_a_process_that_ignores_the_first_is_ended_by_the_second(room, sole):
    run = room.sh("trap '' TERM; echo up; while :; do sleep 0.01; done")
    async with room.container(run, sole=sole) as container:
        output = Output()
        process = await container.spawn(run, output)
        await until_output(output, "up")
        process.signal(Signal.TERM)
        process.signal(Signal.KILL)
        assert await asyncio.wait_for(process.wait(), 10) == ProcessExit(137)


# -- files of the cell ------------------------------------------------------------------------------------------


@BOTH_WAYS
async def test_names_of_itself_are_known(room, sole):
    outcome = await room.run("grep localhost /etc/hosts | head -1; grep -c 'g-1$' /etc/hosts", sole=sole, guid="g-1")
    assert outcome.out == "127.0.0.1 localhost\n1\n"
    run = room.sh("echo x >> /etc/hosts", user="root")
    for privileged in (False, True):
        assert (await room.run(run, sole=sole, privileged=privileged)).exit.status != 0


@BOTH_WAYS
async def test_files_of_the_definition(room, sole):
    files = (File("db/uri", "first"), File("db/uri", "postgres://ü"), File("/db/type", "sql\n"), File("one", ""))
    script = "cd /etc/cf-service-bindings; find . -type f | sort; cat db/uri db/type; stat -c %a one db; touch one"
    outcome = await room.run(script, sole=sole, volume_mounted_files=files)
    assert outcome.out == "./db/type\n./db/uri\n./one\npostgres://üsql\n644\n755\n"
    assert outcome.exit.status != 0, "nobody writes there"


@pytest.mark.parametrize("path", ["", "/", "..", "../x", "a/../../x", "a//b", "./a", "a/", "a\0b", "x" * 300])
async def test_files_that_are_no_files_are_refused(room, path):
    with pytest.raises(ContainerRefused):
        await room.run("true", volume_mounted_files=(File(path, "x"),))


async def test_too_many_bytes_of_files_are_refused(room):
    half = "x" * (limits.MOUNTED_FILES_BYTES_MAX // 2)
    assert (await room.run("true", volume_mounted_files=(File("a", half), File("b", half)))).exit.status == 0
    with pytest.raises(ContainerRefused, match="over 1048576 bytes"):
        await room.run("true", volume_mounted_files=(File("a", half), File("b", half), File("c", "x")))


# -- several processes ------------------------------------------------------------------------------------------


async def test_processes_of_one_container_share_its_files_and_its_pids(room):
    first, second = room.sh("echo one > /tmp/shared; exit 1"), room.sh("cat /tmp/shared; ps | grep -c 'sleep 100[0]'")
    running = room.sh("sleep 1000")
    async with room.container(first, sole=False) as container:
        output = Output()
        sleeper = await container.spawn(running, print)
        assert await (await container.spawn(first, print)).wait() == ProcessExit(1)
        assert await (await container.spawn(second, output)).wait() == ProcessExit(0)
        assert output.out == "one\n1\n"
        sleeper.signal(Signal.KILL)
        assert await sleeper.wait() == ProcessExit(137)
        assert await (await container.spawn(first, print)).wait() == ProcessExit(1), "one's end is not the others'"


async def test_many_processes_start_at_once(room):
    async with room.container(room.sh("true"), sole=False) as container:
        runs = [room.sh(f"exit {number}") for number in range(8)]
        processes = await asyncio.gather(*(container.spawn(run, print) for run in runs))
        assert [(await process.wait()).status for process in processes] == list(range(8))


async def test_a_grandchild_that_holds_the_output_does_not_hold_up_the_end(room):
    run = room.sh("echo mine; sleep 1000 & exit 4")
    async with room.container(run, sole=False) as container:
        output = Output()
        process = await container.spawn(run, output)
        assert await asyncio.wait_for(process.wait(), 30) == ProcessExit(4)
        assert output.out == "mine\n"


async def test_a_container_made_for_one_process_takes_no_other(room):
    run = room.sh("true")
    async with room.container(run) as container:
        with pytest.raises(ProcessRefused, match="one other process"):
            await container.spawn(room.sh("false"), print)
        await (await container.spawn(run, print)).wait()
        with pytest.raises(ProcessRefused, match="one other process"):
            await container.spawn(run, print)


async def test_no_code_of_the_user_runs_before_it_is_spawned(room):
    run = room.sh("echo ran > /tmp/ran")
    async with room.container(run) as container:
        with pytest.raises(ResultUnreadable):
            await container.read_result("/tmp/ran", 100)
        with pytest.raises(ProcessRefused):
            await container.spawn(run, print)


# -- the result file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "path", "expected"),
    [
        ("printf x > /tmp/r", "/tmp/r", b"x"),
        ("printf x > /tmp/r; chmod 0 /tmp/r", "/tmp/r", b"x"),
        (": > /tmp/r", "/tmp/r", b""),
        ("head -c 51200 /dev/zero > /tmp/r", "/tmp/r", bytes(51_200)),
        ("mkdir /tmp/d; printf x > /tmp/d/r; ln -s d /tmp/l", "/tmp/l/r", b"x"),
        ("ln -s / /tmp/l", "/tmp/l/etc/secret", b"root only\n"),
        ("ln -s ../../../../../.. /tmp/l", "/tmp/l/etc/secret", b"root only\n"),
        ("true", "/../../etc/secret", b"root only\n"),
        ("mkdir /tmp/d; echo x > /tmp/d/x", "/tmp/d", b""),
        ("mkdir /tmp/d", "/tmp/d/", b""),
        ("echo x > /tmp/x; ln -s x /tmp/r", "/tmp/r", b""),
        ("ln -s /etc/passwd /tmp/r", "/tmp/r", b""),
        ("ln -s nowhere /tmp/r", "/tmp/r", b""),
        ("true", "/", b""),
    ],
)
async def test_results(room, script, path, expected):
    assert (await room.run(script, result=path)).result == expected


@pytest.mark.parametrize(
    ("script", "path"),
    [
        ("true", "/tmp/missing"),
        ("true", "/etc/passwd/x"),
        ("head -c 51201 /dev/zero > /tmp/r", "/tmp/r"),
        ("truncate -s 1T /tmp/r", "/tmp/r"),
        ("mkfifo /tmp/r", "/tmp/r"),
        ("ln -s /proc/self/fd/0 /tmp/l", "/tmp/l/x"),
        ("ln -s l /tmp/l", "/tmp/l/x"),
        ("true", "/tmp/\0"),
        ("true", "/" + "x" * 300),
        ("true", "/x" * 3000),
        ("true", "/proc/self/environ"),
    ],
)
async def test_results_that_cannot_be_read(room, script, path):
    with pytest.raises(ResultUnreadable):
        await room.run(script, result=path)


async def test_a_relative_result_is_below_the_home_of_root(room):
    run = room.sh("echo x > here", user="root")
    assert (await room.run(run, result="here")).result == b"x\n"


async def test_reading_the_result_kills_what_still_runs(room):
    run = room.sh("echo partial > /tmp/r; echo up; sleep 1000")
    for sole in (True, False):
        async with room.container(run, sole=sole) as container:
            output = Output()
            process = await container.spawn(run, output)
            await until_output(output, "up")
            assert await container.read_result("/tmp/r", 100) == b"partial\n"
            assert (await process.wait()).status == 137
            with pytest.raises(ProcessRefused, match="being destroyed"):
                await container.spawn(run, print)


async def test_the_image_is_never_written(room, image_directory):
    run = room.sh("echo x > /etc/passwd; rm /etc/secret; echo x > /etc/new; chmod 777 /bin", user="root")
    before = {path: path.lstat() for path in image_directory.rglob("*")}
    assert (await room.run(run)).exit.status == 0
    after = {path: path.lstat() for path in image_directory.rglob("*")}
    assert {path: (found.st_mode, found.st_mtime_ns, found.st_uid) for path, found in before.items()} == {
        path: (found.st_mode, found.st_mtime_ns, found.st_uid) for path, found in after.items()
    }


# -- refusals, cancelling, destroying ---------------------------------------------------------------------------


async def test_an_image_that_cannot_be_had(room):
    with pytest.raises(ContainerRefused, match="no such image"):
        await room.run("true", root_fs="docker:///other")


async def test_credentials_go_to_the_image_source(room):
    await room.run("true", image_username="me", image_password="hush")
    assert room.containers._images.asked[-1] == ("docker:///busybox", "me", "hush")


async def test_volumes_are_refused(room):
    with pytest.raises(ContainerRefused, match="no volume drivers"):
        await room.run("true", volume_mounts=(VolumeMount("nfs", "/mnt", "rw"),))


async def test_a_guid_is_taken_until_its_container_is_destroyed(room):
    run = room.sh("true")
    async with room.container(run, guid="same"):
        with pytest.raises(ContainerRefused, match="container guid not available"):
            await room.containers.create(room.order(run, guid="same"))
    async with room.container(run, guid="same"):
        pass


@pytest.mark.parametrize("guid", ["", "a/b", "a.b", "..", "a" * 256, "ü", "a\n"])
async def test_impossible_guids_are_refused(room, guid):
    with pytest.raises(ContainerRefused, match="container guid not available"):
        await room.containers.create(room.order(room.sh("true"), guid=guid or "\0"))


@pytest.mark.parametrize("guid", ["-x", "--help", "a" * 255, "tasks", "notify_on_release", "_", "0"])
async def test_odd_guids_work(room, guid):
    outcome = await room.run("hostname", guid=guid)
    assert outcome.out == f"{guid[:64]}\n"


async def test_destroying_again_and_at_once_is_well(room):
    container = await room.containers.create(room.order(room.sh("true")))
    await asyncio.gather(container.destroy(), container.destroy())
    await container.destroy()
    with pytest.raises(ProcessRefused):
        await container.spawn(room.sh("true"), print)
    with pytest.raises(ResultUnreadable):
        await container.read_result("/etc/passwd", 100)


@BOTH_WAYS
async def test_destroying_ends_what_runs(room, sole):
    run = room.sh("trap '' TERM; echo up; sleep 1000 & sleep 1000")
    container = await room.containers.create(room.order(run, sole=sole))
    output = Output()
    process = await container.spawn(run, output)
    await until_output(output, "up")
    await container.destroy()
    assert (await process.wait()).status == 137
    assert not room.containers._machine.cgroups.exists(f"{room.settings.cgroup}/{container.guid}")
    assert not (room.settings.containers / container.guid).exists()


async def test_a_cancelled_destroy_goes_on(room):
    container = await room.containers.create(room.order(room.sh("true")))
    task = asyncio.ensure_future(container.destroy())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await container.destroy()
    assert not (room.settings.containers / container.guid).exists()


async def cancelled_inside(monkeypatch, owner, name, coroutine, *, after):
    """Run a coroutine and cancel it when it calls ``owner.name``: before that does its work, or after."""
    real = getattr(owner, name)

    async def cancelling(*arguments):
        if not after:
            task.cancel()
        try:
            return await real(*arguments)
        finally:
            if after:
                task.cancel()

    monkeypatch.setattr(owner, name, cancelling)
    task = asyncio.ensure_future(coroutine)
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.setattr(owner, name, real)


@BOTH_WAYS
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("where", ["image", "engine"])
async def test_cancelling_create_leaves_nothing(room, monkeypatch, sole, where, after):
    order = room.order(room.sh("true"), sole=sole)
    owner, name = {
        "image": (room.containers._images, "ensure"),
        "engine": (room.containers._machine.engine, "create"),
    }[where]
    await cancelled_inside(monkeypatch, owner, name, room.containers.create(order), after=after)
    assert not (room.settings.containers / order.guid).exists()
    assert not room.containers._machine.cgroups.exists(f"{room.settings.cgroup}/{order.guid}")
    assert order.guid not in room.containers._taken


@pytest.mark.parametrize("after", [False, True])
async def test_cancelling_a_spawn_leaves_no_process(room, monkeypatch, after):
    run = room.sh("sleep 1000")
    engine = room.containers._machine.engine
    async with room.container(run, sole=False) as container:
        await cancelled_inside(monkeypatch, engine, "execute", container.spawn(run, print), after=after)
        while not container._processes[0].child.ended:
            await asyncio.sleep(0.001)
        output = Output()
        await (await container.spawn(room.sh("ps | grep -c 'sleep 100[0]'"), output)).wait()
        assert output.out == "0\n"


async def test_cancelling_the_wait_leaves_the_process(room):
    run = room.sh("echo up; sleep 1000")
    async with room.container(run) as container:
        output = Output()
        process = await container.spawn(run, output)
        await until_output(output, "up")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0)
        assert not process.child.ended


async def test_a_deep_and_awkward_tree_is_removed(room):
    script = """
        cd /tmp; i=0; while [ $i -lt 300 ]; do mkdir 0000000000000000 && cd 0000000000000000; i=$((i+1)); done
        mkfifo pipe; ln -s / link; touch -- '-rf' ' ' '*'; chmod 0 .; echo done
    """
    assert (await room.run(script)).out == "done\n"


async def test_many_containers_at_once(room):
    outcomes = await asyncio.gather(
        *(room.run(f"echo {number}; hostname > /tmp/r", guid=f"many-{number}", result="/tmp/r") for number in range(16))
    )
    assert [outcome.out for outcome in outcomes] == [f"{number}\n" for number in range(16)]
    assert [outcome.result for outcome in outcomes] == [f"many-{number}\n".encode() for number in range(16)]


async def test_a_process_whose_init_was_killed_from_outside(room):
    run = room.sh("echo up; sleep 1000")
    async with room.container(run) as container:
        output = Output()
        process = await container.spawn(run, output)
        await until_output(output, "up")
        os.kill(process.child.pid, signal.SIGKILL)
        assert (await process.wait()).status == 137


async def test_a_container_that_dies_while_it_waits_is_refused(room):
    run = room.sh("true")
    async with room.container(run) as container:
        os.kill(container._init.pid, signal.SIGKILL)
        while not container._init.ended:
            await asyncio.sleep(0.001)
        with pytest.raises(ProcessRefused):
            await container.spawn(run, print)


class Output:
    """A sink that keeps what it gets."""

    def __init__(self):
        self.parts = []

    def __call__(self, stream, data):
        self.parts.append((stream, data))

    @property
    def out(self):
        return b"".join(data for stream, data in self.parts if stream is Stream.OUT).decode()
