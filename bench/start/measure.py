"""Runs tasks through a board and a cell, and the same container bare, in turns, and compares them.

A: from just before the desire to ``Completed`` seen on the event stream by the client that waits for it: HTTP, the
   durable board, placement, the link, root file system, container, result file, the durable outcome, the event.
B: bare stock ``crun run``, C: bare tuned ``crun run``, of bundles prepared beforehand; from the spawn to the exit seen.

The order is A B C A B C ..., a batch each, all in one run, so that a slow spell of the machine meets all three.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop
from support.bulletin import BUSYBOX, BulletinUp
from support.processes import ProcessFailed

from bench import harness
from bench.start.bare import BareRuns, BenchFailed, Parts, bare_runs
from bench.start.waiting import TaskFailed, WaitingClient, waiting_client
from bulletin.wire.proto import bbs_pb2

__all__ = ["main"]

_COMMAND = "echo hello world > result-file.txt"
_LONG_COMMAND = "sleep 60"
_BULLETIN = "bulletin"
_CONFIG_SECONDS = 30.0
_CONFIG_AGAIN_SECONDS = 0.02
#: variant and number at once -> the seconds of each, and containers per second of each batch.
Times = dict[tuple[str, int], list[float]]
Rates = dict[tuple[str, int], list[float]]


def main() -> int:
    options = _options()
    try:
        with harness.data_directory(options.disk) as directory:
            facts = {**harness.facts(directory), **_container_facts()}
            up = BulletinUp.start(_made(directory / "data"), directory / "up.log", f"bench-{os.getpid()}")
            try:
                times, rates, config = uvloop.run(_measure(up, directory, options))
            finally:
                # Killed, a cell would leave its cgroups to a next start that never comes.
                try:
                    up.stop()
                finally:
                    up.process.kill()
    except (BenchFailed, TaskFailed, ProcessFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    results = _results(options, facts, times, rates, config)
    _print(results, times, rates)
    print(f"written to {harness.write_results('start', results, options.output)}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench/start", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--at-once", default="1,4,16", help="containers at once, comma-separated")
    parser.add_argument("--batch", type=int, default=32, help="containers of a batch")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of A B C at each number at once")
    parser.add_argument("--warm", type=int, default=16, help="containers of each kind run before anything is measured")
    parser.add_argument("--disk", type=Path, help="directory for data and bundles (default: below /var/tmp)")
    parser.add_argument("--output", type=Path, help="where the JSON goes (default: bench/results)")
    return parser.parse_args()


def definition(command: str) -> bbs_pb2.TaskDefinition:
    """The task of the documentation's example, without a callback."""
    run = bbs_pb2.RunAction(user="root", path="sh", args=["-c", command])
    run.resource_limits.SetInParent()
    return bbs_pb2.TaskDefinition(
        root_fs="docker:///busybox",
        disk_mb=1024,
        memory_mb=1024,
        max_pids=1024,
        cpu_weight=42,
        action=bbs_pb2.Action(run_action=run),
        result_file="result-file.txt",
    )


async def _measure(up: BulletinUp, directory: Path, options: argparse.Namespace) -> tuple[Times, Rates, dict[str, Any]]:
    numbers = [int(number) for number in options.at_once.split(",")]
    async with waiting_client(up.url) as client:
        config = await _captured_bundle(client, up, directory)
        parts = Parts(config, _unpacked_image(directory / "image"), _COMMAND)
        with bare_runs(parts, _made(directory / "bare"), max(numbers)) as bare:
            await _round(client, bare, options.warm, numbers[0], {}, {})
            times: Times = {}
            rates: Rates = {}
            for number in numbers:
                for _ in range(options.rounds):
                    await _round(client, bare, max(options.batch, number), number, times, rates)
                print(f"{number} at once done", file=sys.stderr)
    return times, rates, config


async def _round(client: WaitingClient, bare: BareRuns, count: int, at_once: int, times: Times, rates: Rates) -> None:
    """One batch of each."""
    seconds, wall = await _tasks(client, count, at_once)
    times.setdefault((_BULLETIN, at_once), []).extend(seconds)
    rates.setdefault((_BULLETIN, at_once), []).append(count / wall)
    for variant in bare.variants:
        # In a thread: the client keeps reading its events meanwhile.
        seconds, wall = await asyncio.to_thread(bare.run, variant, count, at_once)
        times.setdefault((variant.name, at_once), []).extend(seconds)
        rates.setdefault((variant.name, at_once), []).append(count / wall)


async def _tasks(client: WaitingClient, count: int, at_once: int) -> tuple[list[float], float]:
    """Run ``count`` tasks, ``at_once`` of them at a time; returns each one's seconds, and those of all."""
    wanted = definition(_COMMAND)
    guids = iter([f"bench-{time.monotonic_ns()}-{number}" for number in range(count)])
    seconds: list[float] = []

    async def work() -> None:
        for guid in guids:
            took, task = await client.run(guid, wanted)
            if task.failed or task.result != "hello world\n":
                raise TaskFailed(f"{guid} ended with {task.failure_reason!r} and the result {task.result!r}")
            seconds.append(took)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return seconds, time.perf_counter() - began


