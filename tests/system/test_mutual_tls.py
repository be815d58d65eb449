"""A board, a cell and clients that prove to each other who they are, with what ``bulletin certs`` makes.

Everything here goes through the front door: real processes, real containers, certificates from the command line.
"""

from __future__ import annotations

import json
import shutil
import ssl
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.bulletin import BUSYBOX, import_example_image
from support.leaks import LeakCheck
from support.processes import ServingProcess, run_bulletin
from support.skips import require_command, require_root

pytestmark = pytest.mark.system


class Certificates:
    """A directory that ``bulletin certs init`` made."""

    def __init__(self, directory: Path, cell_id: str) -> None:
        self.directory = directory
        self.cell_id = cell_id
        made = run_bulletin("certs", "init", str(directory), "--cell", cell_id)
        assert made.returncode == 0, made.stderr
        self.next_steps = made.stderr

    def of(self, name: str, prefix: str = "") -> list[str]:
        """The options that make a process be ``name``."""
        files = {"ca": "ca.pem", "cert": f"{name}.pem", "key": f"{name}.key"}
        return [f"--{prefix}{option}={self.directory / file}" for option, file in files.items()]

    def context(self, name: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        if name is not None:
            context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        return context


class Cluster:
    """A board and a cell, each a process, and calls as anybody."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cell_id = f"tls-{uuid.uuid4().hex[:12]}"
        self.certificates = Certificates(directory / "certs", self.cell_id)
        self.data = directory / "data"
        self.data.mkdir()
        self.processes: list[ServingProcess] = []
        self.url = ""

    def start_board(self, *options: str) -> None:
        arguments = ["board", "--listen=127.0.0.1:0", f"--data={self.data}", *self.certificates.of("board", "tls-")]
        self.url = self._process([*arguments, *options], "board.log").start()

    def cell(self, name: str, *options: str, boards: str = "", log: str = "") -> ServingProcess:
        arguments = ["cell", f"--board={boards or self.url}", f"--data={self.directory / name}"]
        return self._process([*arguments, *self.certificates.of(name), *options], log or f"{name}.log")

    def call(self, name: str, *arguments: str):
        """``bulletin ARGUMENTS`` as ``name``."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        options = ["--board", self.url, *self.certificates.of(name)]
        return run_bulletin(*arguments[:end], *options, *arguments[end:])

    def post(self, name: str | None, path: str, message: dict | None = None) -> tuple[int, str]:
        """A call of the API in JSON, without a client of ours."""
        body = b"" if message is None else json.dumps(message).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, context=self.certificates.context(name), timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def _process(self, arguments: list[str], log: str) -> ServingProcess:
        process = ServingProcess(arguments, self.directory / log)
        self.processes.append(process)
        return process

    def stop(self) -> None:
        for process in reversed(self.processes):
            if process.running:
                assert process.stop() == 0, process.log_text()[-4000:]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_root()
    require_command("skopeo", "umoci")
    if not BUSYBOX.exists():
        pytest.skip(f"{BUSYBOX} is missing: install busybox-static")
    cluster = Cluster(tmp_path_factory.mktemp("mutual-tls"))
    check = LeakCheck(scope=cluster.cell_id)
    LeakCheck.neighbours.add(cluster.cell_id)
    try:
        import_example_image(cluster.directory / cluster.cell_id)
        cluster.start_board()
        cell = cluster.cell(cluster.cell_id)
        assert cell.start() == cluster.cell_id, "the cell is named by its certificate"
        yield cluster
        cluster.stop()
    finally:
        LeakCheck.neighbours.discard(cluster.cell_id)
        for process in cluster.processes:
            if process.running:
                process.kill()
            check.watch(process)
    check.assert_clean()


def test_a_task_runs_over_mutual_tls(cluster):
    assert cluster.url.startswith("https://127.0.0.1:")
    answer = cluster.call("client", "run", "busybox", "--", "echo", "hello")
    assert (answer.returncode, answer.stdout) == (0, "hello\n"), answer.stderr


def test_a_callers_role_is_what_it_may_do(cluster):
    desire = "/v1/tasks/desire.r2"
    status, text = cluster.post(cluster.cell_id, desire, {"task_guid": "g"})
    assert status == 403
    assert "needs the role client or operator" in text
    assert f"'{cluster.cell_id}'" in text
    assert cluster.post("client", "/v1/tasks/reject", {"task_guid": "g", "rejection_reason": "no"})[0] == 403
    assert cluster.post("operator", "/v1/tasks/reject", {"task_guid": "g", "rejection_reason": "no"})[0] == 200
    assert cluster.post("client", "/v1/tasks/start", {"task_guid": "g", "cell_id": cluster.cell_id})[0] == 403
    assert cluster.post("board", "/v1/tasks/list.r3", {})[0] == 403


def test_a_cell_speaks_for_itself_only(cluster):
    start = {"task_guid": "g", "cell_id": "another"}
    status, text = cluster.post(cluster.cell_id, "/v1/tasks/start", start)
    assert status == 403
    assert f"the certificate is of cell {cluster.cell_id}, not another" in text
    status, text = cluster.post(cluster.cell_id, "/v1/tasks/start", {**start, "cell_id": cluster.cell_id})
    assert status == 200
    assert "could not be found" in text


def test_without_a_certificate_there_is_no_board(cluster):
    with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
        cluster.post(None, "/v1/ping")
    answer = run_bulletin(
        "task", "list", "--board", cluster.url, "--ca", str(cluster.certificates.directory / "ca.pem")
    )
    assert answer.returncode == 5


def test_a_client_of_another_authority_is_a_stranger(cluster, tmp_path):
    others = Certificates(tmp_path / "others", "c")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(cluster.certificates.directory / "ca.pem", mixed)
    for name in ("client.pem", "client.key"):
        shutil.copy(others.directory / name, mixed)
    options = ["--ca", str(mixed / "ca.pem"), "--cert", str(mixed / "client.pem"), "--key", str(mixed / "client.key")]
    answer = run_bulletin("task", "list", "--board", cluster.url, *options)
    assert answer.returncode == 5


def test_a_cell_of_another_name_than_its_certificate_does_not_start(cluster):
    pretender = cluster.cell(cluster.cell_id, "--id=somebody-else")
    with pytest.raises(AssertionError, match=f"pass --id {cluster.cell_id}"):
        pretender.start()


def test_a_certificate_without_the_role_is_told_what_to_do(cluster):
    log = cluster.directory / "stranger.log"
    stranger = cluster.cell("client", log=log.name)  # its certificate is a client's
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(stranger.start)
        until(lambda: log.exists() and "link.failed" in log.read_text())
        assert "it has not the role cell" in log.read_text()
        assert "bulletin certs issue" in log.read_text()
        assert stranger.stop() == 0
        assert isinstance(starting.exception(), AssertionError), "it was never welcomed"


def test_a_cell_asks_the_next_board(cluster):
    issued = run_bulletin("certs", "issue", str(cluster.certificates.directory), "--role=cell", "--name=second-cell")
    assert issued.returncode == 0, issued.stderr
    cell = cluster.cell("second-cell", "--memory-mb=64", boards=f"https://127.0.0.1:1,{cluster.url}")
    check = LeakCheck(scope="second-cell")
    assert cell.start() == "second-cell"
    assert cell.stop() == 0
    check.watch(cell)
    check.assert_clean()


def test_a_renewed_certificate_is_taken_while_serving(cluster):
    def serial() -> int:
        host, _, port = cluster.url.removeprefix("https://").rpartition(":")
        pem = ssl.get_server_certificate((host, int(port)))  # the board tells who it is before it asks
        return hash(pem)

    first = serial()
    assert serial() == first
    renewed = run_bulletin("certs", "renew", str(cluster.certificates.directory), "board")
    assert renewed.returncode == 0, renewed.stderr
    until(lambda: serial() != first)
    assert cluster.call("client", "task", "list").returncode == 0


def until(condition: Callable[[], bool]) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never was"
        time.sleep(0.05)
