from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire.strategies import a_task, model_tasks, nested, run_action, valid_definition

from bulletin.core.errors import Blame, ErrorType, TaskError
from bulletin.core.limits import ACTION_DEPTH_MAX
from bulletin.core.model import Definition, Resources, TaskState
from bulletin.wire import tasks
from bulletin.wire.proto import bbs_pb2 as p
from bulletin.wire.routes import PHASE2_ROUTES, ROUTES

ROUTE = {route.name: route for route in ROUTES}


# -- definitions -------------------------------------------------------------------------------------------------


def test_summary():
    message = valid_definition(
        memory_mb=1,
        disk_mb=2,
        max_pids=3,
        placement_tags=["b", "a"],
        volume_mounts=[p.VolumeMount(driver="y"), p.VolumeMount(), p.VolumeMount(driver="x")],
        completion_callback_url="http://h/x",
    )
    assert tasks.summarise(message) == Definition(
        encoded=message.SerializeToString(),
        rootfs="docker:///busybox",
        memory_mb=1,
        disk_mb=2,
        max_pids=3,
        placement_tags=("b", "a"),
        volume_drivers=("y", "", "x"),
        completion_callback_url="http://h/x",
    )
    assert tasks.summarise(message).resources == Resources(1, 2, 1)


def test_canonical_bytes_have_no_unknown_fields_at_any_depth():
    unknown = b"\xfa\x7f\x01x"  # field 2047
    run = p.RunAction(path="sh", user="root").SerializeToString() + unknown
    action = b"\x1a" + bytes([len(run)]) + run + unknown
    encoded = b"\x0a\x11docker:///busybox\x1a" + bytes([len(action)]) + action + unknown
    assert tasks.summarise(p.TaskDefinition.FromString(encoded)).encoded == valid_definition().SerializeToString()


def test_canonical_bytes_are_in_field_order_without_defaults_and_unpacked():
    shuffled = (
        p.TaskDefinition(max_pids=1).SerializeToString()
        + b"\x20\x00"  # disk_mb: 0, written out
        + b"\x72\x04\x1a\x02\x01\x02"  # egress_rules: ports packed
        + p.TaskDefinition(root_fs="a:b").SerializeToString()
    )
    expected = p.TaskDefinition(root_fs="a:b", egress_rules=[p.SecurityGroupRule(ports=[1, 2])], max_pids=1)
    assert tasks.summarise(p.TaskDefinition.FromString(shuffled)).encoded == expected.SerializeToString()


def test_canonical_bytes_do_not_depend_on_the_order_of_maps():
    one = p.TaskDefinition(network=p.Network(properties={str(n): "" for n in range(20)}))
    other = p.TaskDefinition(network=p.Network(properties={str(n): "" for n in reversed(range(20))}))
    assert tasks.summarise(one) == tasks.summarise(other)


def test_a_stored_definition_that_cannot_be_read():
    with pytest.raises(TaskError) as caught:
        tasks.parse_definition(Definition(b"\xff", "x"))
    assert (caught.value.type, caught.value.message) == (ErrorType.DESERIALIZE, "could not deserialize record")
    assert caught.value.blame is Blame.ENVIRONMENT


# -- tasks -------------------------------------------------------------------------------------------------------


@given(model_tasks)
def test_a_task_is_read_back(task):
    message = p.Task.FromString(tasks.encode_task(task))
    assert tasks.decode_task(message) == task


@given(model_tasks)
def test_spliced_bytes_are_what_protobuf_writes(task):
    encoded = tasks.encode_task(task)
    assert p.Task.FromString(encoded).SerializeToString(deterministic=True) == encoded


def test_every_field_of_the_message_is_carried():
    task = a_task(
        state=TaskState.RESOLVING,
        first_completed_at=3,
        cell_id="c",
        result="r",
        failed=True,
        failure_reason="fr",
        rejection_count=4,
        rejection_reason="rr",
        delivered_at=9,
    )
    message = p.Task.FromString(tasks.encode_task(task))
    assert len(message.ListFields()) == len(p.Task.DESCRIPTOR.fields)
    assert message == p.Task(
        task_definition=valid_definition(),
        task_guid="g",
        domain="d",
        created_at=1,
        updated_at=2,
        first_completed_at=3,
        state=p.Task.Resolving,
        cell_id="c",
        result="r",
        failed=True,
        failure_reason="fr",
        rejection_count=4,
        rejection_reason="rr",
    )


