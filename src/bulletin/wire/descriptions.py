"""What routes, messages and fields are for, in words; the API's description is made with it.

The comments of the .proto files do not reach the generated code, so the words stand here. Every route and every
message of the API has its row; ``tests/wire/test_openapi.py`` looks after that.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DEPRECATED", "FIELDS", "MESSAGES", "REQUIRED", "ROUTES"]

_LIST: Final = "All tasks, or those of a domain and of a cell; in no particular order."
_LAYERS: Final = " Image layers are shown as cached dependencies and downloads, as older clients know them."

#: Route to what it does. Routes of long-running processes are described together.
ROUTES: Final[dict[str, str]] = {
    "Ping": "Say that the board is there.",
    "Domains": "The fresh domains.",
    "UpsertDomain": "Keep a domain fresh for a time.",
    "Tasks": _LIST,
    "TaskByGuid": "One task.",
    "Tasks_r2": _LIST + _LAYERS,
    "TaskByGuid_r2": "One task." + _LAYERS,
    "DesireTask": "Have a task run. Answered once it is durable; a guid that is taken is refused with ResourceExists.",
    "StartTask": "A cell claims a task before it runs any of its code. `should_start` is false when it had it already.",
    "CancelTask": "Take a task back: it is completed as failed at once, and its container is stopped.",
    "FailTask": "Fail a task that has not ended.",
    "RejectTask": "Give a task back that could not be placed or made; after too many tries it fails.",
    "CompleteTask": "The cell that runs a task tells its outcome. Not idempotent: a repeat is refused.",
    "ResolvingTask": "Take the telling of an outcome on; of many callers one is let through.",
    "DeleteTask": "Remove a task whose outcome was told.",
    "TaskEventStream": "Every change of every task as it becomes durable, from now on.",
    "TaskEventStream_r0": "Every change of every task as it becomes durable, from now on." + _LAYERS,
    "Cells": "The cells that are here, with what they can hold.",
    "DesireTask_r0": "Have a task run; an older path of the same.",
    "Tasks_r0": _LIST + _LAYERS,
    "Tasks_r1": _LIST + _LAYERS,
    "TaskByGuid_r0": "One task." + _LAYERS,
    "TaskByGuid_r1": "One task." + _LAYERS,
    "Link": "A cell's link with the board: a WebSocket of protobuf frames. For cells only.",
    "TaskOutput": "The newest output of an ended task, one JSON object a line.",
    "TaskCallbacks": "The newest attempts to tell a task's outcome to its callback URL, oldest first.",
    "TaskEvents": (
        "Every change of every task as JSON, resumable. Each event has an id; who comes again with it in "
        "`Last-Event-ID` gets exactly what came since. Where that cannot be, an event `missed` says so first. A frame "
        "with an id and no data is no event: it tells how far the stream is."
    ),
    "Metrics": "The board's metrics in the text format of Prometheus.",
    "OpenAPI": "This description.",
}

#: Still served; newer ones do the same.
DEPRECATED: Final = frozenset(
    {
        "Tasks_r2", "TaskByGuid_r2", "FailTask", "TaskEventStream_r0", "DesireTask_r0", "Tasks_r0", "Tasks_r1",
        "TaskByGuid_r0", "TaskByGuid_r1", "ActualLRPGroups", "ActualLRPGroupsByProcessGuid",
        "ActualLRPGroupsByProcessGuidAndIndex", "StartActualLRP_r0", "EvacuateRunningActualLRP_r0", "DesiredLRPs_r2",
        "DesiredLRPByProcessGuid_r2", "EventStream", "EventStream_r0", "LrpInstanceEventStream_r0",
    }
)  # fmt: skip

MESSAGES: Final[dict[str, str]] = {
    "Error": "Present means failure. Clients tell errors apart by `type`, which is always there.",
    "PingResponse": "The board is there.",
    "DomainsResponse": "The fresh domains, or an error.",
    "UpsertDomainRequest": "Which domain, and for how long.",
    "UpsertDomainResponse": "Nothing, or an error.",
    "TaskLifecycleResponse": "Nothing when it was done, or an error.",
    "DesireTaskRequest": "A task to run: what, under which guid, in which domain.",
    "StartTaskRequest": "Which task, by which cell.",
    "StartTaskResponse": "Whether to run it, or an error.",
    "FailTaskRequest": "Which task, and why.",
    "RejectTaskRequest": "Which task, and why.",
    "TaskGuidRequest": "Which task.",
    "CompleteTaskRequest": "Which task, by which cell, and what came of it.",
    "TasksRequest": "Which tasks; what is left out does not matter.",
    "TasksResponse": "Tasks, or an error.",
    "TaskByGuidRequest": "Which task.",
    "TaskResponse": "The task, or an error.",
    "CellsResponse": "Cells, or an error.",
    "ErrorOnlyResponse": "An error: the board does not do this.",
    "TaskCreatedEvent": "A task was desired.",
    "TaskChangedEvent": "A task changed; both ways it was.",
    "TaskRemovedEvent": "A task is gone; as it was last.",
    "Task": "A task: its definition, and how far it is.",
    "TaskDefinition": "What to run, in what, with how much.",
    "Action": "One member counts: the first that is set, in the order given here.",
    "DownloadAction": "Fetch an archive and unpack it.",
    "UploadAction": "Send a file away.",
    "RunAction": "Run a program.",
    "ResourceLimits": "Limits of a process; one left out is not set.",
    "TimeoutAction": "Bound another action in time.",
    "EmitProgressAction": "Say in the log how another action goes.",
    "TryAction": "Another action, whose failure does not count.",
    "ParallelAction": "Actions side by side; all have to succeed.",
    "SerialAction": "Actions one after the other, until one fails.",
    "CodependentAction": "Actions side by side; when one ends, all end.",
    "EnvironmentVariable": "A name and a value.",
    "File": "A file given to the container.",
    "CachedDependency": "An archive that containers of a cell share.",
    "ImageLayer": "An archive to lay into the container's files.",
    "SecurityGroupRule": "Where the container may connect to.",
    "PortRange": "Ports from `start` to `end`, both included.",
    "ICMPInfo": "A kind of ICMP message.",
    "VolumeMount": "A volume in the container.",
    "SharedDevice": "A volume that several containers share.",
    "DedicatedDevice": "A volume of one container.",
    "Network": "Properties of the container's network.",
    "CertificateProperties": "What stands in the container's certificate.",
    "LogRateLimit": "How much a task may log; left out: the platform's own limit.",
    "MetricTagValue": "A metric's tag: a text, or one of the platform's values.",
    "CellPresence": "A cell that is here.",
    "CellCapacity": "What a cell has in all.",
    "Provider": "A kind of root filesystem that a cell can make.",
}

FIELDS: Final[dict[str, str]] = {
    "UpsertDomainRequest.ttl": "Seconds; 0 is for ever.",
    "DesireTaskRequest.task_guid": "Letters, digits, `-` and `_`; at most 255.",
    "DesireTaskRequest.domain": "At most 255 characters; not empty.",
    "CompleteTaskRequest.result": "What the task left in its result file.",
    "CompleteTaskRequest.failure_reason": "Cut at 1,024 bytes.",
    "Task.created_at": "Nanoseconds since the Unix epoch.",
    "Task.updated_at": "Nanoseconds since the Unix epoch.",
    "Task.first_completed_at": "Nanoseconds since the Unix epoch; left out: never.",
    "Task.cell_id": "The cell that has it, or had it.",
    "Task.rejection_count": "How often cells gave it back.",
    "TaskDefinition.root_fs": "A URL with a scheme: `docker:///busybox`, `preloaded:cflinuxfs4`.",
    "TaskDefinition.action": "Required.",
    "TaskDefinition.result_file": "A path in the container; its content becomes the result.",
    "TaskDefinition.completion_callback_url": "Gets the outcome as JSON, with POST.",
    "TaskDefinition.annotation": "At most 10,240 bytes; handed back with the outcome.",
    "TaskDefinition.legacy_download_user": "Required with EXCLUSIVE layers.",
    "TimeoutAction.timeout_ms": "More than 0.",
    "TimeoutAction.deprecated_timeout_ns": "Ignored.",
    "SecurityGroupRule.protocol": "`tcp`, `udp`, `icmp`, `icmpv6` or `all`.",
    "VolumeMount.mode": "`r` or `rw`.",
    "LogRateLimit.bytes_per_second": "-1 is unlimited, 0 silence.",
    "Provider.properties": "Of fixed sets, the members; empty where any will do.",
}

#: What the board refuses requests without (board-api.md section 5).
REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "DesireTaskRequest": ("task_guid", "domain", "task_definition"),
    "StartTaskRequest": ("task_guid", "cell_id"),
    "CompleteTaskRequest": ("task_guid", "cell_id"),
    "FailTaskRequest": ("task_guid", "failure_reason"),
    "RejectTaskRequest": ("task_guid", "rejection_reason"),
    "TaskGuidRequest": ("task_guid",),
    "TaskByGuidRequest": ("task_guid",),
    "UpsertDomainRequest": ("domain",),
}
