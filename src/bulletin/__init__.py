"""Bulletin: run one-off container tasks, at most once, with a durable outcome.

    from bulletin import Client, RunAction, TaskDefinition

    task = TaskDefinition(root_fs="docker:///busybox", action=RunAction(path="/bin/true", user="root"))
    with Client() as client:
        print(client.run(task).succeeded)

Everything a user of the library needs is named here and loaded when it is first used, so that importing the package
costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulletin.client import (
        AsyncClient,
        BoardError,
        BoardFault,
        BoardTimeout,
        BoardUnreachable,
        Cell,
        Client,
        Followed,
        Forbidden,
        InvalidRequest,
        InvalidTransition,
        Missed,
        Outcome,
        OutputLine,
        OutputNotFound,
        Refused,
        ResourceConflict,
        RunningOnAnotherCell,
        TaskExists,
        TaskGone,
        TaskNotFound,
        WaitTimeout,
        read_definition,
    )
    from bulletin.core.actions import (
        Action,
        CodependentAction,
        DownloadAction,
        EmitProgressAction,
        ParallelAction,
        ResourceLimits,
        RunAction,
        SerialAction,
        TimeoutAction,
        TryAction,
        UploadAction,
    )
    from bulletin.core.definition import (
        CachedDependency,
        DedicatedDevice,
        DigestAlgorithm,
        File,
        ICMPInfo,
        ImageLayer,
        LayerType,
        MediaType,
        MetricTag,
        PortRange,
        SecurityGroupRule,
        SharedDevice,
        TaskDefinition,
        VolumeMount,
    )
    from bulletin.core.model import CallbackAttempt, Task, TaskState
    from bulletin.core.operations import TaskChanged, TaskCreated, TaskRemoved

__all__ = [
    "Action",
    "AsyncClient",
    "BoardError",
    "BoardFault",
    "BoardTimeout",
    "BoardUnreachable",
    "CachedDependency",
    "CallbackAttempt",
    "Cell",
    "Client",
    "CodependentAction",
    "DedicatedDevice",
    "DigestAlgorithm",
    "DownloadAction",
    "EmitProgressAction",
    "File",
    "Followed",
    "Forbidden",
    "ICMPInfo",
    "ImageLayer",
    "InvalidRequest",
    "InvalidTransition",
    "LayerType",
    "MediaType",
    "MetricTag",
    "Missed",
    "Outcome",
    "OutputLine",
    "OutputNotFound",
    "ParallelAction",
    "PortRange",
    "Refused",
    "ResourceConflict",
    "ResourceLimits",
    "RunAction",
    "RunningOnAnotherCell",
    "SecurityGroupRule",
    "SerialAction",
    "SharedDevice",
    "Task",
    "TaskChanged",
    "TaskCreated",
    "TaskDefinition",
    "TaskExists",
    "TaskGone",
    "TaskNotFound",
    "TaskRemoved",
    "TaskState",
    "TimeoutAction",
    "TryAction",
    "UploadAction",
    "VolumeMount",
    "WaitTimeout",
    "read_definition",
]

#: Where the names come from; asked in this order, each of them light.
_SOURCES = ("client", "core.actions", "core.definition", "core.operations", "core.model")


def __getattr__(name: str) -> object:
    if name in __all__:
        from importlib import import_module

        for source in _SOURCES:
            module = import_module(f"{__name__}.{source}")
            if name in module.__all__:
                globals()[name] = value = getattr(module, name)
                return value
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
