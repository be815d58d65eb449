"""What a request must be before anything is done with it (board-api.md section 5).

Every checker takes a decoded request, collects all problems in the order of the specification and raises one
``TaskError`` that lists them. Order and texts are part of the wire.

Rule: a problem is added by ``_Problems.add``, which stops a hopeless request after ``PROBLEMS_MAX`` of them. Wart: what
the reference leaves unchecked in tasks (volumes, environment, metric tags, ports over 65535) stays unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

from google.protobuf.message import Message

from bulletin.core import errors
from bulletin.core.limits import (
    ACTION_COUNT_MAX,
    ACTION_DEPTH_MAX,
    ANNOTATION_BYTES_MAX,
    EGRESS_DESTINATIONS_MAX,
    PROBLEMS_MAX,
    ROOTFS_CHARACTERS_MAX,
)
from bulletin.wire.actions import NO_INNER_ACTION, TOO_DEEP, TOO_MANY
from bulletin.wire.addresses import count_destinations
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.urls import has_scheme_and_parses

__all__ = [
    "TOO_MANY_DESTINATIONS",
    "check",
    "check_complete",
    "check_desire",
    "check_desire_of_known",
    "check_domain",
    "check_fail",
    "check_guid",
    "check_reject",
    "check_start",
]

#: ASCII, and matched whole: a trailing newline is no part of a guid (board-api.md 5.1).
_GUID: Final = re.compile(r"[a-zA-Z0-9_-]+")
#: Ours: the reference has no such bound.
TOO_MANY_DESTINATIONS: Final = f"more than {EGRESS_DESTINATIONS_MAX} egress destinations"
_CHECKSUM_ALGORITHMS: Final = frozenset({"md5", "sha1", "sha256"})
#: Texts up to this long are remembered with their verdict; the bound keeps the memory of strangers' texts small.
_REMEMBERED_CHARACTERS_MAX: Final = 512
_REMEMBERED_MAX: Final = 2048


def _field(name: str) -> str:
    return f"Invalid field: {name}"


class _Problems(list[str]):
    """The problems of one request."""

    __slots__ = ()

    def add(self, problem: str) -> None:
        """Note a problem.

        Raises:
            TaskError: there are ``PROBLEMS_MAX`` of them: no use in looking for more.
        """
        self.append(problem)
        if len(self) >= PROBLEMS_MAX:
            self.complain()

    def complain(self) -> None:
        """Raise what there is."""
        if self:
            raise errors.invalid_fields(self[:PROBLEMS_MAX])


# -- requests ----------------------------------------------------------------------------------------------------


def check_desire(request: bbs_pb2.DesireTaskRequest) -> None:
    """Raises ``TaskError`` InvalidRequest for a bad guid, domain or definition (board-api.md 5.1, 5.2)."""
    problems = _Problems()
    _check_names(request, problems)
    if request.HasField("task_definition"):
        _check_definition(request.task_definition, problems)
    else:
        problems.add(_field("task_definition"))
    problems.complain()


def check_desire_of_known(request: bbs_pb2.DesireTaskRequest) -> None:
    """``check_desire`` for a definition that is known to be good."""
    problems = _Problems()
    _check_names(request, problems)
    problems.complain()


def _check_names(request: bbs_pb2.DesireTaskRequest, problems: _Problems) -> None:
    if not _GUID.fullmatch(request.task_guid):
        problems.add(_field("task_guid"))
    if not request.domain:
        problems.add(_field("domain"))


def check_start(request: bbs_pb2.StartTaskRequest) -> None:
    """Raises ``TaskError`` InvalidRequest for a bad guid or no cell."""
    _check_guid_and(request.task_guid, request.cell_id, "cell_id")


def check_complete(request: bbs_pb2.CompleteTaskRequest) -> None:
    """Raises ``TaskError`` InvalidRequest for a bad guid or no cell."""
    _check_guid_and(request.task_guid, request.cell_id, "cell_id")


def check_fail(request: bbs_pb2.FailTaskRequest) -> None:
    """Raises ``TaskError`` InvalidRequest for a bad guid or no reason."""
    _check_guid_and(request.task_guid, request.failure_reason, "failure_reason")


def check_reject(request: bbs_pb2.RejectTaskRequest) -> None:
    """Raises ``TaskError`` InvalidRequest for a bad guid or no reason; the text names ``failure_reason`` (sic)."""
    _check_guid_and(request.task_guid, request.rejection_reason, "failure_reason")


def check_guid(request: bbs_pb2.TaskGuidRequest | bbs_pb2.TaskByGuidRequest) -> None:
    """Raises ``TaskError`` InvalidRequest for an empty guid; its pattern does not matter here (board-api.md 5.1)."""
    if not request.task_guid:
        raise errors.invalid_fields([_field("task_guid")])


def check_domain(request: bbs_pb2.UpsertDomainRequest) -> None:
    """Raises ``TaskError`` InvalidRequest for an empty domain."""
    if not request.domain:
        raise errors.invalid_fields([_field("domain")])


def check(request: Message) -> None:
    """Check any request; those without rules pass.

    Raises:
        TaskError: InvalidRequest with all problems.
    """
    checker = _CHECKERS.get(type(request))
    if checker is not None:
        checker(request)


_CHECKERS: Final[dict[type[Message], Callable[[Any], None]]] = {
    bbs_pb2.DesireTaskRequest: check_desire,
    bbs_pb2.StartTaskRequest: check_start,
    bbs_pb2.CompleteTaskRequest: check_complete,
    bbs_pb2.FailTaskRequest: check_fail,
    bbs_pb2.RejectTaskRequest: check_reject,
    bbs_pb2.TaskGuidRequest: check_guid,
    bbs_pb2.TaskByGuidRequest: check_guid,
    bbs_pb2.UpsertDomainRequest: check_domain,
}


def _check_guid_and(guid: str, other: str, other_name: str) -> None:
    problems = _Problems()
    if not _GUID.fullmatch(guid):
        problems.add(_field("task_guid"))
    if not other:
        problems.add(_field(other_name))
    problems.complain()


# -- the definition (board-api.md 5.2) -----------------------------------------------------------------------------


def _check_definition(definition: bbs_pb2.TaskDefinition, problems: _Problems) -> None:
    if not _is_rootfs(definition.root_fs):
        problems.add(_field("rootfs"))
    if definition.HasField("action"):
        _check_nested("action", _check_tree, definition.action, problems)
    else:
        problems.add("invalid action type")
    _check_bounds(definition, problems)
    _check_egress(definition.egress_rules, problems)
    username, password = definition.image_username, definition.image_password
    if password and not username:
        problems.add(_field("image_username"))
    if username and not password:
        problems.add(_field("image_password"))
    for dependency in definition.cached_dependencies:
        _check_nested("cached_dependency", _check_dependency, dependency, problems)
    if definition.image_layers:
        _check_layers(definition, problems)


def _check_bounds(definition: bbs_pb2.TaskDefinition, problems: _Problems) -> None:
    if definition.memory_mb < 0:
        problems.add(_field("memory_mb"))
    if definition.disk_mb < 0:
        problems.add(_field("disk_mb"))
    if definition.HasField("log_rate_limit") and definition.log_rate_limit.bytes_per_second < -1:
        problems.add(_field("log_rate_limit"))
    if definition.max_pids < 0:
        problems.add(_field("max_pids"))
    annotation = definition.annotation
    # A character takes at most four bytes, so short texts need no counting.
    if len(annotation) * 4 > ANNOTATION_BYTES_MAX and len(annotation.encode()) > ANNOTATION_BYTES_MAX:
        problems.add(_field("annotation"))


def _check_layers(definition: bbs_pb2.TaskDefinition, problems: _Problems) -> None:
    exclusive = False
    for layer in definition.image_layers:
        exclusive = exclusive or layer.layer_type == bbs_pb2.ImageLayer.EXCLUSIVE
        _check_nested("image_layer", _check_layer, layer, problems)
    if exclusive and not definition.legacy_download_user:
        problems.add(_field("legacy_download_user"))


def _check_nested(
    name: str, check_one: Callable[[Any, _Problems], None], message: Message, problems: _Problems
) -> None:
    """Add ``name`` and then what is wrong inside, if anything is."""
    problems.append(_field(name))
    before = len(problems)
    check_one(message, problems)
    if len(problems) == before:
        problems.pop()


def _is_rootfs(url: str) -> bool:
    if len(url) <= _REMEMBERED_CHARACTERS_MAX:
        return _remembered_url(url)
    return len(url) <= ROOTFS_CHARACTERS_MAX and has_scheme_and_parses(url)


_remembered_url = lru_cache(_REMEMBERED_MAX)(has_scheme_and_parses)


def _check_dependency(dependency: bbs_pb2.CachedDependency, problems: _Problems) -> None:
    if not getattr(dependency, "from"):
        problems.add(_field("from"))
    if not dependency.to:
        problems.add(_field("to"))
    _check_checksum(dependency, problems)


def _check_layer(layer: bbs_pb2.ImageLayer, problems: _Problems) -> None:
    exclusive = layer.layer_type == bbs_pb2.ImageLayer.EXCLUSIVE
    if not layer.url:
        problems.add(_field("url"))
    if not layer.destination_path:
        problems.add(_field("destination_path"))
    if layer.layer_type not in (1, 2):
        problems.add(_field("layer_type"))
    if layer.media_type not in (1, 2, 3):
        problems.add(_field("media_type"))
    algorithm, digest = layer.digest_algorithm, layer.digest_value
    if (digest or exclusive) and not algorithm:
        problems.add(_field("digest_algorithm"))
    if (algorithm or exclusive) and not digest:
        problems.add(_field("digest_value"))
    # With algorithm 0 the same text stands twice, as in the reference (board-api.md 5.4).
    if digest and algorithm not in (1, 2):
        problems.add(_field("digest_algorithm"))


def _check_checksum(message: bbs_pb2.DownloadAction | bbs_pb2.CachedDependency, problems: _Problems) -> None:
    algorithm, value = message.checksum_algorithm, message.checksum_value
    if value and not algorithm:
        problems.add(_field("checksum algorithm"))
    if algorithm and not value:
        problems.add(_field("checksum value"))
    if algorithm and value and algorithm.lower() not in _CHECKSUM_ALGORITHMS:
        problems.add(_field("invalid algorithm"))


# -- egress rules (board-api.md 5.4) -------------------------------------------------------------------------------


def _check_egress(rules: Iterable[bbs_pb2.SecurityGroupRule], problems: _Problems) -> None:
    left = EGRESS_DESTINATIONS_MAX
    for rule in rules:
        count = _count_destinations(rule, left)
        if not count:
            problems.add(_field("egress_rules"))
        left -= count


def _count_destinations(rule: bbs_pb2.SecurityGroupRule, most: int) -> int:
    """How many destinations a rule has, 0 when the rule is not valid."""
    has_good_ports = _RULES.get(rule.protocol)
    if has_good_ports is None or not has_good_ports(rule):
        return 0
    total = 0
    for text in rule.destinations:
        count = _remembered_count(text) if len(text) <= _REMEMBERED_CHARACTERS_MAX else count_destinations(text)
        if not count:
            return 0
        total += count
        if total > most:
            raise errors.invalid_fields([_field("egress_rules"), TOO_MANY_DESTINATIONS])
    return total


_remembered_count = lru_cache(_REMEMBERED_MAX)(count_destinations)


def _has_good_ports(rule: bbs_pb2.SecurityGroupRule) -> bool:
    if rule.HasField("icmp_info"):
        return False
    ports = rule.ports
    if rule.HasField("port_range"):
        span = rule.port_range
        return not ports and 1 <= span.start <= span.end
    return bool(ports) and min(ports) >= 1


def _has_good_icmp(rule: bbs_pb2.SecurityGroupRule) -> bool:
    return rule.HasField("icmp_info") and not rule.ports and not rule.HasField("port_range")


def _has_nothing(rule: bbs_pb2.SecurityGroupRule) -> bool:
    return not rule.ports and not rule.HasField("port_range") and not rule.HasField("icmp_info")


_RULES: Final[dict[str, Callable[[bbs_pb2.SecurityGroupRule], bool]]] = {
    "tcp": _has_good_ports,
    "udp": _has_good_ports,
    "icmp": _has_good_icmp,
    "icmpv6": _has_good_icmp,
    "all": _has_nothing,
}


# -- actions (board-api.md 5.3, 5.6) ---------------------------------------------------------------------------------


def _check_tree(action: bbs_pb2.Action, problems: _Problems) -> None:
    _Actions(problems).check(action, ACTION_DEPTH_MAX)


class _Actions:
    """Checks one tree. Once there are too many actions it looks no further."""

    __slots__ = ("left", "problems")

    def __init__(self, problems: _Problems) -> None:
        self.problems = problems
        self.left = ACTION_COUNT_MAX

    def check(self, action: bbs_pb2.Action, levels: int) -> None:
        problems = self.problems
        if not levels:
            problems.add(TOO_DEEP)
            return
        self.left -= 1
        if self.left < 0:
            problems.add(TOO_MANY)
            return
        members = action.ListFields()
        if not members:
            problems.add(NO_INNER_ACTION)
            return
        descriptor, inner = members[0]
        number = descriptor.number
        if number <= 3:
            _LEAVES[number](inner, problems)
        elif number <= 6:
            self._check_wrapper(inner, levels - 1)
        else:
            self._check_group(inner.actions, levels - 1)

    def _check_wrapper(
        self, inner: bbs_pb2.TimeoutAction | bbs_pb2.EmitProgressAction | bbs_pb2.TryAction, levels: int
    ) -> None:
        if inner.HasField("action"):
            self.check(inner.action, levels)
        else:
            self.problems.add(_field("action"))
        if isinstance(inner, bbs_pb2.TimeoutAction) and inner.timeout_ms <= 0:
            self.problems.add(_field("timeout_ms"))

    def _check_group(self, members: Iterable[bbs_pb2.Action], levels: int) -> None:
        if not members:
            self.problems.add(_field("actions"))
        for member in members:
            self.check(member, levels)
            if self.left < 0:
                return


def _check_download(action: bbs_pb2.DownloadAction, problems: _Problems) -> None:
    if not getattr(action, "from"):
        problems.add(_field("from"))
    if not action.to:
        problems.add(_field("to"))
    if not action.user:
        problems.add(_field("user"))
    _check_checksum(action, problems)


def _check_upload(action: bbs_pb2.UploadAction, problems: _Problems) -> None:
    if not action.to:
        problems.add(_field("to"))
    if not getattr(action, "from"):
        problems.add(_field("from"))
    if not action.user:
        problems.add(_field("user"))


def _check_run(action: bbs_pb2.RunAction, problems: _Problems) -> None:
    if not action.path:
        problems.add(_field("path"))
    if not action.user:
        problems.add(_field("user"))


_LEAVES: Final[dict[int, Callable[[Any, _Problems], None]]] = {1: _check_download, 2: _check_upload, 3: _check_run}
