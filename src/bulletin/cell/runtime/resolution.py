"""From a run action to the process an engine can start: user, directory, program, environment, limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bulletin.cell.runtime.api import ProcessRefused
from bulletin.cell.runtime.environment import Addresses, Variables, process_environment
from bulletin.cell.runtime.rootfs import Rootfs
from bulletin.cell.runtime.spec import NOFILE_DEFAULT, ProcessFacts
from bulletin.core import limits
from bulletin.core.actions import RunAction

__all__ = ["ProcessContext", "resolve_process"]

_TOO_LONG: Final = "argument list too long"


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """What all processes of a container have in common."""

    image_env: Variables
    task_env: Variables
    addresses: Addresses
    #: The cell's own hard limit of open files; nobody below it can have more.
    nofile_max: int
    privileged: bool


def resolve_process(run: RunAction, rootfs: Rootfs, context: ProcessContext) -> ProcessFacts:
    """Look everything up, and make the working directory where it is missing (cell.md 2.2 and 6).

    Raises:
        ProcessRefused: it could not be started; the text is shown to users.
    """
    account = rootfs.account(run.user)
    cwd = run.dir or account.home
    if not cwd.startswith("/"):
        message = f"Cwd must be an absolute path: {cwd}"
        raise ProcessRefused(message)
    env = process_environment(
        image=context.image_env,
        task=context.task_env,
        identity=(),
        action=run.env,
        addresses=context.addresses,
        user=run.user,
        uid=account.uid,
        home=account.home,
    )
    _check_strings(run, env)
    rootfs.make_directory(cwd, account)
    rootfs.check_program(run.path, dict(env)["PATH"], cwd, account)
    nofile = run.resource_limits.nofile
    return ProcessFacts(
        args=(run.path, *run.args),
        env=env,
        cwd=cwd,
        uid=account.uid,
        gid=account.gid,
        groups=account.groups,
        nofile=min(NOFILE_DEFAULT if nofile is None else nofile, context.nofile_max),
        privileged=context.privileged,
    )


def _check_strings(run: RunAction, env: Variables) -> None:
    """Refuse what the kernel would cut short or refuse at a point where nobody could tell why."""
    total = 0
    for text in (run.path, *run.args, *(f"{name}={value}" for name, value in env)):
        if "\0" in text:
            message = f'exec: "{run.path}": invalid argument: an argument or a variable has a zero byte'
            raise ProcessRefused(message.replace("\0", "\\0"))
        size = len(text.encode("utf-8", "surrogatepass")) + 1
        total += size
        if size > limits.PROCESS_STRING_BYTES_MAX or total > limits.PROCESS_ARGUMENT_BYTES_MAX:
            message = f'exec: "{run.path[:100]}": {_TOO_LONG}'
            raise ProcessRefused(message)
