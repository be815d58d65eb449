"""Frames of the link between a cell and its board (design section 4): made and read here and nowhere else.

One function makes each frame, so board and cell never build a message by hand; ``decode_frame`` reads any.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError

from bulletin.core.errors import Blame, ErrorType, TaskError
from bulletin.core.limits import LINK_FRAME_BYTES_MAX
from bulletin.core.model import Task
from bulletin.wire.proto import link_pb2
from bulletin.wire.proto.link_pb2 import Frame
from bulletin.wire.splicing import delimited
from bulletin.wire.tasks import encode_task

__all__ = [
    "PROTOCOL",
    "acknowledged",
    "assign",
    "completed",
    "decode_frame",
    "draining",
    "gone",
    "hello",
    "log_line",
    "output",
    "refused",
    "rejected",
    "start",
    "started",
    "stop",
    "welcome",
]

#: The version both sides name in Hello and Welcome; raised when an old side could no longer follow.
PROTOCOL: Final = 1

#: Frame.assign = 17 and Assign.task = 1, length-delimited.
_ASSIGN_TAG: Final = b"\x8a\x01"
_TASK_TAG: Final = b"\x0a"


def decode_frame(data: bytes) -> Frame:
    """The frame in one binary message; ``WhichOneof("body")`` names its kind, which is always one we know.

    Raises:
        TaskError: InvalidProtobufMessage, when it is over ``LINK_FRAME_BYTES_MAX``, unreadable or of no known kind.
    """
    if len(data) > LINK_FRAME_BYTES_MAX:
        raise _unreadable(f"a frame of {len(data)} bytes; at most {LINK_FRAME_BYTES_MAX} are read")
    try:
        frame = Frame.FromString(data)
    except DecodeError as error:
        raise _unreadable(f"a frame of {len(data)} bytes that cannot be read") from error
    if frame.WhichOneof("body") is None:
        raise _unreadable("a frame of no known kind")
    return frame


def _unreadable(text: str) -> TaskError:
    return TaskError(ErrorType.INVALID_PROTOBUF_MESSAGE, text, Blame.PEER)


# -- cell to board -----------------------------------------------------------------------------------------------


def hello(message: link_pb2.Hello) -> bytes:
    """The first frame of a cell; ``wire.cells.encode_hello`` makes the message."""
    return Frame(hello=message).SerializeToString()


def start(guid: str, created_at: int) -> bytes:
    """May I run it? ``created_at`` (ns) is the task's, which tells it from a later one of the same guid."""
    return Frame(start=link_pb2.Start(task_guid=guid, created_at=created_at)).SerializeToString()


def completed(
    guid: str, *, failed: bool, failure_reason: str, result: str, output: Iterable[link_pb2.LogLine] = ()
) -> bytes:
    """The outcome, with the last of the output."""
    return Frame(
        completed=link_pb2.Completed(
            task_guid=guid, failed=failed, failure_reason=failure_reason, result=result, output=output
        )
    ).SerializeToString()


def rejected(guid: str, reason: str) -> bytes:
    """The container could not be made; another try may succeed."""
    return Frame(rejected=link_pb2.Rejected(task_guid=guid, reason=reason)).SerializeToString()


def gone(guid: str) -> bytes:
    """The container is gone, and what it took is free."""
    return Frame(gone=link_pb2.Gone(task_guid=guid)).SerializeToString()


def draining() -> bytes:
    """No new work, please."""
    return Frame(draining=link_pb2.Draining()).SerializeToString()


def output(guid: str, lines: Iterable[link_pb2.LogLine]) -> bytes:
    """Output as it comes."""
    return Frame(output=link_pb2.Output(task_guid=guid, lines=lines)).SerializeToString()


def log_line(time_ns: int, source: str, text: str, *, error: bool = False) -> link_pb2.LogLine:
    """One line of output; ``text`` without its newline and valid Unicode, ``error`` for the error stream."""
    stream = link_pb2.LogLine.ERR if error else link_pb2.LogLine.OUT
    return link_pb2.LogLine(time_ns=time_ns, stream=stream, source=source, text=text)


# -- board to cell -----------------------------------------------------------------------------------------------


def welcome(board: str) -> bytes:
    """The answer to Hello."""
    return Frame(welcome=link_pb2.Welcome(board=board, protocol=PROTOCOL)).SerializeToString()


def assign(task: Task) -> bytes:
    """Make a container for ``task``."""
    return delimited(_ASSIGN_TAG, delimited(_TASK_TAG, encode_task(task)))


def started(guid: str, should_start: bool) -> bytes:
    """The answer to Start: run it, or drop it."""
    return Frame(started=link_pb2.Started(task_guid=guid, should_start=should_start)).SerializeToString()


def acknowledged(guid: str) -> bytes:
    """The outcome or the rejection is durable: destroy and forget."""
    return Frame(acknowledged=link_pb2.Acknowledged(task_guid=guid)).SerializeToString()


def stop(guid: str) -> bytes:
    """Stop it, destroy it, report nothing."""
    return Frame(stop=link_pb2.Stop(task_guid=guid)).SerializeToString()


def refused(reason: str) -> bytes:
    """The board will not have this cell."""
    return Frame(refused=link_pb2.Refused(reason=reason)).SerializeToString()
