"""Hypothesis strategies of the wire's values, and a valid definition to start from."""

from __future__ import annotations

from hypothesis import strategies as st

from bulletin.core import actions
from bulletin.core import definition as values
from bulletin.core.definition import TaskDefinition
from bulletin.core.model import Task, TaskState
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.tasks import encode_definition, summarise

#: Any text protobuf can carry, with a liking for what JSON and SSE make trouble of.
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.text(st.sampled_from('<>&"\\/\b\f\n\r\t\x00\x1f\x7f\u2028\u2029\ufeff\U0001f600:'), max_size=8),
)
int32s = st.integers(-(2**31), 2**31 - 1)
uint32s = st.integers(0, 2**32 - 1)
int64s = st.integers(-(2**63), 2**63 - 1)
uint64s = st.integers(0, 2**64 - 1)
pairs = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
text_tuples = st.lists(texts, max_size=3).map(tuple)


def _lists(items: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(items, max_size=2).map(tuple)


_runs = st.builds(
    actions.RunAction,
    path=texts,
    user=texts,
    args=text_tuples,
    dir=texts,
    env=pairs,
    resource_limits=st.builds(actions.ResourceLimits, nofile=st.none() | uint64s, nproc=st.none() | uint64s),
    log_source=texts,
    suppress_log_output=st.booleans(),
)
_downloads = st.builds(
    actions.DownloadAction,
    from_=texts,
    to=texts,
    user=texts,
    artifact=texts,
    cache_key=texts,
    log_source=texts,
    checksum_algorithm=texts,
    checksum_value=texts,
)
_uploads = st.builds(actions.UploadAction, from_=texts, to=texts, user=texts, artifact=texts, log_source=texts)


def _wrap(inner: st.SearchStrategy) -> st.SearchStrategy:
    groups = st.lists(inner, max_size=3).map(tuple)
    return st.one_of(
        st.builds(actions.TimeoutAction, action=inner, timeout_ms=int64s, log_source=texts),
        st.builds(
            actions.EmitProgressAction,
            action=inner,
            start_message=texts,
            success_message=texts,
            failure_message_prefix=texts,
            log_source=texts,
        ),
        st.builds(actions.TryAction, action=inner, log_source=texts),
        st.builds(actions.SerialAction, actions=groups, log_source=texts),
        st.builds(actions.ParallelAction, actions=groups, log_source=texts),
        st.builds(actions.CodependentAction, actions=groups, log_source=texts),
    )


action_trees = st.recursive(st.one_of(_runs, _downloads, _uploads), _wrap, max_leaves=6)

_rules = st.builds(
    values.SecurityGroupRule,
    protocol=st.sampled_from(["tcp", "udp", "icmp", "icmpv6", "all", ""]),
    destinations=text_tuples,
    ports=_lists(uint32s),
    port_range=st.none() | st.builds(values.PortRange, uint32s, uint32s),
    icmp_info=st.none() | st.builds(values.ICMPInfo, int32s, int32s),
    log=st.booleans(),
    annotations=text_tuples,
)
_mounts = st.builds(
    values.VolumeMount,
    texts,
    texts,
    st.sampled_from(["r", "rw", ""]),
    st.none() | st.builds(values.SharedDevice, texts, texts),
    st.none() | st.builds(values.DedicatedDevice, texts, texts, texts),
)
_dependencies = st.builds(
    values.CachedDependency,
    from_=texts,
    to=texts,
    name=texts,
    cache_key=texts,
    log_source=texts,
    checksum_algorithm=texts,
    checksum_value=texts,
)
image_layers = st.builds(
    values.ImageLayer,
    url=texts,
    destination_path=texts,
    # Numbers without a name have to survive.
    layer_type=st.integers(0, 7),
    media_type=st.integers(0, 7),
    name=texts,
    digest_algorithm=st.integers(0, 7),
    digest_value=texts,
)

definitions = st.builds(
    TaskDefinition,
    root_fs=texts,
    action=action_trees,
    environment_variables=pairs,
    disk_mb=int32s,
    memory_mb=int32s,
    cpu_weight=uint32s,
    max_pids=int32s,
    privileged=st.booleans(),
    log_source=texts,
    log_guid=texts,
    metrics_guid=texts,
    result_file=texts,
    completion_callback_url=texts,
    annotation=texts,
    egress_rules=_lists(_rules),
    cached_dependencies=_lists(_dependencies),
    legacy_download_user=texts,
    trusted_system_certificates_path=texts,
    volume_mounts=_lists(_mounts),
    network_properties=st.none() | st.dictionaries(texts, texts, max_size=2),
    placement_tags=text_tuples,
    organizational_units=st.none() | text_tuples,
    image_username=texts,
    image_password=texts,
    image_layers=_lists(image_layers),
    log_rate_limit_bytes_per_second=st.none() | int64s,
    metric_tags=st.dictionaries(texts, st.builds(values.MetricTag, texts, st.integers(0, 5)), max_size=2),
    volume_mounted_files=_lists(st.builds(values.File, texts, texts)),
)

model_tasks = st.builds(
    Task,
    guid=texts,
    domain=texts,
    definition=definitions.map(encode_definition).map(summarise),
    state=st.sampled_from(TaskState),
    created_at=int64s,
    updated_at=int64s,
    first_completed_at=int64s,
    cell_id=texts,
    result=texts,
    failed=st.booleans(),
    failure_reason=texts,
    rejection_count=int32s,
    rejection_reason=texts,
)


def run_action(**fields: object) -> bbs_pb2.Action:
    """A valid run action."""
    return bbs_pb2.Action(run_action=bbs_pb2.RunAction(**{"path": "sh", "user": "root", **fields}))


def valid_definition(**fields: object) -> bbs_pb2.TaskDefinition:
    """A definition without a problem, some fields replaced."""
    return bbs_pb2.TaskDefinition(**{"root_fs": "docker:///busybox", "action": run_action(), **fields})


def a_task(**fields: object) -> Task:
    """A task, some fields replaced."""
    defaults: dict[str, object] = {
        "guid": "g",
        "domain": "d",
        "definition": summarise(valid_definition()),
        "state": TaskState.PENDING,
        "created_at": 1,
        "updated_at": 2,
    }
    return Task(**{**defaults, **fields})


def nested(levels: int) -> bbs_pb2.Action:
    """A run action in wrappers: ``levels`` levels in all."""
    action = run_action()
    for _ in range(levels - 1):
        action = bbs_pb2.Action(try_action=bbs_pb2.TryAction(action=action))
    return action
