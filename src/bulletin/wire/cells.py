"""Cells on the wire: presence for clients, Hello for the board, ``CellState`` for placement (board-api.md section 12).

A provider without properties is a scheme of which any rootfs will do; one with properties lists the rootfs it has. A
Hello names the former once more, so that a fixed set that happens to be empty is told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bulletin.core.limits import IDENTIFIER_CHARACTERS_MAX
from bulletin.core.model import CellState, Resources
from bulletin.wire.link import PROTOCOL
from bulletin.wire.proto import bbs_pb2, link_pb2

__all__ = [
    "InvalidHello",
    "check_hello",
    "check_presence",
    "decode_hello",
    "decode_presence",
    "encode_hello",
    "encode_presence",
]


class InvalidHello(ValueError):
    """A cell says something about itself that cannot be."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field} {rule}")
        self.field = field
        self.rule = rule


# -- writing -----------------------------------------------------------------------------------------------------


def encode_presence(
    cell: CellState, *, rep_address: str = "", rep_url: str = "", annotations: Mapping[str, str] | None = None
) -> bbs_pb2.CellPresence:
    """What clients see of ``cell``; capacity is its total.

    ``rep_address`` may not be empty on the wire; without one the cell is shown as reached by its link.
    """
    return bbs_pb2.CellPresence(
        cell_id=cell.cell_id,
        rep_address=rep_address or f"link:{cell.cell_id}",
        zone=cell.zone,
        capacity=bbs_pb2.CellCapacity(
            memory_mb=cell.total.memory_mb, disk_mb=cell.total.disk_mb, containers=cell.total.containers
        ),
        rootfs_providers=_providers(cell),
        placement_tags=sorted(cell.placement_tags),
        optional_placement_tags=sorted(cell.optional_placement_tags),
        rep_url=rep_url,
        annotations=annotations or {},
    )


def encode_hello(
    cell: CellState,
    *,
    incarnation: str,
    held: Iterable[link_pb2.Held] = (),
    rep_address: str = "",
    rep_url: str = "",
    annotations: Mapping[str, str] | None = None,
) -> link_pb2.Hello:
    """The first words of a cell; ``cell.available`` and the counts are left out, they follow from ``held``."""
    return link_pb2.Hello(
        presence=encode_presence(cell, rep_address=rep_address, rep_url=rep_url, annotations=annotations),
        arbitrary_rootfs=sorted(cell.arbitrary_rootfs),
        volume_drivers=sorted(cell.volume_drivers),
        held=held,
        draining=cell.evacuating,
        incarnation=incarnation,
        protocol=PROTOCOL,
    )


def _providers(cell: CellState) -> list[bbs_pb2.Provider]:
    # Fixed sets first, as in the reference (cell.md section 8).
    fixed = [
        bbs_pb2.Provider(name=name, properties=sorted(members)) for name, members in sorted(cell.fixed_rootfs.items())
    ]
    return fixed + [bbs_pb2.Provider(name=name) for name in sorted(cell.arbitrary_rootfs)]


# -- reading -----------------------------------------------------------------------------------------------------


def decode_presence(presence: bbs_pb2.CellPresence, arbitrary_rootfs: Iterable[str] | None = None) -> CellState:
    """The cell that ``presence`` tells of, as if it held nothing.

    Args:
        presence: not checked here; see ``check_presence``.
        arbitrary_rootfs: the schemes of which any rootfs will do; None: those without properties.
    """
    providers = {provider.name: frozenset(provider.properties) for provider in presence.rootfs_providers}
    if arbitrary_rootfs is None:
        arbitrary = frozenset(name for name, members in providers.items() if not members)
    else:
        arbitrary = frozenset(arbitrary_rootfs)
    capacity = presence.capacity
    total = Resources(capacity.memory_mb, capacity.disk_mb, capacity.containers)
    return CellState(
        cell_id=presence.cell_id,
        zone=presence.zone,
        total=total,
        available=total,
        arbitrary_rootfs=arbitrary,
        fixed_rootfs={name: members for name, members in providers.items() if name not in arbitrary},
        placement_tags=frozenset(presence.placement_tags),
        optional_placement_tags=frozenset(presence.optional_placement_tags),
    )


