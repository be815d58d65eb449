from bulletin.wire.proto import bbs_pb2 as _bbs_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(_message.Message):
    __slots__ = ("hello", "start", "completed", "rejected", "gone", "draining", "output", "welcome", "assign", "started", "acknowledged", "stop", "refused")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ASSIGN_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    start: Start
    completed: Completed
    rejected: Rejected
    gone: Gone
    draining: Draining
    output: Output
    welcome: Welcome
    assign: Assign
    started: Started
    acknowledged: Acknowledged
    stop: Stop
    refused: Refused
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., completed: _Optional[_Union[Completed, _Mapping]] = ..., rejected: _Optional[_Union[Rejected, _Mapping]] = ..., gone: _Optional[_Union[Gone, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ..., output: _Optional[_Union[Output, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., assign: _Optional[_Union[Assign, _Mapping]] = ..., started: _Optional[_Union[Started, _Mapping]] = ..., acknowledged: _Optional[_Union[Acknowledged, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("presence", "arbitrary_rootfs", "volume_drivers", "held", "draining", "incarnation", "protocol")
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    ARBITRARY_ROOTFS_FIELD_NUMBER: _ClassVar[int]
    VOLUME_DRIVERS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    presence: _bbs_pb2.CellPresence
    arbitrary_rootfs: _containers.RepeatedScalarFieldContainer[str]
    volume_drivers: _containers.RepeatedScalarFieldContainer[str]
    held: _containers.RepeatedCompositeFieldContainer[Held]
    draining: bool
    incarnation: str
    protocol: int
    def __init__(self, presence: _Optional[_Union[_bbs_pb2.CellPresence, _Mapping]] = ..., arbitrary_rootfs: _Optional[_Iterable[str]] = ..., volume_drivers: _Optional[_Iterable[str]] = ..., held: _Optional[_Iterable[_Union[Held, _Mapping]]] = ..., draining: _Optional[bool] = ..., incarnation: _Optional[str] = ..., protocol: _Optional[int] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("task_guid", "phase", "memory_mb", "disk_mb", "created_at")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PHASE_INVALID: _ClassVar[Held.Phase]
        STARTING: _ClassVar[Held.Phase]
        RUNNING: _ClassVar[Held.Phase]
        REPORTING: _ClassVar[Held.Phase]
        LEAVING: _ClassVar[Held.Phase]
    PHASE_INVALID: Held.Phase
    STARTING: Held.Phase
    RUNNING: Held.Phase
    REPORTING: Held.Phase
    LEAVING: Held.Phase
    TASK_GUID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MB_FIELD_NUMBER: _ClassVar[int]
    DISK_MB_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    task_guid: str
    phase: Held.Phase
    memory_mb: int
    disk_mb: int
    created_at: int
    def __init__(self, task_guid: _Optional[str] = ..., phase: _Optional[_Union[Held.Phase, str]] = ..., memory_mb: _Optional[int] = ..., disk_mb: _Optional[int] = ..., created_at: _Optional[int] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("task_guid", "created_at")
    TASK_GUID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    task_guid: str
    created_at: int
    def __init__(self, task_guid: _Optional[str] = ..., created_at: _Optional[int] = ...) -> None: ...

class Completed(_message.Message):
    __slots__ = ("task_guid", "failed", "failure_reason", "result", "output")
    TASK_GUID_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    task_guid: str
    failed: bool
    failure_reason: str
    result: str
    output: _containers.RepeatedCompositeFieldContainer[LogLine]
    def __init__(self, task_guid: _Optional[str] = ..., failed: _Optional[bool] = ..., failure_reason: _Optional[str] = ..., result: _Optional[str] = ..., output: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ...) -> None: ...

class Rejected(_message.Message):
    __slots__ = ("task_guid", "reason")
    TASK_GUID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_guid: str
    reason: str
    def __init__(self, task_guid: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Gone(_message.Message):
    __slots__ = ("task_guid",)
    TASK_GUID_FIELD_NUMBER: _ClassVar[int]
    task_guid: str
    def __init__(self, task_guid: _Optional[str] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Output(_message.Message):
    __slots__ = ("task_guid", "lines")
    TASK_GUID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    task_guid: str
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    def __init__(self, task_guid: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("time_ns", "stream", "source", "text")
    class Stream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUT: _ClassVar[LogLine.Stream]
        ERR: _ClassVar[LogLine.Stream]
    OUT: LogLine.Stream
    ERR: LogLine.Stream
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    time_ns: int
    stream: LogLine.Stream
    source: str
    text: str
    def __init__(self, time_ns: _Optional[int] = ..., stream: _Optional[_Union[LogLine.Stream, str]] = ..., source: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("board", "protocol")
    BOARD_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    board: str
    protocol: int
    def __init__(self, board: _Optional[str] = ..., protocol: _Optional[int] = ...) -> None: ...

class Assign(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _bbs_pb2.Task
    def __init__(self, task: _Optional[_Union[_bbs_pb2.Task, _Mapping]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("task_guid", "should_start")
    TASK_GUID_FIELD_NUMBER: _ClassVar[int]
    SHOULD_START_FIELD_NUMBER: _ClassVar[int]
    task_guid: str
    should_start: bool
    def __init__(self, task_guid: _Optional[str] = ..., should_start: _Optional[bool] = ...) -> None: ...

class Acknowledged(_message.Message):
    __slots__ = ("task_guid",)
    TASK_GUID_FIELD_NUMBER: _ClassVar[int]
    task_guid: str
    def __init__(self, task_guid: _Optional[str] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("task_guid",)
    TASK_GUID_FIELD_NUMBER: _ClassVar[int]
    task_guid: str
    def __init__(self, task_guid: _Optional[str] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...
