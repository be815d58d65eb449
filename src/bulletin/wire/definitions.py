"""Task definitions: the wire's ``TaskDefinition`` to and from ``core.definition`` (board-api.md 3.4 and 3.6)."""

from __future__ import annotations

from typing import cast

from bulletin.core import definition as values
from bulletin.core.definition import TaskDefinition
from bulletin.wire.actions import decode_action, encode_action, pairs, variables
from bulletin.wire.proto import bbs_pb2

__all__ = ["decode_definition", "encode_definition"]


def decode_definition(message: bbs_pb2.TaskDefinition) -> TaskDefinition:
    """The whole definition, action tree included.

    Raises:
        TaskError: InvalidRequest, when the action is missing, empty somewhere, too deep or too large
            (``limits.ACTION_DEPTH_MAX``, ``limits.ACTION_COUNT_MAX``).
    """
    return TaskDefinition(
        root_fs=message.root_fs,
        action=decode_action(message.action),
        environment_variables=pairs(message.environment_variables),
        disk_mb=message.disk_mb,
        memory_mb=message.memory_mb,
        cpu_weight=message.cpu_weight,
        max_pids=message.max_pids,
        privileged=message.privileged,
        log_source=message.log_source,
        log_guid=message.log_guid,
        metrics_guid=message.metrics_guid,
        result_file=message.result_file,
        completion_callback_url=message.completion_callback_url,
        annotation=message.annotation,
        egress_rules=tuple(map(_read_rule, message.egress_rules)),
        cached_dependencies=tuple(map(_read_dependency, message.cached_dependencies)),
        legacy_download_user=message.legacy_download_user,
        trusted_system_certificates_path=message.trusted_system_certificates_path,
        volume_mounts=tuple(map(_read_mount, message.volume_mounts)),
        network_properties=dict(message.network.properties) if message.HasField("network") else None,
        placement_tags=tuple(message.placement_tags),
        organizational_units=(
            tuple(message.certificate_properties.organizational_unit)
            if message.HasField("certificate_properties")
            else None
        ),
        image_username=message.image_username,
        image_password=message.image_password,
        image_layers=tuple(map(_read_layer, message.image_layers)),
        log_rate_limit_bytes_per_second=(
            message.log_rate_limit.bytes_per_second if message.HasField("log_rate_limit") else None
        ),
        metric_tags={
            name: values.MetricTag(value.static, int(value.dynamic)) for name, value in message.metric_tags.items()
        },
        volume_mounted_files=tuple(values.File(file.path, file.content) for file in message.volume_mounted_files),
    )


def encode_definition(definition: TaskDefinition) -> bbs_pb2.TaskDefinition:
    """The wire's message of ``definition``.

    Raises:
        TaskError: InvalidRequest, when the action tree is deeper than ``limits.ACTION_DEPTH_MAX``.
        ValueError: a number does not fit its field, or a text is not Unicode.
    """
    message = bbs_pb2.TaskDefinition(
        root_fs=definition.root_fs,
        environment_variables=variables(definition.environment_variables),
        action=encode_action(definition.action),
        disk_mb=definition.disk_mb,
        memory_mb=definition.memory_mb,
        cpu_weight=definition.cpu_weight,
        privileged=definition.privileged,
        log_source=definition.log_source,
        log_guid=definition.log_guid,
        metrics_guid=definition.metrics_guid,
        result_file=definition.result_file,
        completion_callback_url=definition.completion_callback_url,
        annotation=definition.annotation,
        egress_rules=map(_write_rule, definition.egress_rules),
        cached_dependencies=map(_write_dependency, definition.cached_dependencies),
        legacy_download_user=definition.legacy_download_user,
        trusted_system_certificates_path=definition.trusted_system_certificates_path,
        volume_mounts=map(_write_mount, definition.volume_mounts),
        placement_tags=definition.placement_tags,
        max_pids=definition.max_pids,
        image_username=definition.image_username,
        image_password=definition.image_password,
        image_layers=map(_write_layer, definition.image_layers),
        volume_mounted_files=[
            bbs_pb2.File(path=file.path, content=file.content) for file in definition.volume_mounted_files
        ],
    )
    if definition.network_properties is not None:
        message.network.SetInParent()
        message.network.properties.update(definition.network_properties)
    if definition.organizational_units is not None:
        message.certificate_properties.SetInParent()
        message.certificate_properties.organizational_unit.extend(definition.organizational_units)
    if definition.log_rate_limit_bytes_per_second is not None:
        message.log_rate_limit.SetInParent()
        message.log_rate_limit.bytes_per_second = definition.log_rate_limit_bytes_per_second
    for name, tag in definition.metric_tags.items():
        _write_tag(message, name, tag)
    return message


