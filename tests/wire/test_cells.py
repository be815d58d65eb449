from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire.strategies import texts

from bulletin.core.model import CellState, Resources
from bulletin.wire import cells
from bulletin.wire.cells import InvalidHello
from bulletin.wire.link import PROTOCOL
from bulletin.wire.proto import bbs_pb2 as p
from bulletin.wire.proto import link_pb2 as l

CELL = CellState(
    cell_id="cell-1",
    zone="z1",
    total=Resources(1024, 2048, 100),
    available=Resources(1024, 2048, 100),
    arbitrary_rootfs=frozenset({"docker", "oci"}),
    fixed_rootfs={"preloaded": frozenset({"b", "a"}), "preloaded+layer": frozenset({"a"})},
    volume_drivers=frozenset({"nfs", "local"}),
    placement_tags=frozenset({"t2", "t1"}),
    optional_placement_tags=frozenset({"o"}),
)


def _hello(**fields: object) -> l.Hello:
    message = cells.encode_hello(CELL, incarnation="i1")
    for name, value in fields.items():
        if name.startswith("presence__"):
            setattr(message.presence, name.removeprefix("presence__"), value)
        elif name.startswith("capacity__"):
            setattr(message.presence.capacity, name.removeprefix("capacity__"), value)
        else:
            setattr(message, name, value)
    return message


def test_presence():
    assert cells.encode_presence(CELL, rep_url="https://h", annotations={"k": "v"}) == p.CellPresence(
        cell_id="cell-1",
        rep_address="link:cell-1",
        zone="z1",
        capacity=p.CellCapacity(memory_mb=1024, disk_mb=2048, containers=100),
        rootfs_providers=[
            p.Provider(name="preloaded", properties=["a", "b"]),
            p.Provider(name="preloaded+layer", properties=["a"]),
            p.Provider(name="docker"),
            p.Provider(name="oci"),
        ],
        placement_tags=["t1", "t2"],
        optional_placement_tags=["o"],
        rep_url="https://h",
        annotations={"k": "v"},
    )
    assert cells.encode_presence(CELL, rep_address="http://h").rep_address == "http://h"
    cells.check_presence(cells.encode_presence(CELL))


def test_a_presence_of_another_kind_of_cell_is_read():
    state = cells.decode_presence(cells.encode_presence(CELL))
    assert (state.arbitrary_rootfs, state.fixed_rootfs) == (CELL.arbitrary_rootfs, CELL.fixed_rootfs)
    assert (state.total, state.available) == (CELL.total, CELL.total)
    assert state.volume_drivers == frozenset()


def test_hello_is_read_back():
    message = cells.encode_hello(CELL, incarnation="i1")
    assert cells.decode_hello(message) == CELL
    assert (message.incarnation, message.protocol, message.draining) == ("i1", PROTOCOL, False)


def test_an_empty_fixed_set_is_not_an_arbitrary_scheme():
    empty = CellState("c", "z", CELL.total, CELL.total, fixed_rootfs={"preloaded": frozenset()})
    assert cells.decode_hello(cells.encode_hello(empty, incarnation="i")) == empty


def test_what_a_cell_holds_is_taken_off():
    held = [
        l.Held(task_guid="a", phase=l.Held.STARTING, memory_mb=100, disk_mb=200),
        l.Held(task_guid="b", phase=l.Held.RUNNING, memory_mb=10),
        l.Held(task_guid="c", phase=l.Held.REPORTING),
        l.Held(task_guid="d", phase=l.Held.LEAVING, disk_mb=1),
    ]
    state = cells.decode_hello(cells.encode_hello(CELL, incarnation="i", held=held))
    assert state.total == CELL.total
    assert state.available == Resources(1024 - 110, 2048 - 201, 96)
    assert (state.task_count, state.starting_count) == (4, 1)


def test_draining():
    draining = CellState("c", "z", CELL.total, CELL.total, evacuating=True)
    assert cells.decode_hello(cells.encode_hello(draining, incarnation="i")).evacuating


