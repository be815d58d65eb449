from __future__ import annotations

from hypothesis import given
from wire.strategies import definitions, run_action, valid_definition

from bulletin.core.actions import RunAction
from bulletin.core.definition import TaskDefinition
from bulletin.wire.definitions import decode_definition, encode_definition
from bulletin.wire.proto import bbs_pb2 as p


@given(definitions)
def test_what_is_encoded_is_decoded(definition):
    message = encode_definition(definition)
    assert decode_definition(message) == definition
    assert decode_definition(p.TaskDefinition.FromString(message.SerializeToString())) == definition


def test_every_field_of_the_message_is_carried():
    message = p.TaskDefinition(
        root_fs="a:b",
        environment_variables=[p.EnvironmentVariable(name="n", value="v")],
        action=run_action(),
        disk_mb=1,
        memory_mb=2,
        cpu_weight=3,
        privileged=True,
        log_source="ls",
        log_guid="lg",
        metrics_guid="mg",
        result_file="rf",
        completion_callback_url="cb",
        annotation="an",
        egress_rules=[
            p.SecurityGroupRule(
                protocol="tcp",
                destinations=["d"],
                ports=[1, 2],
                port_range=p.PortRange(start=1, end=2),
                icmp_info=p.ICMPInfo(type=1, code=2),
                log=True,
                annotations=["a"],
            )
        ],
        cached_dependencies=[
            p.CachedDependency(
                **{"name": "n", "from": "f", "to": "t", "cache_key": "k"},
                log_source="l",
                checksum_algorithm="ca",
                checksum_value="cv",
            )
        ],
        legacy_download_user="u",
        trusted_system_certificates_path="tp",
        volume_mounts=[
            p.VolumeMount(
                driver="d",
                container_dir="c",
                mode="rw",
                shared=p.SharedDevice(volume_id="v", mount_config="m"),
                dedicated=p.DedicatedDevice(mounter_id="i", mount_config="m", device_config="d"),
            )
        ],
        network=p.Network(properties={"k": "v"}),
        placement_tags=["pt"],
        max_pids=4,
        certificate_properties=p.CertificateProperties(organizational_unit=["ou"]),
        image_username="iu",
        image_password="ip",
        image_layers=[
            p.ImageLayer(
                name="n",
                url="u",
                destination_path="d",
                layer_type=1,
                media_type=2,
                digest_algorithm=1,
                digest_value="dv",
            )
        ],
        log_rate_limit=p.LogRateLimit(bytes_per_second=-1),
        metric_tags={"t": p.MetricTagValue(static="s", dynamic=2)},
        volume_mounted_files=[p.File(path="p", content="c")],
    )
    assert len(message.ListFields()) == len(p.TaskDefinition.DESCRIPTOR.fields), "the sample lacks a field"
    assert encode_definition(decode_definition(message)) == message


def test_presence():
    bare = decode_definition(valid_definition())
    assert (bare.network_properties, bare.organizational_units, bare.log_rate_limit_bytes_per_second) == (None,) * 3
    empty = valid_definition(
        network=p.Network(), certificate_properties=p.CertificateProperties(), log_rate_limit=p.LogRateLimit()
    )
    present = decode_definition(empty)
    assert (present.network_properties, present.organizational_units) == ({}, ())
    assert present.log_rate_limit_bytes_per_second == 0
    assert encode_definition(present) == empty


def test_defaults_are_not_written():
    made = encode_definition(TaskDefinition(root_fs="docker:///busybox", action=RunAction("sh", "root")))
    assert made == valid_definition()