async def _captured_bundle(client: WaitingClient, up: BulletinUp, directory: Path) -> dict[str, Any]:
    """The configuration that the cell generates for the example, taken while a longer task of its kind runs.

    Returns:
        The configuration; the files that it binds are copied to ``directory``.

    Raises:
        BenchFailed: the cell has none.
    """
    guid = f"captured-{time.monotonic_ns()}"
    await client.running(guid, definition(_LONG_COMMAND))
    try:
        return await asyncio.to_thread(_read_bundle, up, guid, directory)
    finally:
        await client.cancel(guid)


def _read_bundle(up: BulletinUp, guid: str, directory: Path) -> dict[str, Any]:
    """Wait for the container's config.json: the board says Running before the container is made.

    The files of the cell that it binds are copied, and it names the copies.

    Bundles lie on a file system that only one thread of the cell sees; /proc shows it with that thread's eyes.
    """
    private = Path("run/bulletin") / up.cell_id
    deadline = time.monotonic() + _CONFIG_SECONDS
    while time.monotonic() < deadline:
        for root in (root for pid in up.process.pids() for root in Path(f"/proc/{pid}/task").glob("*/root")):
            with suppress(OSError, json.JSONDecodeError):  # not this thread, or not written to its end yet
                config: dict[str, Any] = json.loads((root / private / "bundles" / guid / "config.json").read_text())
                for number, mount in enumerate(config["mounts"]):
                    source = str(mount.get("source", ""))
                    if source.startswith(f"/{private}/"):
                        copy = directory / f"mounted-{number}"
                        shutil.copy(root / source.lstrip("/"), copy)
                        mount["source"] = str(copy)
                return config
        time.sleep(_CONFIG_AGAIN_SECONDS)
    raise BenchFailed(f"the cell {up.cell_id} has no bundle of {guid}")


def _unpacked_image(directory: Path) -> Path:
    """A root file system like the image's: one busybox and a link for each of its commands."""
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
        (directory / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, directory / "bin" / "busybox")
    names = subprocess.run([str(BUSYBOX), "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name != "busybox":
            (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (directory / "etc" / "group").write_text("root:x:0:\n")
    return directory


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def _container_facts() -> dict[str, Any]:
    """What of the kernel decides the cost of a container."""
    mounts = Path("/proc/mounts").read_text()
    expedited = Path("/sys/kernel/rcu_expedited")
    crun = subprocess.run(["crun", "--version"], capture_output=True, text=True, check=False)
    return {
        "crun": crun.stdout.partition("\n")[0],
        "cgroup": "v1 and v2 (hybrid)" if "/sys/fs/cgroup/unified" in mounts else "one hierarchy layout",
        "favordynmods": "favordynmods" in mounts,
        "rcu_expedited": expedited.read_text().strip() == "1" if expedited.exists() else False,
        "image": "docker:///busybox made of one static busybox",
    }


def _results(
    options: argparse.Namespace, facts: dict[str, Any], times: Times, rates: Rates, config: dict[str, Any]
) -> dict[str, Any]:
    user_namespace = any(namespace["type"] == "user" for namespace in config["linux"]["namespaces"])
    return {
        "facts": {**facts, "user_namespace": user_namespace},
        "options": {name: str(value) for name, value in vars(options).items()},
        "runs": [
            {
                "variant": variant,
                "at_once": at_once,
                **harness.summary(seconds),
                "per_second": rates[variant, at_once],
                "seconds": [round(value, 6) for value in seconds],
            }
            for (variant, at_once), seconds in times.items()
        ],
        # Without the compiled filter, which is long and tells a reader nothing.
        "config": {key: value for key, value in config.items() if key != "annotations"},
    }


def _print(results: dict[str, Any], times: Times, rates: Rates) -> None:
    facts = results["facts"]
    print(f"{facts['cpu']}, {facts['cores']} cores; Linux {facts['kernel']}, cgroup {facts['cgroup']}, ", end="")
    print(f"favordynmods seen: {facts['favordynmods']}, rcu_expedited: {facts['rcu_expedited']}, ", end="")
    print(f"user namespace: {facts['user_namespace']}; {facts['crun']}; {facts['file_system']}, ", end="")
    print(f"fdatasync {facts['fdatasync_ms']} ms; image {facts['image']}")
    columns = [
        "at once",
        "variant",
        "n",
        "p50 ms",
        "p99 ms",
        "per s",
        "p50 : stock",
        "p99 : stock",
        "p50 : tuned",
        "p50 : distro",
    ]
    rows = []
    for (variant, at_once), seconds in times.items():
        summary = harness.summary(seconds)
        stock = harness.summary(times["stock crun", at_once])
        tuned = harness.summary(times["tuned crun", at_once])
        distro = times.get(("distro crun", at_once))
        rows.append(
            [
                str(at_once),
                variant,
                str(summary["n"]),
                f"{summary['p50_ms']:.1f}",
                f"{summary['p99_ms']:.1f}",
                f"{statistics.median(rates[variant, at_once]):.0f}",
                f"{summary['p50_ms'] / stock['p50_ms']:.2f}",
                f"{summary['p99_ms'] / stock['p99_ms']:.2f}",
                f"{summary['p50_ms'] / tuned['p50_ms']:.2f}",
                f"{summary['p50_ms'] / harness.summary(distro)['p50_ms']:.2f}" if distro else "-",
            ]
        )
    harness.print_table("From desire to completed, beside bare crun", columns, rows)