def decode_hello(hello: link_pb2.Hello) -> CellState:
    """The cell that ``hello`` tells of, with what it holds taken off.

    Raises:
        InvalidHello: see ``check_hello``.
    """
    check_hello(hello)
    cell = decode_presence(hello.presence, hello.arbitrary_rootfs)
    available = cell.total
    for held in hello.held:
        available -= Resources(held.memory_mb, held.disk_mb, 1)
    return CellState(
        cell_id=cell.cell_id,
        zone=cell.zone,
        total=cell.total,
        available=available,
        arbitrary_rootfs=cell.arbitrary_rootfs,
        fixed_rootfs=cell.fixed_rootfs,
        volume_drivers=frozenset(hello.volume_drivers),
        placement_tags=cell.placement_tags,
        optional_placement_tags=cell.optional_placement_tags,
        task_count=len(hello.held),
        starting_count=sum(held.phase == link_pb2.Held.STARTING for held in hello.held),
        evacuating=hello.draining,
    )


def check_presence(presence: bbs_pb2.CellPresence) -> None:
    """Check what a cell says about itself (board-api.md section 12, Cells).

    Raises:
        InvalidHello: the first field that breaks a rule.
    """
    _check_identifier("cell_id", presence.cell_id)
    _check_length("zone", presence.zone)
    capacity = presence.capacity
    rules = (
        ("rep_address", "must not be empty", bool(presence.rep_address)),
        (
            "rep_url",
            "must be empty or start with http:// or https://",
            not presence.rep_url or presence.rep_url.startswith(("http://", "https://")),
        ),
        ("capacity.memory_mb", "must be greater than 0", capacity.memory_mb > 0),
        ("capacity.disk_mb", "must not be less than 0", capacity.disk_mb >= 0),
        ("capacity.containers", "must be greater than 0", capacity.containers > 0),
        ("rootfs_providers", "must each have a name", all(provider.name for provider in presence.rootfs_providers)),
        (
            "annotations",
            "must not have empty keys or values",
            all(key and value for key, value in presence.annotations.items()),
        ),
    )
    for field, rule, kept in rules:
        if not kept:
            raise InvalidHello(field, rule)


def check_hello(hello: link_pb2.Hello) -> None:
    """Check the first words of a cell.

    Raises:
        InvalidHello: the first field that breaks a rule.
    """
    if hello.protocol != PROTOCOL:
        raise InvalidHello("protocol", f"must be {PROTOCOL}, not {hello.protocol}")
    _check_identifier("incarnation", hello.incarnation)
    check_presence(hello.presence)
    seen: set[str] = set()
    for held in hello.held:
        if not held.task_guid or held.task_guid in seen:
            raise InvalidHello("held.task_guid", "must not be empty and must not stand twice")
        seen.add(held.task_guid)
        if held.phase not in _PHASES:
            raise InvalidHello("held.phase", f"must be a known phase, not {int(held.phase)}")
        if held.memory_mb < 0 or held.disk_mb < 0:
            raise InvalidHello("held", "must not take less than 0 of anything")


_PHASES = frozenset({link_pb2.Held.STARTING, link_pb2.Held.RUNNING, link_pb2.Held.REPORTING, link_pb2.Held.LEAVING})


def _check_identifier(field: str, text: str) -> None:
    if not text:
        raise InvalidHello(field, "must not be empty")
    _check_length(field, text)


def _check_length(field: str, text: str) -> None:
    if len(text) > IDENTIFIER_CHARACTERS_MAX:
        raise InvalidHello(field, f"must have at most {IDENTIFIER_CHARACTERS_MAX} characters")
