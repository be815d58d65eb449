"""Every row of board-api.md section 5, with its text, in its order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire.strategies import definitions, nested, run_action, valid_definition

from bulletin.core.errors import ErrorType, TaskError
from bulletin.core.limits import (
    ACTION_COUNT_MAX,
    ACTION_DEPTH_MAX,
    EGRESS_DESTINATIONS_MAX,
    PROBLEMS_MAX,
    ROOTFS_CHARACTERS_MAX,
)
from bulletin.wire import validation
from bulletin.wire.proto import bbs_pb2 as p
from bulletin.wire.tasks import encode_definition


def _message(check, request) -> str:
    """The text a request is refused with, empty when it is not."""
    try:
        check(request)
    except TaskError as error:
        return error.message if error.type is ErrorType.INVALID_REQUEST else repr(error)
    return ""


def _fields(*names: str) -> str:
    return ", ".join(f"Invalid field: {name}" for name in names)


def _definition_message(**fields: object) -> str:
    request = p.DesireTaskRequest(task_guid="g", domain="d", task_definition=valid_definition(**fields))
    return _message(validation.check_desire, request)


def _action_message(action: p.Action) -> str:
    return _definition_message(action=action)


# -- 5.1 requests ------------------------------------------------------------------------------------------------

GUID_PATTERN = [
    ("a", True),
    ("azAZ09_-", True),
    ("x" * 300, True),
    ("", False),
    ("a b", False),
    ("a\n", False),
    ("\u00e9", False),
    ("\u0661", False),
    ("a.b", False),
    ("a/b", False),
    ("a\0", False),
]


@pytest.mark.parametrize(("guid", "good"), GUID_PATTERN)
@pytest.mark.parametrize(
    "request_of",
    [
        lambda guid: p.DesireTaskRequest(task_guid=guid, domain="d", task_definition=valid_definition()),
        lambda guid: p.StartTaskRequest(task_guid=guid, cell_id="c"),
        lambda guid: p.CompleteTaskRequest(task_guid=guid, cell_id="c"),
        lambda guid: p.FailTaskRequest(task_guid=guid, failure_reason="r"),
        lambda guid: p.RejectTaskRequest(task_guid=guid, rejection_reason="r"),
    ],
)
def test_where_the_guid_has_a_pattern(request_of, guid, good):
    assert _message(validation.check, request_of(guid)) == ("" if good else _fields("task_guid"))


@pytest.mark.parametrize("request_of", [p.TaskGuidRequest, p.TaskByGuidRequest])
@pytest.mark.parametrize("guid", ["a b", "a\n", "\u00e9"])
def test_where_the_guid_has_none(request_of, guid):
    assert _message(validation.check, request_of(task_guid=guid)) == ""
    assert _message(validation.check, request_of()) == _fields("task_guid")


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        (p.DesireTaskRequest(), ("task_guid", "domain", "task_definition")),
        (p.StartTaskRequest(), ("task_guid", "cell_id")),
        (p.CompleteTaskRequest(), ("task_guid", "cell_id")),
        (p.FailTaskRequest(), ("task_guid", "failure_reason")),
        (p.RejectTaskRequest(), ("task_guid", "failure_reason")),
        (p.StartTaskRequest(task_guid="g"), ("cell_id",)),
        (p.CompleteTaskRequest(task_guid="g"), ("cell_id",)),
        (p.FailTaskRequest(task_guid="g"), ("failure_reason",)),
        (p.RejectTaskRequest(task_guid="g"), ("failure_reason",)),
        (p.UpsertDomainRequest(), ("domain",)),
        (p.UpsertDomainRequest(domain="d"), ()),
        (p.TasksRequest(), ()),
        (p.EventsByCellId(), ()),
        (p.EmptyRequest(), ()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_requests(request_, names):
    assert _message(validation.check, request_) == _fields(*names)


def test_each_request_has_its_own_checker_too():
    for check, request in (
        (validation.check_start, p.StartTaskRequest()),
        (validation.check_complete, p.CompleteTaskRequest()),
        (validation.check_fail, p.FailTaskRequest()),
        (validation.check_reject, p.RejectTaskRequest()),
        (validation.check_guid, p.TaskGuidRequest()),
        (validation.check_domain, p.UpsertDomainRequest()),
    ):
        assert _message(check, request) == _message(validation.check, request) != ""


# -- 5.2 the definition ------------------------------------------------------------------------------------------


def test_a_valid_definition_passes():
    assert _definition_message() == ""


def test_an_empty_definition():
    request = p.DesireTaskRequest(task_guid="g", domain="d", task_definition=p.TaskDefinition())
    assert _message(validation.check_desire, request) == "Invalid field: rootfs, invalid action type"


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"root_fs": ""}, ("rootfs",)),
        ({"root_fs": "ploop"}, ("rootfs",)),
        ({"root_fs": "a:" + "x" * (ROOTFS_CHARACTERS_MAX - 2)}, ()),
        ({"root_fs": "a:" + "x" * (ROOTFS_CHARACTERS_MAX - 1)}, ("rootfs",)),
        ({"memory_mb": -1}, ("memory_mb",)),
        ({"disk_mb": -1}, ("disk_mb",)),
        ({"log_rate_limit": p.LogRateLimit(bytes_per_second=-2)}, ("log_rate_limit",)),
        ({"log_rate_limit": p.LogRateLimit(bytes_per_second=-1)}, ()),
        ({"log_rate_limit": p.LogRateLimit()}, ()),
        ({"max_pids": -1}, ("max_pids",)),
        ({"annotation": "x" * 10240}, ()),
        ({"annotation": "x" * 10241}, ("annotation",)),
        ({"annotation": "\u00e9" * 5120}, ()),
        ({"annotation": "\u00e9" * 5121}, ("annotation",)),
        ({"annotation": "\U0001f600" * 2560}, ()),
        ({"annotation": "\U0001f600" * 2560 + "x"}, ("annotation",)),
        ({"image_password": "x"}, ("image_username",)),
        ({"image_username": "x"}, ("image_password",)),
        ({"image_username": "x", "image_password": "x"}, ()),
        # Not validated for tasks.
        ({"cpu_weight": 2**32 - 1}, ()),
        ({"completion_callback_url": "::"}, ()),
        ({"environment_variables": [p.EnvironmentVariable()]}, ()),
        ({"volume_mounts": [p.VolumeMount(mode="x")]}, ()),
        ({"volume_mounted_files": [p.File()]}, ()),
        ({"metric_tags": {"": p.MetricTagValue()}}, ()),
        ({"network": p.Network(properties={"": ""})}, ()),
        ({"placement_tags": [""]}, ()),
        ({"certificate_properties": p.CertificateProperties()}, ()),
    ],
    ids=str,
)
def test_definition(fields, names):
    assert _definition_message(**fields) == _fields(*names)


def test_all_at_once_in_order():
    definition = p.TaskDefinition(
        action=p.Action(run_action=p.RunAction()),
        memory_mb=-1,
        disk_mb=-1,
        log_rate_limit=p.LogRateLimit(bytes_per_second=-2),
        max_pids=-1,
        annotation="x" * 10241,
        egress_rules=[p.SecurityGroupRule(), p.SecurityGroupRule()],
        image_password="x",
        cached_dependencies=[p.CachedDependency()],
        image_layers=[p.ImageLayer(layer_type=p.ImageLayer.EXCLUSIVE)],
    )
    request = p.DesireTaskRequest(task_guid="a b", task_definition=definition)
    assert _message(validation.check_desire, request) == _fields(
        *("task_guid", "domain", "rootfs", "action", "path", "user", "memory_mb", "disk_mb", "log_rate_limit"),
        *("max_pids", "annotation", "egress_rules", "egress_rules", "image_username", "cached_dependency", "from"),
        *("to", "image_layer", "url", "destination_path", "media_type", "digest_algorithm", "digest_value"),
        "legacy_download_user",
    )


# -- 5.3 actions -------------------------------------------------------------------------------------------------


def _download(**fields: str) -> p.Action:
    return p.Action(download_action=p.DownloadAction(**{"from": "f", "to": "t", "user": "u", **fields}))


def _upload(**fields: str) -> p.Action:
    return p.Action(upload_action=p.UploadAction(**{"from": "f", "to": "t", "user": "u", **fields}))


def _timeout(**fields: object) -> p.Action:
    return p.Action(timeout_action=p.TimeoutAction(**{"action": run_action(), "timeout_ms": 1, **fields}))


BAD_RUN = run_action(path="", user="")

ACTIONS = [
    (p.Action(), ("action", "inner-action")),
    (run_action(), ()),
    (run_action(path=""), ("action", "path")),
    (BAD_RUN, ("action", "path", "user")),
    (_download(), ()),
    (_download(**{"from": "", "to": "", "user": ""}), ("action", "from", "to", "user")),
    (_download(checksum_value="v"), ("action", "checksum algorithm")),
    (_download(checksum_algorithm="md5"), ("action", "checksum value")),
    (_download(checksum_algorithm="md5", checksum_value="v"), ()),
    (_download(checksum_algorithm="SHA1", checksum_value="v"), ()),
    (_download(checksum_algorithm="Sha256", checksum_value="v"), ()),
    (_download(checksum_algorithm="sha512", checksum_value="v"), ("action", "invalid algorithm")),
    (_download(user="", checksum_algorithm="sha512"), ("action", "user", "checksum value")),
    (_upload(), ()),
    (_upload(**{"from": "", "to": "", "user": ""}), ("action", "to", "from", "user")),
    (_timeout(), ()),
    (_timeout(timeout_ms=0), ("action", "timeout_ms")),
    (_timeout(action=BAD_RUN, timeout_ms=-1), ("action", "path", "user", "timeout_ms")),
    (p.Action(timeout_action=p.TimeoutAction()), ("action", "action", "timeout_ms")),
    (p.Action(try_action=p.TryAction()), ("action", "action")),
    (p.Action(try_action=p.TryAction(action=BAD_RUN)), ("action", "path", "user")),
    (p.Action(try_action=p.TryAction(action=p.Action())), ("action", "inner-action")),
    (p.Action(emit_progress_action=p.EmitProgressAction()), ("action", "action")),
    (p.Action(emit_progress_action=p.EmitProgressAction(action=run_action())), ()),
    (p.Action(parallel_action=p.ParallelAction()), ("action", "actions")),
    (p.Action(serial_action=p.SerialAction()), ("action", "actions")),
    (p.Action(codependent_action=p.CodependentAction()), ("action", "actions")),
    (
        p.Action(serial_action=p.SerialAction(actions=[BAD_RUN, run_action(), _upload(to=""), p.Action()])),
        ("action", "path", "user", "to", "inner-action"),
    ),
    (p.Action(parallel_action=p.ParallelAction(actions=[run_action(user="")])), ("action", "user")),
    (p.Action(codependent_action=p.CodependentAction(actions=[run_action(user="")])), ("action", "user")),
    # Several members: the lowest field number counts, the others are not looked at.
    (p.Action(upload_action=_upload().upload_action, run_action=p.RunAction()), ()),
    (p.Action(upload_action=p.UploadAction(), run_action=run_action().run_action), ("action", "to", "from", "user")),
]


@pytest.mark.parametrize(("action", "names"), ACTIONS)
def test_actions(action, names):
    assert _action_message(action) == _fields(*names)


def test_depth_of_actions():
    assert _action_message(nested(ACTION_DEPTH_MAX)) == ""
    expected = f"Invalid field: action, actions are nested more than {ACTION_DEPTH_MAX} levels deep"
    assert _action_message(nested(ACTION_DEPTH_MAX + 1)) == expected
    # Hardly anything deeper gets through the parser.
    assert _action_message(nested(ACTION_DEPTH_MAX + 3)) == expected


def test_number_of_actions():
    def serial(count: int) -> p.Action:
        return p.Action(serial_action=p.SerialAction(actions=[run_action()] * count))

    assert _action_message(serial(ACTION_COUNT_MAX - 1)) == ""
    expected = f"Invalid field: action, more than {ACTION_COUNT_MAX} actions"
    assert _action_message(serial(ACTION_COUNT_MAX)) == expected
    assert _action_message(serial(ACTION_COUNT_MAX + 50)) == expected
    assert _action_message(p.Action(parallel_action=p.ParallelAction(actions=[serial(600), serial(600)]))) == expected


# -- 5.4 nested messages -----------------------------------------------------------------------------------------


def _dependency(**fields: str) -> p.CachedDependency:
    return p.CachedDependency(**{"from": "f", "to": "t", **fields})


@pytest.mark.parametrize(
    ("dependency", "names"),
    [
        (_dependency(), ()),
        (_dependency(**{"from": "", "to": ""}), ("from", "to")),
        (_dependency(checksum_value="v"), ("checksum algorithm",)),
        (_dependency(checksum_algorithm="md5"), ("checksum value",)),
        (_dependency(checksum_algorithm="x", checksum_value="v"), ("invalid algorithm",)),
        (_dependency(checksum_algorithm="MD5", checksum_value="v"), ()),
    ],
)
def test_cached_dependencies(dependency, names):
    expected = _fields(*(("cached_dependency", *names) if names else ()))
    assert _definition_message(cached_dependencies=[_dependency(), dependency]) == expected
    if names:
        assert _definition_message(cached_dependencies=[dependency] * 2) == f"{expected}, {expected}"


def _layer(**fields: object) -> p.ImageLayer:
    return p.ImageLayer(**{"url": "u", "destination_path": "d", "layer_type": 1, "media_type": 1, **fields})


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (_layer(), ()),
        (_layer(url="", destination_path=""), ("url", "destination_path")),
        (_layer(layer_type=0), ("layer_type",)),
        (_layer(layer_type=3), ("layer_type",)),
        (_layer(media_type=0), ("media_type",)),
        (_layer(media_type=3), ()),
        (_layer(media_type=4), ("media_type",)),
        (_layer(digest_value="v"), ("digest_algorithm", "digest_algorithm")),
        (_layer(digest_algorithm=1), ("digest_value",)),
        (_layer(digest_algorithm=3), ("digest_value",)),
        (_layer(digest_algorithm=3, digest_value="v"), ("digest_algorithm",)),
        (_layer(digest_algorithm=1, digest_value="v"), ()),
        (_layer(digest_algorithm=2, digest_value="v"), ()),
        (_layer(layer_type=2), ("digest_algorithm", "digest_value")),
        (_layer(layer_type=2, digest_algorithm=1, digest_value="v"), ()),
    ],
)
def test_image_layers(layer, names):
    expected = _fields(*(("image_layer", *names) if names else ()))
    assert _definition_message(image_layers=[layer], legacy_download_user="u") == expected


def test_exclusive_layers_need_a_user():
    exclusive = _layer(layer_type=2, digest_algorithm=1, digest_value="v")
    assert _definition_message(image_layers=[_layer(), exclusive, exclusive]) == _fields("legacy_download_user")
    assert _definition_message(image_layers=[_layer()]) == ""


def _rule(protocol: str, **fields: object) -> p.SecurityGroupRule:
    return p.SecurityGroupRule(**{"protocol": protocol, "destinations": ["0.0.0.0/0"], **fields})


PORTS = p.PortRange(start=1, end=1024)
GOOD_RULES = [
    _rule("tcp", ports=[1, 70000]),
    _rule("udp", port_range=PORTS),
    _rule("tcp", port_range=p.PortRange(start=5, end=5)),
    _rule("tcp", port_range=p.PortRange(start=1, end=2**32 - 1)),
    _rule("icmp", icmp_info=p.ICMPInfo(type=-1, code=-1)),
    _rule("icmpv6", icmp_info=p.ICMPInfo()),
    _rule("all"),
    _rule("all", log=True, annotations=["x"]),
    _rule("all", destinations=["::/0", "1.2.3.4-1.2.3.5,8.8.8.8"]),
]
BAD_RULES = [
    p.SecurityGroupRule(),
    _rule(""),
    _rule("TCP", ports=[1]),
    _rule("tcp"),
    _rule("tcp", ports=[1], port_range=PORTS),
    _rule("tcp", ports=[0]),
    _rule("tcp", ports=[1, 0]),
    _rule("udp", port_range=p.PortRange(start=0, end=5)),
    _rule("udp", port_range=p.PortRange(start=5, end=0)),
    _rule("udp", port_range=p.PortRange(start=6, end=5)),
    _rule("udp", port_range=p.PortRange()),
    _rule("tcp", ports=[1], icmp_info=p.ICMPInfo()),
    _rule("icmp"),
    _rule("icmp", icmp_info=p.ICMPInfo(), ports=[1]),
    _rule("icmpv6", icmp_info=p.ICMPInfo(), port_range=PORTS),
    _rule("all", ports=[1]),
    _rule("all", port_range=PORTS),
    _rule("all", icmp_info=p.ICMPInfo()),
    _rule("all", destinations=[]),
    _rule("all", destinations=[""]),
    _rule("all", destinations=["1.2.3.4", "x"]),
    _rule("all", destinations=["1.2.3.4, 1.2.3.5"]),
]


@pytest.mark.parametrize("rule", GOOD_RULES, ids=str)
def test_good_egress_rules(rule):
    assert _definition_message(egress_rules=[rule]) == ""


@pytest.mark.parametrize("rule", BAD_RULES, ids=str)
def test_bad_egress_rules(rule):
    assert _definition_message(egress_rules=[rule]) == _fields("egress_rules")


def test_each_bad_rule_is_named():
    rules = [*GOOD_RULES, *BAD_RULES]
    assert _definition_message(egress_rules=rules) == _fields(*["egress_rules"] * len(BAD_RULES))


def test_number_of_destinations():
    def rules(count: int) -> list[p.SecurityGroupRule]:
        one, rest = (
            _rule("all", destinations=["::1"]),
            _rule("all", destinations=["1.1.1.1,::1", *["::1"] * (count - 3)]),
        )
        return [one, rest]

    assert _definition_message(egress_rules=rules(EGRESS_DESTINATIONS_MAX)) == ""
    expected = f"Invalid field: egress_rules, more than {EGRESS_DESTINATIONS_MAX} egress destinations"
    assert _definition_message(egress_rules=rules(EGRESS_DESTINATIONS_MAX + 1)) == expected
    long = _rule("all", destinations=["," * (EGRESS_DESTINATIONS_MAX + 1)])
    assert _definition_message(egress_rules=[long]) == expected


# -- bounds ------------------------------------------------------------------------------------------------------


def test_problems_are_bounded():
    many = _definition_message(cached_dependencies=[p.CachedDependency()] * PROBLEMS_MAX)
    assert many.count("Invalid field") == PROBLEMS_MAX
    few = _definition_message(egress_rules=[_rule("")] * (PROBLEMS_MAX - 1))
    assert few.count("Invalid field") == PROBLEMS_MAX - 1


def test_nothing_is_looked_at_after_the_last_problem():
    problems = validation._Problems()
    for _ in range(PROBLEMS_MAX - 1):
        problems.add("x")
    with pytest.raises(TaskError):
        problems.add("x")


def test_long_texts_are_judged_like_short_ones():
    assert _definition_message(root_fs="docker:///" + "x" * 600) == ""
    assert _definition_message(root_fs="docker:///%zz" + "x" * 600) == _fields("rootfs")
    assert _definition_message(egress_rules=[_rule("all", destinations=[",".join(["1.2.3.4"] * 100)])]) == ""
    bad = _rule("all", destinations=[",".join(["1.2.3.4"] * 100) + ","])
    assert _definition_message(egress_rules=[bad]) == _fields("egress_rules")


@given(definitions, st.text(max_size=5), st.text(max_size=5))
def test_a_verdict_is_a_list_of_known_texts(definition, guid, domain):
    request = p.DesireTaskRequest(task_guid=guid, domain=domain, task_definition=encode_definition(definition))
    text = _message(validation.check_desire, request)
    for problem in filter(None, text.split(", ")):
        assert problem.startswith("Invalid field: ")
