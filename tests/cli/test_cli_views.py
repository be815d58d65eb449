"""``bulletin cells`` and ``bulletin events``."""

from __future__ import annotations

import threading

import pytest

from bulletin import Task, TaskCreated, TaskDefinition, TaskState
from bulletin.board.ring import Ring
from bulletin.client.boards import Patience
from bulletin.core.actions import RunAction
from bulletin.core.operations import Cancel, Delete, Desire, Reject, Resolving, Start
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.tasks import encode_definition, summarise

STORED = summarise(
    encode_definition(
        TaskDefinition(
            root_fs="docker:///x",
            action=RunAction("/x", "root", env=(("K", "sekret"),)),
            memory_mb=512,
            disk_mb=100,
        )
    )
)


@pytest.fixture
def cells(board, ending):
    board.endings = [ending(never="started")]
    for name in ("b", "a"):
        board.board.cells.append(
            bbs_pb2.CellPresence(
                cell_id=name,
                zone="z1" if name == "a" else "",
                capacity=bbs_pb2.CellCapacity(memory_mb=2048, disk_mb=4096, containers=9),
                rootfs_providers=[
                    bbs_pb2.Provider(name="preloaded", properties=["s"]),
                    bbs_pb2.Provider(name="docker"),
                ],
                placement_tags=["t"],
                optional_placement_tags=["o"],
            )
        )
    for guid in ("one", "two", "three"):
        board.do(Desire(guid, "d", STORED))
    board.do(Start("one", "a"), Start("two", "a"), Start("three", "b"))
    board.do(Cancel("three"))


def test_cells_with_what_is_taken(cells, bulletin):
    said = bulletin("cells")
    assert said.status == 0
    rows = [line.split() for line in said.out.splitlines()]
    assert rows[0] == ["CELL", "ZONE", "MEMORY", "DISK", "CONTAINERS", "ROOTFS", "TAGS"]
    assert rows[1] == [
        "a",
        "z1",
        "1G",
        "/",
        "2G",
        "200M",
        "/",
        "4G",
        "2",
        "/",
        "9",
        "preloaded:s",
        "docker",
        "t",
        "(o)",
    ]
    assert rows[2] == ["b", "-", "0", "/", "2G", "0", "/", "4G", "0", "/", "9", "preloaded:s", "docker", "t", "(o)"]


def test_cells_as_json(cells, bulletin):
    first, second = bulletin("cells", "--json").documents
    assert first == {
        "cell_id": "a",
        "zone": "z1",
        "capacity": {"memory_mb": 2048, "disk_mb": 4096, "containers": 9},
        "used": {"memory_mb": 1024, "disk_mb": 200, "containers": 2},
        "rootfs_providers": {"preloaded": ["s"], "docker": []},
        "placement_tags": ["t"],
        "optional_placement_tags": ["o"],
        "rep_url": "",
    }
    assert second["used"] == {"memory_mb": 0, "disk_mb": 0, "containers": 0}


def test_no_cell(board, bulletin):
    said = bulletin("cells")
    assert (said.status, said.out) == (0, "")
    assert "no cell is present; start one" in said.err
    assert bulletin("cells", "--json").out == ""


@pytest.fixture
def told(board, bulletin, ending, monkeypatch):
    """What ``events`` says of one life, and its status once the board has gone for good."""
    monkeypatch.setattr("bulletin.client.following.Patience", lambda _attempts, _seconds: Patience(1, 0))
    board.endings = [ending(never="started")]

    def tell(*arguments):
        def live():
            board.call(board.board.until(lambda: board.board.streams or board.board.followers))
            board.do(Desire("g", "d", STORED), Desire("h", "other", STORED))
            board.do(
                Start("g", "c"), Reject("g", "no\nroom"), Start("g", "c"), Cancel("g"), Resolving("g"), Delete("g")
            )
            board.start(board.board.leave())

        living = threading.Thread(target=live)
        living.start()
        said = bulletin("events", *arguments)
        living.join()
        return said

    return tell


def test_events_one_a_line(told):
    said = told()
    assert said.status == 5
    assert "cannot be reached" in said.err
    lines = [line.split("  ")[1:] for line in said.out.splitlines()]
    assert lines == [
        ["created", "g", "Pending"],
        ["created", "h", "Pending"],
        ["changed", "g", "Pending -> Running", "cell c"],
        ["changed", "g", "Running -> Pending", "rejected: no\\nroom", "cell c"],
        ["changed", "g", "Pending -> Running", "cell c"],
        ["changed", "g", "Running -> Completed", "failed: task was cancelled"],
        ["changed", "g", "Completed -> Resolving", "failed: task was cancelled"],
        ["removed", "g", "Resolving", "failed: task was cancelled"],
    ]


def test_events_as_json(told):
    documents = told("--json", "--guid", "g").documents
    assert [document["type"] for document in documents] == ["task_created", *["task_changed"] * 5, "task_removed"]
    assert documents[0]["data"]["task"]["state"] == "Pending"
    assert documents[1]["data"]["before"]["state"] == "Pending"
    assert documents[1]["data"]["after"]["cell_id"] == "c"
    assert "sekret" not in str(documents)


def test_events_of_a_domain_with_secrets(told):
    said = told("--json", "--domain", "other", "--show-secrets")
    assert [document["data"]["task"]["task_guid"] for document in said.documents] == ["h"]
    assert "sekret" in said.out


def test_events_without_a_board(bulletin, monkeypatch):
    assert bulletin("events", "--board", "http://127.0.0.1:1").status == 5


def test_events_are_resumed_and_missed_ones_are_told(board, told):
    board.board.ring = Ring(7, 10)
    board.board.ring.append([TaskCreated(Task("g", "d", STORED, TaskState.PENDING, 1, 1))])
    documents = told("--json", "--guid", "g", "--after", "7-0").documents
    assert [document["position"] for document in documents] == ["7-1", "7-2", *[f"7-{n}" for n in range(4, 10)]]


def test_events_that_were_missed_are_told(board, told):
    board.board.ring = Ring(7, 10)
    said = told("--json", "--guid", "none", "--after", "6-1")
    assert [document["type"] for document in said.documents] == ["missed"]
    assert "new reign" in said.document["data"]["reason"]
    assert "events were missed: the board began a new reign" in said.err
