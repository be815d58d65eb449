"""The two bare runs beside ours: ``crun run`` as it comes, and ``crun run`` tuned, of the bundle our cell generates.

Both take the very configuration that the cell made for a task of the same definition, with only this changed: the
command of the example in place of the long one it was captured with, an own prepared root file system, a copy of the
init, a cgroup of their own, and an empty network namespace that crun makes. The stock one has the seccomp profile as
OCI table, which libseccomp compiles at every start; the tuned one has it as the compiled program in crun's annotation
and runs crun from a read-only bind mount, where it makes no copy of itself.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulletin.cell.runtime import seccomp

__all__ = ["BareRuns", "BareVariant", "BenchFailed", "Parts", "bare_runs"]

Document = dict[str, Any]

_RUNNER = Path(__file__).with_name("runner.py")
_CGROUPS = Path("/sys/fs/cgroup")
_CGROUP = f"bulletin-bench-{os.getpid()}"
_RESULT = "result-file.txt"
_START_SECONDS = 30.0
_STOP_SECONDS = 30.0


class BenchFailed(Exception):
    """The benchmark cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the bundles are made of."""

    #: The configuration that the cell generated for ``sh -c ...``; the files it binds lie where everybody sees them.
    config: Document
    #: The image's root file system, owned by the ids of the image.
    image: Path
    #: What ``sh -c`` runs instead.
    command: str


@dataclass(frozen=True, slots=True)
class BareVariant:
    """One way to run the bundle without us."""

    name: str
    crun: str
    bundles: tuple[str, ...]
    #: Where in the root file system its result file is.
    result: Path


class BareRuns:
    """The long-lived process that spawns bare containers."""

    def __init__(self, runner: subprocess.Popen[str], variants: tuple[BareVariant, ...], log: Path) -> None:
        self._runner = runner
        self.variants = variants
        self._log = log

    def run(self, variant: BareVariant, count: int, at_once: int) -> tuple[list[float], float]:
        """Run ``count`` containers, ``at_once`` of them at a time; returns each one's seconds, and those of all.

        Raises:
            BenchFailed: one did not run, or did not leave the result of the example.
        """
        bundles = variant.bundles[:at_once]
        results = [Path(bundle) / "rootfs" / variant.result for bundle in bundles]
        for path in results:
            path.unlink(missing_ok=True)
        answer = self._ask({"crun": variant.crun, "bundles": bundles, "count": count})
        if "error" in answer:
            raise BenchFailed(f"{variant.name}: {answer['error']}\n{self._log.read_text(errors='replace')[-2000:]}")
        for path in results:
            if not path.exists() or path.read_text() != "hello world\n":
                raise BenchFailed(f"{variant.name} left no result at {path}")
        return answer["seconds"], answer["wall_seconds"]

    def _ask(self, request: Document) -> Document:
        assert self._runner.stdin is not None
        assert self._runner.stdout is not None
        self._runner.stdin.write(json.dumps(request) + "\n")
        self._runner.stdin.flush()
        line = self._runner.stdout.readline()
        if not line:
            raise BenchFailed(f"the runner of bare containers ended: {self._log.read_text(errors='replace')[-2000:]}")
        answer: Document = json.loads(line)
        return answer


#: What podman and its kin give a container by default.
DISTRIBUTION_PROFILE = Path("/usr/share/containers/seccomp.json")


@contextmanager
def bare_runs(parts: Parts, directory: Path, at_once: int) -> Iterator[BareRuns]:
    """Make bundles for up to ``at_once`` containers of each kind in a directory, and the process that runs them.

    Raises:
        BenchFailed: crun is missing or the runner does not start.
    """
    crun = shutil.which("crun")
    if crun is None:
        raise BenchFailed("crun is not installed: there is no baseline to measure")
    result = Path(parts.config["process"]["cwd"].lstrip("/")) / _RESULT
    documents = [
        ("stock crun", crun, stock_document(parts)),
        ("tuned crun", str(directory / "crun"), tuned_document(parts)),
    ]
    if DISTRIBUTION_PROFILE.exists():
        documents.append(("distro crun", crun, distribution_document(parts)))
    variants = tuple(
        BareVariant(name, path, tuple(_bundles(document, parts.image, directory / name, at_once)), result)
        for name, path, document in documents
    )
    log = directory / "runner.log"
    with log.open("w") as errors:
        runner = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", sys.executable, str(_RUNNER), str(directory), crun],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with runner:
        try:
            assert runner.stdout is not None
            if not runner.stdout.readline():
                raise BenchFailed(f"the runner of bare containers did not start: {log.read_text()}")
            yield BareRuns(runner, variants, directory / "crun.log")
            assert runner.stdin is not None
            runner.stdin.close()
            runner.wait(_STOP_SECONDS)
        finally:
            runner.kill()
            _remove_cgroups()


def stock_document(parts: Parts) -> Document:
    """As an operator would write it: the seccomp table, and no annotation."""
    document = _example(parts)
    document.pop("annotations", None)
    document["linux"]["seccomp"] = seccomp.oci_table(platform.machine())
    return document


def distribution_document(parts: Parts) -> Document:
    """As stock, with the seccomp profile that the distribution's own tools hand to crun (containers-common).

    It allows more than ours (nested user namespaces, 32-bit calls) and costs libseccomp more than twice as much, so it
    is what an operator who writes nothing compares with, and not the same isolation.
    """
    document = stock_document(parts)
    profile = json.loads(DISTRIBUTION_PROFILE.read_text())
    capabilities = set(document["process"]["capabilities"]["bounding"])
    native = seccomp.ARCHITECTURES[platform.machine()]
    families = [family for family in profile["archMap"] if family["architecture"] == native]
    calls = []
    for rule in profile["syscalls"]:
        wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
        if not set(wanted.get("caps") or ()) <= capabilities or capabilities & set(unwanted.get("caps") or ()):
            continue
        arches = wanted.get("arches")
        if (arches and "amd64" not in arches) or "amd64" in (unwanted.get("arches") or ()):
            continue
        kept = ("names", "action", "args", "errnoRet")
        calls.append({key: rule[key] for key in kept if rule.get(key) is not None and (key != "args" or rule[key])})
    document["linux"]["seccomp"] = {
        "defaultAction": profile["defaultAction"],
        "architectures": [native, *(sub for family in families for sub in family["subArchitectures"])],
        "syscalls": calls,
    }
    return document


def tuned_document(parts: Parts) -> Document:
    """With the compiled filter, which the cell put there when its engine takes one."""
    document = _example(parts)
    if "annotations" not in document:
        raise BenchFailed("the cell's configuration has no compiled seccomp filter: is its engine crun?")
    document["linux"].pop("seccomp", None)
    return document


def _example(parts: Parts) -> Document:
    document = copy.deepcopy(parts.config)
    args = document["process"]["args"]
    if args[-3:-1] != ["sh", "-c"]:
        raise BenchFailed(f"the captured configuration does not run a shell: {args}")
    args[-1] = parts.command
    for namespace in document["linux"]["namespaces"]:
        if namespace["type"] in ("network", "cgroup"):
            namespace.pop("path", None)
    return document


def _bundles(document: Document, image: Path, directory: Path, count: int) -> Iterator[str]:
    """Bundles side by side; each with its own copy of the image, owned by the ids of the container's root."""
    mappings = document["linux"].get("uidMappings") or [{"hostID": 0}]
    shift = mappings[0]["hostID"]
    for number in range(count):
        bundle = directory / str(number)
        rootfs = bundle / "rootfs"
        shutil.copytree(image, rootfs, symlinks=True)
        for path in (rootfs, *rootfs.rglob("*")):
            status = path.lstat()
            os.chown(path, status.st_uid + shift, status.st_gid + shift, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(status.st_mode & 0o7777)
        own = copy.deepcopy(document)
        own["root"] = {"path": str(rootfs)}
        own["linux"]["cgroupsPath"] = f"/{_CGROUP}/{directory.name.replace(' ', '-')}-{number}"
        (bundle / "config.json").write_text(json.dumps(own))
        yield str(bundle)


def _remove_cgroups() -> None:
    """The cgroup above the containers', which crun makes and does not take away; in every hierarchy."""
    for top in (_CGROUPS / _CGROUP, *_CGROUPS.glob(f"*/{_CGROUP}")):
        for directory, _, _ in os.walk(top, topdown=False):
            os.rmdir(directory)