def test_an_empty_definition_is_present():
    message = p.Task.FromString(tasks.encode_task(a_task(definition=Definition(b"", ""))))
    assert message.HasField("task_definition")


def test_a_task_without_a_definition_is_read():
    assert tasks.decode_task(p.Task(task_guid="g")).definition == Definition(b"", "")


def test_an_unknown_state_is_refused():
    with pytest.raises(TaskError) as caught:
        tasks.decode_task(p.Task(task_guid="g", state=9))
    assert caught.value.type is ErrorType.INVALID_PROTOBUF_MESSAGE
    assert caught.value.message == "task 'g' has the unknown state 9"


# -- the V2 form, board-api.md 2.3 -------------------------------------------------------------------------------


def _v2(**fields: object) -> p.TaskDefinition:
    task = a_task(definition=tasks.summarise(valid_definition(**fields)))
    message = p.Task.FromString(tasks.encode_task_v2(task))
    assert (message.task_guid, message.domain, message.state) == ("g", "d", p.Task.Pending)
    return message.task_definition


def _layer(name: str, **fields: object) -> p.ImageLayer:
    return p.ImageLayer(
        **{"name": name, "url": f"u{name}", "destination_path": f"d{name}", "layer_type": 1, "media_type": 1, **fields}
    )


def test_v2_without_layers_is_the_same():
    assert tasks.encode_task_v2(a_task()) == tasks.encode_task(a_task())
    # A text that looks like the tag of a layer changes nothing.
    task = a_task(definition=Definition(p.TaskDefinition(annotation="\u024a\x01").SerializeToString(), ""))
    assert b"\xc9\x8a\x01" in task.definition.encoded
    assert tasks.encode_task_v2(task) == tasks.encode_task(task)


def test_v2_shared_layers_become_dependencies_before_the_others():
    shown = _v2(
        cached_dependencies=[p.CachedDependency(to="old")],
        image_layers=[
            _layer("1", digest_algorithm=p.ImageLayer.SHA256, digest_value="v1"),
            _layer("2", digest_algorithm=p.ImageLayer.SHA512, digest_value="v2"),
            _layer("3"),
        ],
    )
    assert list(shown.cached_dependencies) == [
        p.CachedDependency(
            **{"name": "1", "from": "u1", "to": "d1", "cache_key": "sha256:v1"},
            checksum_algorithm="sha256",
            checksum_value="v1",
        ),
        p.CachedDependency(
            **{"name": "2", "from": "u2", "to": "d2", "cache_key": "sha512:v2"},
            checksum_algorithm="sha512",
            checksum_value="v2",
        ),
        p.CachedDependency(**{"name": "3", "from": "u3", "to": "d3", "cache_key": "u3"}),
        p.CachedDependency(to="old"),
    ]
    assert not shown.image_layers
    assert shown.action == run_action()


def test_v2_exclusive_layers_become_downloads_before_the_action():
    exclusive = {"layer_type": 2, "digest_algorithm": 1, "digest_value": "v"}
    shown = _v2(
        legacy_download_user="lu",
        image_layers=[_layer("1", **exclusive), _layer("2"), _layer("3", **exclusive)],
    )

    def download(name: str) -> p.Action:
        return p.Action(
            download_action=p.DownloadAction(
                **{"artifact": name, "from": f"u{name}", "to": f"d{name}", "cache_key": "sha256:v", "user": "lu"},
                checksum_algorithm="sha256",
                checksum_value="v",
            )
        )

    parallel = p.Action(parallel_action=p.ParallelAction(actions=[download("1"), download("3")]))
    assert shown.action == p.Action(serial_action=p.SerialAction(actions=[parallel, run_action()]))
    assert [d.name for d in shown.cached_dependencies] == ["2"]
    assert not shown.image_layers
    assert shown.legacy_download_user == "lu"


def test_v2_leaves_the_task_as_it_was():
    definition = tasks.summarise(valid_definition(image_layers=[_layer("1")]))
    task = a_task(definition=definition)
    before = definition.encoded
    assert tasks.encode_task_v2(task) != tasks.encode_task(task)
    assert task.definition.encoded == before


def test_v2_of_the_deepest_tree_can_be_read_inside_an_event():
    layer = _layer("1", layer_type=2, digest_algorithm=1, digest_value="v")
    definition = tasks.summarise(valid_definition(action=nested(ACTION_DEPTH_MAX), image_layers=[layer]))
    encoded = tasks.encode_task_v2(a_task(definition=definition))
    event = p.TaskChangedEvent(before=p.Task.FromString(encoded))
    assert p.TaskChangedEvent.FromString(event.SerializeToString()) == event


