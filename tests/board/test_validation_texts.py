"""board-api.md section 5 over HTTP: requests with several faults at once, and the exact text all of them together give.

``tests/wire/test_validation.py`` has every rule alone; here it is their order and their joining. Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.boards import ThreadBoard, clear
from support.voices import RawVoice, answer_of

from bulletin.wire.proto import bbs_pb2 as p

NO_ACTION = "invalid action type"


def joined(*names: str) -> str:
    """The text of section 5: what has its own words stays, everything else is an invalid field."""
    return ", ".join(name if name == NO_ACTION else f"Invalid field: {name}" for name in names)


def run(**fields: Any) -> p.Action:
    return p.Action(run_action=p.RunAction(**{"path": "sh", "user": "root", **fields}))


def download(**fields: str) -> p.Action:
    return p.Action(download_action=p.DownloadAction(**{"from": "f", "to": "t", "user": "u", **fields}))


def upload(**fields: str) -> p.Action:
    return p.Action(upload_action=p.UploadAction(**{"from": "f", "to": "t", "user": "u", **fields}))


def timeout(action: p.Action | None, milliseconds: int) -> p.Action:
    return p.Action(timeout_action=p.TimeoutAction(action=action, timeout_ms=milliseconds))


def attempt(action: p.Action | None) -> p.Action:
    return p.Action(try_action=p.TryAction(action=action))


def progress(action: p.Action | None) -> p.Action:
    return p.Action(emit_progress_action=p.EmitProgressAction(action=action))


def serial(*actions: p.Action) -> p.Action:
    return p.Action(serial_action=p.SerialAction(actions=actions))


def parallel(*actions: p.Action) -> p.Action:
    return p.Action(parallel_action=p.ParallelAction(actions=actions))


def codependent(*actions: p.Action) -> p.Action:
    return p.Action(codependent_action=p.CodependentAction(actions=actions))


def rule(protocol: str, **fields: Any) -> p.SecurityGroupRule:
    return p.SecurityGroupRule(**{"protocol": protocol, "destinations": ["0.0.0.0/0"], **fields})


def dependency(**fields: str) -> p.CachedDependency:
    return p.CachedDependency(**{"from": "f", "to": "t", **fields})


def layer(**fields: Any) -> p.ImageLayer:
    return p.ImageLayer(**{"url": "u", "destination_path": "d", "layer_type": 1, "media_type": 1, **fields})


RATE = p.LogRateLimit(bytes_per_second=-2)
LONG = "x" * 10_241
BARE = run(path="", user="")
EXCLUSIVE = layer(layer_type=2)
WHOLE_EXCLUSIVE = layer(layer_type=2, digest_algorithm=1, digest_value="v")
GOOD_RULE, BAD_RULE = rule("all"), rule("TCP", ports=[1])

#: Fields that replace those of a good definition; None takes one away.
Fields = dict[str, Any]
DEFINITIONS: list[tuple[Fields, tuple[str, ...]]] = [
    # The scalars, in their order, by twos and more.
    ({"root_fs": "", "action": None}, ("rootfs", NO_ACTION)),
    ({"root_fs": "ploop", "memory_mb": -1}, ("rootfs", "memory_mb")),
    ({"root_fs": "1a:b", "disk_mb": -1}, ("rootfs", "disk_mb")),
    ({"root_fs": "docker://h:port/x", "log_rate_limit": RATE}, ("rootfs", "log_rate_limit")),
    ({"root_fs": "docker://x/%zz", "max_pids": -1}, ("rootfs", "max_pids")),
    ({"root_fs": "a_b:c", "annotation": LONG}, ("rootfs", "annotation")),
    ({"root_fs": "a:b#%zz", "egress_rules": [BAD_RULE]}, ("rootfs", "egress_rules")),
    ({"root_fs": "a://[::1/x", "image_password": "p"}, ("rootfs", "image_username")),
    ({"root_fs": "docker://h%41/x", "image_username": "u"}, ("rootfs", "image_password")),
    ({"action": None, "memory_mb": -1}, (NO_ACTION, "memory_mb")),
    (
        {"action": None, "legacy_download_user": "", "image_layers": [WHOLE_EXCLUSIVE]},
        (NO_ACTION, "legacy_download_user"),
    ),
    ({"memory_mb": -1, "disk_mb": -1}, ("memory_mb", "disk_mb")),
    ({"disk_mb": -1, "log_rate_limit": RATE}, ("disk_mb", "log_rate_limit")),
    ({"log_rate_limit": RATE, "max_pids": -1}, ("log_rate_limit", "max_pids")),
    ({"max_pids": -1, "annotation": LONG}, ("max_pids", "annotation")),
    ({"max_pids": -(2**31), "memory_mb": -(2**31)}, ("memory_mb", "max_pids")),
    ({"annotation": LONG, "egress_rules": [BAD_RULE]}, ("annotation", "egress_rules")),
    ({"annotation": "\u00e9" * 5121, "image_username": "u"}, ("annotation", "image_password")),
    ({"egress_rules": [BAD_RULE, GOOD_RULE, BAD_RULE]}, ("egress_rules", "egress_rules")),
    ({"egress_rules": [BAD_RULE], "image_password": "p"}, ("egress_rules", "image_username")),
    (
        {"image_password": "p", "cached_dependencies": [dependency(to="")]},
        ("image_username", "cached_dependency", "to"),
    ),
    ({"image_username": "u", "image_layers": [layer(url="")]}, ("image_password", "image_layer", "url")),
    (
        {"memory_mb": -1, "disk_mb": -1, "log_rate_limit": RATE, "max_pids": -1, "annotation": LONG},
        ("memory_mb", "disk_mb", "log_rate_limit", "max_pids", "annotation"),
    ),
    # Actions inside one another, flattened.
    ({"action": p.Action()}, ("action", "inner-action")),
    ({"action": p.Action(), "disk_mb": -1}, ("action", "inner-action", "disk_mb")),
    ({"action": BARE, "root_fs": "://"}, ("rootfs", "action", "path", "user")),
    ({"action": BARE, "annotation": LONG}, ("action", "path", "user", "annotation")),
    ({"action": download(**{"from": "", "user": ""})}, ("action", "from", "user")),
    ({"action": download(to="", checksum_value="v")}, ("action", "to", "checksum algorithm")),
    ({"action": download(user="", checksum_algorithm="md5")}, ("action", "user", "checksum value")),
    (
        {"action": download(**{"from": "", "checksum_algorithm": "sha512", "checksum_value": "v"})},
        ("action", "from", "invalid algorithm"),
    ),
    ({"action": upload(**{"from": "", "to": "", "user": ""})}, ("action", "to", "from", "user")),
    ({"action": upload(user=""), "max_pids": -1}, ("action", "user", "max_pids")),
    ({"action": timeout(None, 0)}, ("action", "action", "timeout_ms")),
    ({"action": timeout(BARE, -1)}, ("action", "path", "user", "timeout_ms")),
    ({"action": timeout(p.Action(), 0)}, ("action", "inner-action", "timeout_ms")),
    ({"action": attempt(None), "memory_mb": -1}, ("action", "action", "memory_mb")),
    ({"action": attempt(timeout(None, 1))}, ("action", "action")),
    ({"action": attempt(attempt(timeout(run(user=""), 0)))}, ("action", "user", "timeout_ms")),
    ({"action": progress(None)}, ("action", "action")),
    ({"action": progress(upload(to="", user=""))}, ("action", "to", "user")),
    ({"action": serial(), "root_fs": ""}, ("rootfs", "action", "actions")),
    ({"action": parallel(serial(), codependent())}, ("action", "actions", "actions")),
    ({"action": serial(run(path=""), parallel(), upload(to=""))}, ("action", "path", "actions", "to")),
    ({"action": codependent(run(), run(user=""), download(to=""))}, ("action", "user", "to")),
    (
        {"action": parallel(timeout(run(path=""), 0), timeout(run(user=""), 0))},
        ("action", "path", "timeout_ms", "user", "timeout_ms"),
    ),
    ({"action": serial(p.Action(), BARE, p.Action())}, ("action", "inner-action", "path", "user", "inner-action")),
    # The lowest number of several members counts, and only that one.
    (
        {"action": p.Action(download_action=p.DownloadAction(), run_action=p.RunAction())},
        ("action", "from", "to", "user"),
    ),
    (
        {"action": p.Action(timeout_action=p.TimeoutAction(timeout_ms=1), serial_action=p.SerialAction())},
        ("action", "action"),
    ),
    # Dependencies and layers.
    ({"cached_dependencies": [p.CachedDependency()] * 2}, ("cached_dependency", "from", "to") * 2),
    (
        {"cached_dependencies": [dependency(checksum_value="v"), dependency(), dependency(checksum_algorithm="md5")]},
        ("cached_dependency", "checksum algorithm", "cached_dependency", "checksum value"),
    ),
    (
        {"cached_dependencies": [dependency(**{"from": "", "checksum_algorithm": "x", "checksum_value": "v"})]},
        ("cached_dependency", "from", "invalid algorithm"),
    ),
    (
        {"cached_dependencies": [dependency(to="")], "image_layers": [layer(destination_path="")]},
        ("cached_dependency", "to", "image_layer", "destination_path"),
    ),
    (
        {"image_layers": [p.ImageLayer()]},
        ("image_layer", "url", "destination_path", "layer_type", "media_type"),
    ),
    ({"image_layers": [layer(digest_value="v")]}, ("image_layer", "digest_algorithm", "digest_algorithm")),
    (
        {"image_layers": [layer(url="", digest_value="v", media_type=4)]},
        ("image_layer", "url", "media_type", "digest_algorithm", "digest_algorithm"),
    ),
    ({"image_layers": [layer(layer_type=3, digest_algorithm=1)]}, ("image_layer", "layer_type", "digest_value")),
    ({"image_layers": [EXCLUSIVE]}, ("image_layer", "digest_algorithm", "digest_value", "legacy_download_user")),
    (
        {"image_layers": [EXCLUSIVE, layer(url="")]},
        ("image_layer", "digest_algorithm", "digest_value", "image_layer", "url", "legacy_download_user"),
    ),
    (
        {"image_layers": [EXCLUSIVE], "legacy_download_user": "u"},
        ("image_layer", "digest_algorithm", "digest_value"),
    ),
    ({"image_layers": [WHOLE_EXCLUSIVE, WHOLE_EXCLUSIVE]}, ("legacy_download_user",)),
    (
        {"image_layers": [layer(digest_algorithm=3, digest_value="v"), WHOLE_EXCLUSIVE]},
        ("image_layer", "digest_algorithm", "legacy_download_user"),
    ),
    # Rules of every kind, each named once.
    (
        {"egress_rules": [rule("tcp"), rule("udp", ports=[0]), rule("icmp"), rule("all", ports=[1]), rule("")]},
        ("egress_rules",) * 5,
    ),
    (
        {
            "egress_rules": [
                rule("tcp", ports=[1], port_range=p.PortRange(start=1, end=2)),
                rule("udp", port_range=p.PortRange(start=2, end=1)),
                rule("icmpv6", icmp_info=p.ICMPInfo(), ports=[1]),
                rule("all", destinations=["1.2.3.4", "300.1.1.1"]),
                rule("all", destinations=["1.2.3.5-1.2.3.4"]),
                rule("all", destinations=["01.2.3.4"]),
                rule("all", destinations=["fe80::1%eth0"]),
                rule("all", destinations=[]),
            ],
            "action": None,
        },
        (NO_ACTION, *("egress_rules",) * 8),
    ),
    # Everything.
    (
        {
            "root_fs": "://",
            "action": serial(BARE, timeout(None, 0)),
            "memory_mb": -1,
            "disk_mb": -1,
            "log_rate_limit": RATE,
            "max_pids": -1,
            "annotation": LONG,
            "egress_rules": [BAD_RULE, BAD_RULE],
            "image_username": "u",
            "cached_dependencies": [p.CachedDependency()],
            "image_layers": [p.ImageLayer(layer_type=2)],
        },
        (
            *("rootfs", "action", "path", "user", "action", "timeout_ms", "memory_mb", "disk_mb", "log_rate_limit"),
            *("max_pids", "annotation", "egress_rules", "egress_rules", "image_password"),
            *("cached_dependency", "from", "to", "image_layer", "url", "destination_path", "media_type"),
            *("digest_algorithm", "digest_value", "legacy_download_user"),
        ),
    ),
]

REQUESTS: list[tuple[str, Any, tuple[str, ...]]] = [
    ("desire.r2", p.DesireTaskRequest(), ("task_guid", "domain", "task_definition")),
    ("desire.r2", p.DesireTaskRequest(task_guid="a b", domain="d"), ("task_guid", "task_definition")),
    (
        "desire.r2",
        p.DesireTaskRequest(task_guid="g\n", task_definition=p.TaskDefinition()),
        ("task_guid", "domain", "rootfs", NO_ACTION),
    ),
    (
        "desire.r2",
        p.DesireTaskRequest(task_guid="g", task_definition=p.TaskDefinition(root_fs="x:")),
        ("domain", NO_ACTION),
    ),
    ("start", p.StartTaskRequest(), ("task_guid", "cell_id")),
    ("start", p.StartTaskRequest(task_guid="g.g"), ("task_guid", "cell_id")),
    ("complete", p.CompleteTaskRequest(failed=True, failure_reason="r"), ("task_guid", "cell_id")),
    ("complete", p.CompleteTaskRequest(task_guid="\u00e9", result="r"), ("task_guid", "cell_id")),
    ("fail", p.FailTaskRequest(), ("task_guid", "failure_reason")),
    ("fail", p.FailTaskRequest(task_guid="a/b"), ("task_guid", "failure_reason")),
    ("reject", p.RejectTaskRequest(), ("task_guid", "failure_reason")),
    ("reject", p.RejectTaskRequest(task_guid="a b"), ("task_guid", "failure_reason")),
    ("cancel", p.TaskGuidRequest(), ("task_guid",)),
    ("resolving", p.TaskGuidRequest(), ("task_guid",)),
    ("delete", p.TaskGuidRequest(), ("task_guid",)),
    ("get_by_task_guid.r3", p.TaskByGuidRequest(), ("task_guid",)),
    ("get_by_task_guid.r2", p.TaskByGuidRequest(), ("task_guid",)),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    board = ThreadBoard()
    yield board.start()
    board.stop()


@pytest.fixture(params=["protobuf", "json"])
def voice(url: str, request: pytest.FixtureRequest) -> Iterator[RawVoice]:
    made = RawVoice(url, as_json=request.param == "json")
    yield made
    made.close()


def refusal(voice: RawVoice, path: str, message: Any) -> str:
    answer = answer_of(voice.ask(f"/v1/tasks/{path}", message, p.TaskLifecycleResponse))
    assert answer.type == "InvalidRequest"
    return answer.text


def definition(fields: Fields) -> p.TaskDefinition:
    return p.TaskDefinition(**{"root_fs": "docker:///busybox", "action": run(), **fields})


def test_the_definition_the_faults_are_put_into_is_good(voice: RawVoice) -> None:
    request = p.DesireTaskRequest(task_definition=definition({}), task_guid="g", domain="d")
    answer = answer_of(voice.ask("/v1/tasks/desire.r2", request, p.TaskLifecycleResponse))
    assert not answer.type
    clear(voice)


@pytest.mark.parametrize(("fields", "names"), DEFINITIONS, ids=lambda value: "-".join(value)[:60])
def test_definitions(voice: RawVoice, fields: Fields, names: tuple[str, ...]) -> None:
    request = p.DesireTaskRequest(task_definition=definition(fields), task_guid="g", domain="d")
    assert refusal(voice, "desire.r2", request) == joined(*names)
    # What is wrong with the request itself comes before what is wrong with its definition.
    request.task_guid, request.domain = "g!", ""
    assert refusal(voice, "desire.r2", request) == joined("task_guid", "domain", *names)
    assert voice.list() == []


@pytest.mark.parametrize(("path", "message", "names"), REQUESTS, ids=str)
def test_requests(voice: RawVoice, path: str, message: Any, names: tuple[str, ...]) -> None:
    assert refusal(voice, path, message) == joined(*names)


def test_a_domain_needs_a_name(voice: RawVoice) -> None:
    answer = answer_of(voice.ask("/v1/domains/upsert", p.UpsertDomainRequest(ttl=1), p.UpsertDomainResponse))
    assert answer == ("InvalidRequest", "Invalid field: domain", False)
