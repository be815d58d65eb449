"""The four examples of the BBS documentation with our Python client: desire, poll, callback, cancel.

Starts a board and a cell of its own, tells each step, stops everything. Run it by ``./demo``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bulletin import Client, RunAction, Task, TaskDefinition, TaskState
from bulletin.cell.images.references import DockerReference, parse_rootfs

POLL_SECONDS = 1.0
STEP_SECONDS_MAX = 60.0
IMAGE = "docker:///busybox"


def say(text: str) -> None:
    """Tell a step."""
    print(f"\033[1m==>\033[0m {text}", flush=True)


def main() -> int:
    """Run the demo; 0 when everything was as documented."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8889", help="where the board listens (default %(default)s)")
    listen = parser.parse_args().listen
    if os.geteuid() != 0:
        print("error: containers need root\ntry: sudo ./demo", file=sys.stderr)
        return 1
    data = Path(tempfile.mkdtemp(prefix="bulletin-demo-"))
    try:
        bring_image(data)
        with board_and_cell(listen, data) as url, callback_server() as (callback_url, callbacks), Client(url) as client:
            task = desire_and_poll(client, callback_url)
            told = callbacks.get(timeout=STEP_SECONDS_MAX)
            say("3. the callback received:")
            print(json.dumps(told, indent=2))
            assert told["result"] == task.result, "the callback tells another result"
            cancel(client)
    finally:
        shutil.rmtree(data, ignore_errors=True)
    say("done: the board and the cell are stopped, nothing is left running")
    return 0


def bring_image(data: Path) -> None:
    """Pull busybox where a registry can be reached, else make it of the distribution's."""
    say(f"0. the image {IMAGE}")
    image = [sys.executable, "-m", "bulletin", "image"]
    reference = parse_rootfs(IMAGE)
    assert isinstance(reference, DockerReference)
    if can_reach(reference.domain):
        pull = subprocess.run([*image, "pull", IMAGE, "--data", str(data)], capture_output=True, check=False)
        if pull.returncode == 0:
            print(f"   pulled as {reference.name}")
            return
    busybox = shutil.which("busybox") or "/bin/busybox"
    made = [*image, "import", IMAGE, f"busybox:{busybox}", "--data", str(data)]
    subprocess.run(made, stdout=subprocess.DEVNULL, check=True)
    print(f"   no registry can be reached from here: made of this distribution's {busybox} instead")


def can_reach(host: str) -> bool:
    """Whether a connection to ``host`` can be made at all: trying a pull without one takes its retries' time."""
    with contextlib.suppress(OSError), socket.create_connection((host, 443), timeout=3.0):
        return True
    return False


@contextlib.contextmanager
def board_and_cell(listen: str, data: Path) -> Iterator[str]:
    """A board and a cell on this machine, until the block ends."""
    say(f"starting a board on {listen} and a cell (bulletin up)")
    log = data / "up.log"
    with log.open("wb") as stderr:
        up = subprocess.Popen(
            [sys.executable, "-m", "bulletin", "up", "--listen", listen, "--data", str(data)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert up.stdout is not None
    try:
        ready = up.stdout.readline().split()
        if ready[:1] != ["ready"]:
            sys.stderr.write(log.read_text())
            raise SystemExit("error: the board and the cell did not start; their log is above")
        print(f"ready at {ready[1]}")
        yield ready[1]
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(timeout=STEP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait()


@contextlib.contextmanager
def callback_server() -> Iterator[tuple[str, queue.Queue[dict[str, object]]]]:
    """An HTTP server of the client's, for the completion callback."""
    received: queue.Queue[dict[str, object]] = queue.Queue(maxsize=16)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.put(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            """Say nothing: what arrives is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/done", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def definition(script: str, *, result_file: str = "", callback_url: str = "") -> TaskDefinition:
    """The documented task, with another script where needed."""
    return TaskDefinition(
        root_fs=IMAGE,
        disk_mb=1024,
        memory_mb=1024,
        max_pids=1024,
        cpu_weight=42,
        action=RunAction(user="root", path="sh", args=("-c", script)),
        result_file=result_file,
        completion_callback_url=callback_url,
    )


def desire_and_poll(client: Client, callback_url: str) -> Task:
    """Examples 1 and 2."""
    say("1. desiring the task some-guid: echo hello world > result-file.txt")
    client.desire(
        "some-guid",
        "some-domain",
        definition("echo hello world > result-file.txt", result_file="result-file.txt", callback_url=callback_url),
    )
    say("2. polling it once a second until it is Resolving")
    deadline = time.monotonic() + STEP_SECONDS_MAX
    while True:
        task = client.task("some-guid")
        print(f"   {task.state.label}")
        if task.state is TaskState.RESOLVING:
            print(f"   result: {task.result.strip()}")
            return task
        if time.monotonic() > deadline:
            raise SystemExit("error: the task did not end in time")
        time.sleep(POLL_SECONDS)


def cancel(client: Client) -> None:
    """Example 4."""
    say("4. cancelling a task that would sleep for an hour")
    client.desire("long-guid", "some-domain", definition("sleep 3600"))
    deadline = time.monotonic() + STEP_SECONDS_MAX
    while client.task("long-guid").state is not TaskState.RUNNING:
        if time.monotonic() > deadline:
            raise SystemExit("error: the task did not start in time")
        time.sleep(POLL_SECONDS / 10)
    print("   Running; cancelling")
    client.cancel("long-guid")
    task = client.task("long-guid")
    print(f"   {task.state.label}, failed: {task.failed}, reason: {task.failure_reason}")
    assert task.failed


if __name__ == "__main__":
    sys.exit(main())