# -- reading -----------------------------------------------------------------------------------------------------


def _read_rule(rule: bbs_pb2.SecurityGroupRule) -> values.SecurityGroupRule:
    return values.SecurityGroupRule(
        protocol=rule.protocol,
        destinations=tuple(rule.destinations),
        ports=tuple(rule.ports),
        port_range=values.PortRange(rule.port_range.start, rule.port_range.end)
        if rule.HasField("port_range")
        else None,
        icmp_info=values.ICMPInfo(rule.icmp_info.type, rule.icmp_info.code) if rule.HasField("icmp_info") else None,
        log=rule.log,
        annotations=tuple(rule.annotations),
    )


def _read_dependency(dependency: bbs_pb2.CachedDependency) -> values.CachedDependency:
    return values.CachedDependency(
        from_=getattr(dependency, "from"),
        to=dependency.to,
        name=dependency.name,
        cache_key=dependency.cache_key,
        log_source=dependency.log_source,
        checksum_algorithm=dependency.checksum_algorithm,
        checksum_value=dependency.checksum_value,
    )


def _read_layer(layer: bbs_pb2.ImageLayer) -> values.ImageLayer:
    return values.ImageLayer(
        url=layer.url,
        destination_path=layer.destination_path,
        layer_type=int(layer.layer_type),
        media_type=int(layer.media_type),
        name=layer.name,
        digest_algorithm=int(layer.digest_algorithm),
        digest_value=layer.digest_value,
    )


def _read_mount(mount: bbs_pb2.VolumeMount) -> values.VolumeMount:
    shared = dedicated = None
    if mount.HasField("shared"):
        shared = values.SharedDevice(mount.shared.volume_id, mount.shared.mount_config)
    if mount.HasField("dedicated"):
        device = mount.dedicated
        dedicated = values.DedicatedDevice(device.mounter_id, device.mount_config, device.device_config)
    return values.VolumeMount(mount.driver, mount.container_dir, mount.mode, shared, dedicated)


# -- writing -----------------------------------------------------------------------------------------------------


def _write_rule(rule: values.SecurityGroupRule) -> bbs_pb2.SecurityGroupRule:
    message = bbs_pb2.SecurityGroupRule(
        protocol=rule.protocol,
        destinations=rule.destinations,
        ports=rule.ports,
        log=rule.log,
        annotations=rule.annotations,
    )
    if rule.port_range is not None:
        message.port_range.CopyFrom(bbs_pb2.PortRange(start=rule.port_range.start, end=rule.port_range.end))
    if rule.icmp_info is not None:
        message.icmp_info.CopyFrom(bbs_pb2.ICMPInfo(type=rule.icmp_info.type, code=rule.icmp_info.code))
    return message


def _write_dependency(dependency: values.CachedDependency) -> bbs_pb2.CachedDependency:
    return bbs_pb2.CachedDependency(
        name=dependency.name,
        to=dependency.to,
        cache_key=dependency.cache_key,
        log_source=dependency.log_source,
        checksum_algorithm=dependency.checksum_algorithm,
        checksum_value=dependency.checksum_value,
        **{"from": dependency.from_},
    )


def _write_layer(layer: values.ImageLayer) -> bbs_pb2.ImageLayer:
    # Enums are open: a number without a name goes out as it came.
    return bbs_pb2.ImageLayer(
        name=layer.name,
        url=layer.url,
        destination_path=layer.destination_path,
        layer_type=cast("bbs_pb2.ImageLayer.Type", layer.layer_type),
        media_type=cast("bbs_pb2.ImageLayer.MediaType", layer.media_type),
        digest_algorithm=cast("bbs_pb2.ImageLayer.DigestAlgorithm", layer.digest_algorithm),
        digest_value=layer.digest_value,
    )


def _write_mount(mount: values.VolumeMount) -> bbs_pb2.VolumeMount:
    message = bbs_pb2.VolumeMount(driver=mount.driver, container_dir=mount.container_dir, mode=mount.mode)
    if mount.shared is not None:
        message.shared.CopyFrom(
            bbs_pb2.SharedDevice(volume_id=mount.shared.volume_id, mount_config=mount.shared.mount_config)
        )
    if mount.dedicated is not None:
        message.dedicated.CopyFrom(
            bbs_pb2.DedicatedDevice(
                mounter_id=mount.dedicated.mounter_id,
                mount_config=mount.dedicated.mount_config,
                device_config=mount.dedicated.device_config,
            )
        )
    return message


def _write_tag(message: bbs_pb2.TaskDefinition, name: str, tag: values.MetricTag) -> None:
    entry = message.metric_tags[name]
    entry.static = tag.static
    entry.dynamic = cast("bbs_pb2.MetricTagValue.DynamicValue", tag.dynamic)