def test_v2_of_a_broken_definition():
    with pytest.raises(TaskError) as caught:
        tasks.encode_task_v2(a_task(definition=Definition(b"\xca\x01\xff", "")))
    assert caught.value.type is ErrorType.DESERIALIZE


def test_forms():
    task = a_task(definition=tasks.summarise(valid_definition(image_layers=[_layer("1")])))
    assert tasks.encode_task_as(task, "v3") == tasks.encode_task(task)
    assert tasks.encode_task_as(task, "v2") == tasks.encode_task_v2(task)


# -- answers -----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(model_tasks, max_size=3))
def test_answers_with_tasks(many):
    encoded = [tasks.encode_task(task) for task in many]
    whole = b"".join(tasks.tasks_response(encoded))
    assert [tasks.decode_task(message) for message in p.TasksResponse.FromString(whole).tasks] == many
    for task, data in zip(many, encoded, strict=True):
        assert tasks.decode_task(p.TaskResponse.FromString(tasks.task_response(data)).task) == task


def test_a_listing_is_made_as_it_is_asked_for():
    def encoded():
        yield b"x"
        raise AssertionError("too early")

    assert next(tasks.tasks_response(encoded())) == b"\x12\x01x"
    assert list(tasks.tasks_response([])) == []


@pytest.mark.parametrize(
    "route",
    [r for r in (*ROUTES, *PHASE2_ROUTES) if r.response not in (None, p.PingResponse)],
    ids=lambda r: r.name,
)
def test_errors(route):
    answer = tasks.error_response(route, TaskError(ErrorType.RESOURCE_NOT_FOUND, "x"))
    assert type(answer) is route.response
    assert answer.SerializeToString().hex() == "0a05080d120178"
    empty = tasks.error_response(route, TaskError(ErrorType.UNKNOWN_ERROR, ""))
    assert empty.SerializeToString().hex() == "0a00"


@pytest.mark.parametrize("error_type", ErrorType)
def test_error_types_are_the_numbers_of_the_wire(error_type):
    name = p.Error.Type.Name(int(error_type))
    assert name.lower() == error_type.name.replace("_", "").lower()
    answer = tasks.error_response(ROUTE["DesireTask"], TaskError(error_type, "m"))
    assert (answer.error.type, answer.error.message) == (error_type, "m")


# -- board-api.md appendix B -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "sample"),
    [
        (p.PingResponse(available=True), "0801"),
        (p.TaskLifecycleResponse(), ""),
        (p.TaskLifecycleResponse(error=p.Error()), "0a00"),
        (p.Error(type=p.Error.ResourceNotFound, message="x"), "080d120178"),
        (p.StartTaskRequest(task_guid="g", cell_id="c"), "0a0167120163"),
        (
            p.DesireTaskRequest(task_definition=p.TaskDefinition(root_fs="x:y"), task_guid="g", domain="d"),
            "0a050a03783a791201671a0164",
        ),
        (p.UpsertDomainRequest(domain="dom", ttl=1), "0a03646f6d1001"),
        (p.EventsByCellId(cell_id="cell"), "0a0463656c6c"),
        (p.ResourceLimits(nofile=0), "0800"),
        (p.SecurityGroupRule(ports=[1, 2]), "18011802"),
        (p.TaskDefinition(action=p.Action(), log_rate_limit=p.LogRateLimit()), "1a00d20100"),
        (p.TaskRemovedEvent(task=p.Task(task_definition=p.TaskDefinition(), task_guid="g0")), "0a060a0012026730"),
    ],
)
def test_byte_samples(message, sample):
    assert message.SerializeToString().hex() == sample
    assert type(message).FromString(bytes.fromhex(sample)) == message


@pytest.mark.parametrize("encoded", ["18011802", "1a020102", "18011a0102"])
def test_ports_are_read_packed_and_unpacked(encoded):
    assert list(p.SecurityGroupRule.FromString(bytes.fromhex(encoded)).ports) == [1, 2]
    assert not p.SecurityGroupRule.FromString(bytes.fromhex("1a00")).ports


def test_submessages_that_come_twice_are_merged():
    twice = (
        p.TaskDefinition(log_rate_limit=p.LogRateLimit(bytes_per_second=5)).SerializeToString()
        + p.TaskDefinition(log_rate_limit=p.LogRateLimit()).SerializeToString()
    )
    assert p.TaskDefinition.FromString(twice).log_rate_limit.bytes_per_second == 5