@given(
    st.builds(
        CellState,
        cell_id=texts.filter(bool),
        zone=texts,
        total=st.builds(Resources, st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(1, 2**31 - 1)),
        available=st.just(Resources()),
        arbitrary_rootfs=st.frozensets(st.sampled_from(["docker", "oci"])),
        fixed_rootfs=st.dictionaries(st.sampled_from(["preloaded", "x"]), st.frozensets(texts, max_size=3)),
        volume_drivers=st.frozensets(texts, max_size=3),
        placement_tags=st.frozensets(texts, max_size=3),
        optional_placement_tags=st.frozensets(texts, max_size=3),
        evacuating=st.booleans(),
    )
)
def test_any_cell_is_read_back(cell):
    message = cells.encode_hello(cell, incarnation="i")
    read = cells.decode_hello(l.Hello.FromString(message.SerializeToString()))
    assert read.available == read.total == cell.total
    for name in ("cell_id", "zone", "arbitrary_rootfs", "fixed_rootfs", "volume_drivers", "placement_tags"):
        assert getattr(read, name) == getattr(cell, name)
    assert read.optional_placement_tags == cell.optional_placement_tags
    assert read.evacuating == cell.evacuating


# -- rules, board-api.md section 12 ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"protocol": 0}, "protocol", "must be 1, not 0"),
        ({"protocol": 2}, "protocol", "must be 1, not 2"),
        ({"incarnation": ""}, "incarnation", "must not be empty"),
        ({"incarnation": "x" * 256}, "incarnation", "must have at most 255 characters"),
        ({"presence__cell_id": ""}, "cell_id", "must not be empty"),
        ({"presence__cell_id": "x" * 256}, "cell_id", "must have at most 255 characters"),
        ({"presence__zone": "x" * 256}, "zone", "must have at most 255 characters"),
        ({"presence__rep_address": ""}, "rep_address", "must not be empty"),
        ({"presence__rep_url": "ftp://h"}, "rep_url", "must be empty or start with http:// or https://"),
        ({"presence__rep_url": "h"}, "rep_url", "must be empty or start with http:// or https://"),
        ({"capacity__memory_mb": 0}, "capacity.memory_mb", "must be greater than 0"),
        ({"capacity__memory_mb": -1}, "capacity.memory_mb", "must be greater than 0"),
        ({"capacity__disk_mb": -1}, "capacity.disk_mb", "must not be less than 0"),
        ({"capacity__containers": 0}, "capacity.containers", "must be greater than 0"),
    ],
)
def test_rules(fields, field, rule):
    with pytest.raises(InvalidHello) as caught:
        cells.decode_hello(_hello(**fields))
    assert (caught.value.field, caught.value.rule) == (field, rule)
    assert str(caught.value) == f"{field} {rule}"


@pytest.mark.parametrize(
    "fields",
    [
        {"presence__cell_id": "x" * 255},
        {"presence__zone": ""},
        {"presence__rep_url": "http://h"},
        {"presence__rep_url": "https://h"},
        {"presence__rep_url": ""},
        {"capacity__disk_mb": 0},
        {"capacity__memory_mb": 1},
        {"capacity__containers": 1},
    ],
)
def test_what_is_allowed(fields):
    cells.check_hello(_hello(**fields))


@pytest.mark.parametrize("annotations", [{"": "v"}, {"k": ""}])
def test_annotations(annotations):
    with pytest.raises(InvalidHello, match="annotations must not have empty keys or values"):
        cells.check_presence(cells.encode_presence(CELL, annotations=annotations))


def test_providers_have_names():
    hello = _hello()
    hello.presence.rootfs_providers.add()
    with pytest.raises(InvalidHello, match="rootfs_providers must each have a name"):
        cells.check_hello(hello)


def test_a_presence_without_anything():
    with pytest.raises(InvalidHello, match="cell_id must not be empty"):
        cells.check_presence(p.CellPresence())
    with pytest.raises(InvalidHello, match="protocol must be 1, not 0"):
        cells.check_hello(l.Hello())


RUNNING = {"task_guid": "a", "phase": l.Held.RUNNING}


@pytest.mark.parametrize(
    ("held", "field"),
    [
        ([l.Held(phase=l.Held.RUNNING)], "held.task_guid"),
        ([l.Held(**RUNNING), l.Held(**RUNNING)], "held.task_guid"),
        ([l.Held(task_guid="a")], "held.phase"),
        ([l.Held(task_guid="a", phase=9)], "held.phase"),
        ([l.Held(**RUNNING, memory_mb=-1)], "held"),
        ([l.Held(**RUNNING, disk_mb=-1)], "held"),
    ],
)
def test_held(held, field):
    with pytest.raises(InvalidHello) as caught:
        cells.decode_hello(cells.encode_hello(CELL, incarnation="i", held=held))
    assert caught.value.field == field
