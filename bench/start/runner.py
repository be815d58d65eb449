"""Runs bare containers: a small process of its own, in a mount namespace of its own.

Started as ``unshare --mount --propagation private python runner.py DIRECTORY CRUN``, it hides the unified half of a
hybrid cgroup layout, which crun refuses, and binds the crun binary read-only at ``DIRECTORY/crun``: run from there,
crun leaves out the copy of itself that it makes against being overwritten. Both are gone with the process.

It then answers requests, a JSON object a line, until its input ends:

    {"crun": PATH, "bundles": [DIRECTORY, ...], "count": N}

runs N containers, one in each bundle at a time, and answers ``{"seconds": [...], "wall_seconds": ...}``: for each
container the time from just before the spawn to its exit seen; or ``{"error": TEXT}``. Nothing is measured but spawn
and wait: there is no wrapper around crun.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_UNIFIED = Path("/sys/fs/cgroup/unified")
#: One container; crun itself takes a twentieth of a second.
_CONTAINER_SECONDS_MAX = 30.0


class ContainerFailed(Exception):
    """A container ended with another status than 0, or not at all."""


def prepare(directory: Path, crun: Path) -> None:
    if os.path.ismount(_UNIFIED):
        subprocess.run(["umount", str(_UNIFIED)], check=True)
    bound = directory / "crun"
    bound.touch(mode=0o755)
    subprocess.run(["mount", "--bind", str(crun), str(bound)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(bound)], check=True)


def run(crun: str, bundles: list[str], count: int, log: int) -> dict[str, Any]:
    """Run ``count`` containers, in each bundle one after the other, in all bundles at once."""
    seconds: list[float] = []
    poller = select.poll()
    under_way: dict[int, tuple[int, str, float]] = {}
    started = 0
    began = time.perf_counter()

    def start(bundle: str) -> None:
        nonlocal started
        name = f"bench-{os.getpid()}-{time.monotonic_ns()}"
        command = [crun, "--cgroup-manager=cgroupfs", "run", "--bundle", bundle, name]
        # An own descriptor for its output: crun's complaints belong into the log, not into our answers.
        actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        at = time.perf_counter()
        pid = os.posix_spawn(crun, command, os.environ, file_actions=actions)
        descriptor = os.pidfd_open(pid)
        under_way[descriptor] = (pid, bundle, at)
        poller.register(descriptor, select.POLLIN)
        started += 1

    for bundle in bundles[:count]:
        start(bundle)
    while under_way:
        ready = poller.poll(1000 * _CONTAINER_SECONDS_MAX)
        if not ready:
            raise ContainerFailed(f"a container of {bundles[0]} does not end")
        for descriptor, _ in ready:
            pid, bundle, at = under_way.pop(descriptor)
            _, status = os.waitpid(pid, 0)
            seconds.append(time.perf_counter() - at)
            poller.unregister(descriptor)
            os.close(descriptor)
            if status != 0:
                raise ContainerFailed(f"crun in {bundle} ended with {os.waitstatus_to_exitcode(status)}")
            if started < count:
                start(bundle)
    return {"seconds": seconds, "wall_seconds": time.perf_counter() - began}


def main() -> int:
    directory, crun = Path(sys.argv[1]), Path(sys.argv[2])
    prepare(directory, crun)
    log = os.open(directory / "crun.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = run(request["crun"], request["bundles"], request["count"], log)
        except ContainerFailed as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
