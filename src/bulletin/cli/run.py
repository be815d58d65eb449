"""``bulletin run``: one command in one container, from desire to removal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Group, Parameter

from bulletin.cli.options import Connection, Json, convert, run_async
from bulletin.cli.output import CELL_SOURCE, PROCESS_SOURCE
from bulletin.cli.parsing import parse_duration_ms, parse_image, parse_size_mb, parse_variable
from bulletin.core.actions import Action, RunAction, TimeoutAction
from bulletin.core.definition import TaskDefinition

__all__ = ["EPILOGUE", "ContainerOptions", "TaskOptions", "make_definition", "run"]

_CONTAINER: Final = Group("Container", sort_key=10)
_TASK: Final = Group("Task", sort_key=20)

EPILOGUE: Final = """\
Examples:
  bulletin run busybox -- echo hello
  bulletin run --memory 1G --env MODE=fast host:5000/app:v1 -- /app/job --all
  bulletin run --result-file /tmp/sum busybox -- sh -c 'echo 42 > /tmp/sum'
  bulletin run --timeout 30s --json busybox -- sleep 60

Exit status: that of the command; 124 when --timeout or --wait was exceeded;
1 when the task failed without one; 2 wrong usage; 4 the guid is taken;
5 no board; 130 after Ctrl-C."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """How the command's container is made."""

    memory: Annotated[
        int,
        Parameter(
            group=_CONTAINER,
            converter=convert(parse_size_mb),
            help="Memory at most, 512M or 1G; 0 is no limit.",
            show_default=lambda size: f"{size}M",
        ),
    ] = 256
    disk: Annotated[
        int,
        Parameter(
            group=_CONTAINER,
            converter=convert(parse_size_mb),
            help="Disk at most, the image included; 0 is no limit.",
        ),
    ] = 0
    pids: Annotated[int, Parameter(group=_CONTAINER, help="Processes at most; 0 is no limit.", show_default=True)] = (
        1024
    )
    cpu_weight: Annotated[int, Parameter(group=_CONTAINER, help="Share of the CPU, 1 to 100; 0 is the default.")] = 0
    user: Annotated[str, Parameter(group=_CONTAINER, help="Name of the user in the image.", show_default=True)] = "root"
    env: Annotated[
        tuple[str, ...],
        Parameter(
            name=["--env", "-e"],
            group=_CONTAINER,
            help="NAME=VALUE; may be given many times.",
        ),
    ] = ()
    dir: Annotated[str, Parameter(group=_CONTAINER, help="Working directory; the user's home when left out.")] = ""
    privileged: Annotated[
        bool, Parameter(group=_CONTAINER, help="No user namespace, all capabilities: root of the machine.")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How the task is named, watched and removed."""

    result_file: Annotated[
        str, Parameter(group=_TASK, help="File in the container to print after the output; 51,200 bytes at most.")
    ] = ""
    timeout: Annotated[
        int | None,
        Parameter(
            group=_TASK, converter=convert(parse_duration_ms), help="End the command after so long: 500ms, 30s, 1m30s."
        ),
    ] = None
    wait: Annotated[
        int | None,
        Parameter(
            group=_TASK,
            converter=convert(parse_duration_ms),
            help="Cancel the task when it has not ended after so long, time without a cell included.",
        ),
    ] = None
    guid: Annotated[str, Parameter(group=_TASK, help="The task's name; a random one when left out.")] = ""
    domain: Annotated[str, Parameter(group=_TASK, help="The task's domain.", show_default=True)] = "default"
    keep: Annotated[bool, Parameter(group=_TASK, help="Do not remove the ended task.")] = False
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], group=_TASK, help="Say what the cell says, too.")] = (
        False
    )


def run(
    image: Annotated[
        str, Parameter(help="busybox, busybox:1.36, host:5000/team/app:v1, or a URL such as docker:///busybox.")
    ],
    /,
    *command: Annotated[str, Parameter(help="The program and its arguments, after --.")],
    container: ContainerOptions | None = None,
    task: TaskOptions | None = None,
    json: Json = False,
    connection: Connection | None = None,
) -> int:
    """Run a command in a container, show its output, and exit as it did.

    Standard output and error of the command are those of this one. Empty lines
    are not kept, and of very long output only the end (256 KiB). Ctrl-C cancels
    the task; a second Ctrl-C leaves at once.
    """
    import uuid

    from bulletin.cli.exits import USAGE, CommandFailed
    from bulletin.cli.running import Order, carry_out

    container, task = container or ContainerOptions(), task or TaskOptions()
    if not command:
        raise CommandFailed("there is no command to run", f"bulletin run {image} -- COMMAND ARGUMENTS", USAGE)
    try:
        root_fs, variables = parse_image(image), tuple(map(parse_variable, container.env))
    except ValueError as error:
        raise CommandFailed(str(error), "bulletin run --help", USAGE) from error
    guid = task.guid or str(uuid.uuid4())
    order = Order(
        guid=guid,
        domain=task.domain,
        definition=make_definition(root_fs, command, variables, container, task, guid),
        wait_seconds=None if task.wait is None else task.wait / 1000,
        keep=task.keep,
        verbose=task.verbose,
        as_json=json,
    )
    return run_async(carry_out(connection or Connection(), order))


def make_definition(
    root_fs: str,
    command: tuple[str, ...],
    variables: tuple[tuple[str, str], ...],
    container: ContainerOptions,
    task: TaskOptions,
    guid: str,
) -> TaskDefinition:
    """The task that runs ``command``; its log sources tell the cell's words from the command's."""
    action: Action = RunAction(
        path=command[0],
        args=command[1:],
        user=container.user,
        dir=container.dir,
        env=variables,
        log_source=PROCESS_SOURCE,
    )
    if task.timeout is not None:
        action = TimeoutAction(action, task.timeout)
    return TaskDefinition(
        root_fs=root_fs,
        action=action,
        memory_mb=container.memory,
        disk_mb=container.disk,
        max_pids=container.pids,
        cpu_weight=container.cpu_weight,
        privileged=container.privileged,
        log_guid=guid,
        log_source=CELL_SOURCE,
        result_file=task.result_file,
    )
