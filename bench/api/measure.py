"""Runs the board and the floor in turns and compares them.

Every round has a fresh board (SQLite on a real disk, plain HTTP on the loopback) with 10,000 tasks in it. Each step is
run against the board and at once against the floor, the first of the two changing from round to round; the floor's
constants are the board's own answers, so both send the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from support.processes import ProcessFailed, ServingProcess

from bench import harness
from bench.api.load import Load, LoadFailed, Sample, choose_load
from bulletin.wire.proto import bbs_pb2

__all__ = ["main"]

Samples = dict[str, list[Sample]]
_FLOOR = Path(__file__).with_name("floor.py")


def main() -> int:
    options = _options()
    try:
        load = choose_load(options.python_load)
        with harness.data_directory(options.disk) as directory:
            facts = harness.facts(directory)
            boards, floors = _measure(load, options, directory)
    except (LoadFailed, ProcessFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    results = {"facts": facts, "load": load.name, "options": _plain(options)}
    for name, steps in (("board", boards), ("floor", floors)):
        results[name] = {step: [asdict(sample) for sample in samples] for step, samples in steps.items()}
    _print(facts, load.name, boards, floors)
    print(f"written to {harness.write_results('api', results, options.output)}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench/api", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each desire and get run")
    parser.add_argument("--connections", default="1,32", help="numbers of connections, comma-separated")
    parser.add_argument("--tasks", type=int, default=10_000, help="tasks on the board for get and list")
    parser.add_argument("--lists", type=int, default=15, help="listings in a run")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each with a fresh board")
    parser.add_argument("--python-load", action="store_true", help="do not use the Go load generator")
    parser.add_argument("--disk", type=Path, help="directory for the board's data (default: below /var/tmp)")
    parser.add_argument("--output", type=Path, help="where the JSON goes (default: bench/results)")
    return parser.parse_args()


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def _measure(load: Load, options: argparse.Namespace, directory: Path) -> tuple[Samples, Samples]:
    boards: Samples = {}
    floors: Samples = {}
    for number in range(options.rounds):
        with (
            tempfile.TemporaryDirectory(dir=directory) as data,
            _serving(["board", "--listen", "127.0.0.1:0", "--data", data], directory / "board.log") as board,
        ):
            load.fill(board.address, options.tasks)
            answers = directory / "answers.json"
            answers.write_text(json.dumps(_answers(board.address)))
            with _serving([str(_FLOOR), str(answers)], directory / "floor.log", [sys.executable]) as floor:
                for step, run in _steps(load, options):
                    turns = [(boards, board, options.tasks), (floors, floor, 1)]
                    for samples, server, tasks in turns if number % 2 == 0 else turns[::-1]:
                        samples.setdefault(step, []).append(run(server.address, server.pid, tasks))
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    return boards, floors


def _steps(load: Load, options: argparse.Namespace) -> Iterator[tuple[str, Callable[[str, int, int], Sample]]]:
    """The runs of a round; those that only read come first, while the board holds just the tasks of the fill."""
    seconds: float = options.seconds

    def listing(url: str, pid: int, _tasks: int) -> Sample:
        return load.listing(url, pid, options.lists)

    def get(connections: int, url: str, pid: int, tasks: int) -> Sample:
        return load.get(url, pid, connections, seconds, tasks)

    def desire(connections: int, url: str, pid: int, _tasks: int) -> Sample:
        return load.desire(url, pid, connections, seconds)

    yield f"list {options.tasks:,}", listing
    numbers = [int(number) for number in options.connections.split(",")]
    for run in (get, desire):
        for number in numbers:
            yield f"{run.__name__}, {number} conn", partial(run, number)


@contextmanager
def _serving(arguments: list[str], log: Path, program: list[str] | None = None) -> Iterator[ServingProcess]:
    process = ServingProcess(arguments, log, program=program)
    process.start()
    try:
        yield process
        process.stop()
    finally:
        process.kill()


def _answers(url: str) -> dict[str, str]:
    """The board's own answers, for the floor to repeat; the get is of the first task of the fill."""
    get = bbs_pb2.TaskByGuidRequest(task_guid="g-0000000").SerializeToString()
    answers = {"/v1/ping": b"\x08\x01", "/v1/tasks/desire.r2": b""}
    for path, body in (("/v1/tasks/list.r3", b""), ("/v1/tasks/get_by_task_guid.r3", get)):
        request = urllib.request.Request(url + path, data=body, headers={"Content-Type": "application/x-protobuf"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answers[path] = response.read()
    return {path: base64.b64encode(body).decode() for path, body in answers.items()}


def _print(facts: dict[str, Any], load: str, boards: Samples, floors: Samples) -> None:
    print(f"{facts['cpu']}, {facts['cores']} cores shared by server and load; Linux {facts['kernel']}, ", end="")
    print(f"{facts['file_system']}, fdatasync {facts['fdatasync_ms']} ms; Python {facts['python']}; load: {load}")
    columns = ["step", "board /s", "p50 ms", "p99 ms", "CPU us", "floor /s", "p50 ms", "CPU us", "board : floor"]
    rows = [_rate_row(step, samples, floors[step]) for step, samples in boards.items() if not _is_list(samples)]
    harness.print_table("Calls", columns, rows)
    columns = ["step", "board first byte ms", "whole ms", "CPU ms", "floor first byte ms", "whole ms", "board : floor"]
    rows = [_list_row(step, samples, floors[step]) for step, samples in boards.items() if _is_list(samples)]
    harness.print_table("Listings (bodies thrown away undecoded)", columns, rows)


def _is_list(samples: list[Sample]) -> bool:
    return samples[0].first_byte_p50_ms is not None


def _rate_row(step: str, board: list[Sample], floor: list[Sample]) -> list[str]:
    ratios = [ours.per_second / theirs.per_second for ours, theirs in zip(board, floor, strict=True)]
    return [
        step,
        harness.spread([sample.per_second for sample in board]),
        harness.spread([sample.p50_ms for sample in board], 2),
        harness.spread([sample.p99_ms for sample in board], 2),
        harness.spread([sample.server_cpu_us for sample in board]),
        harness.spread([sample.per_second for sample in floor]),
        harness.spread([sample.p50_ms for sample in floor], 2),
        harness.spread([sample.server_cpu_us for sample in floor]),
        harness.spread(ratios, 2),
    ]


def _list_row(step: str, board: list[Sample], floor: list[Sample]) -> list[str]:
    ratios = [ours.p50_ms / theirs.p50_ms for ours, theirs in zip(board, floor, strict=True)]
    return [
        step,
        harness.spread([sample.first_byte_p50_ms or 0.0 for sample in board], 1),
        harness.spread([sample.p50_ms for sample in board], 1),
        harness.spread([sample.server_cpu_us / 1000 for sample in board], 1),
        harness.spread([sample.first_byte_p50_ms or 0.0 for sample in floor], 1),
        harness.spread([sample.p50_ms for sample in floor], 1),
        harness.spread(ratios, 2),
    ]
