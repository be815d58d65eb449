"""The board as a process: an answered desire outlives a crash (design promise S2), and a stop is clean."""

from __future__ import annotations

import urllib.request

from support.bulletin import BoardProcess

from bulletin.wire.proto import bbs_pb2

GUID = "outlives-a-crash"


def call(url: str, path: str, body: bytes = b"") -> bytes:
    request = urllib.request.Request(url + path, data=body, headers={"Content-Type": "application/x-protobuf"})
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: bytes = response.read()
        return answer


def desire(url: str) -> bbs_pb2.TaskLifecycleResponse:
    definition = bbs_pb2.TaskDefinition(root_fs="docker:///busybox")
    definition.action.run_action.path = "true"
    definition.action.run_action.user = "root"
    wanted = bbs_pb2.DesireTaskRequest(task_guid=GUID, domain="crash", task_definition=definition)
    return bbs_pb2.TaskLifecycleResponse.FromString(call(url, "/v1/tasks/desire.r2", wanted.SerializeToString()))


def read(url: str) -> bbs_pb2.TaskResponse:
    wanted = bbs_pb2.TaskByGuidRequest(task_guid=GUID)
    return bbs_pb2.TaskResponse.FromString(call(url, "/v1/tasks/get_by_task_guid.r3", wanted.SerializeToString()))


def test_an_answered_desire_outlives_a_crash(board_process: BoardProcess) -> None:
    url = board_process.start()
    assert not desire(url).HasField("error")
    before = read(url).task

    board_process.kill()
    assert not board_process.running
    assert board_process.restart() == url

    after = read(url).task
    # Not the whole: without a cell the board may have noted a rejection meanwhile.
    assert (after.task_guid, after.domain, after.created_at) == (GUID, "crash", before.created_at)
    assert after.task_definition == before.task_definition


def test_a_stopped_board_starts_again_where_it_was(board_process: BoardProcess) -> None:
    url = board_process.start()
    desire(url)
    board_process.stop()
    assert board_process.start() == url
    assert read(url).task.task_guid == GUID
    board_process.stop()
    assert len(board_process.processes) == 2
