"""The values decisions are about."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.core.model import CellState, Definition, Resources, Task, TaskState

amounts = st.builds(Resources, st.integers(-9, 9), st.integers(-9, 9), st.integers(-9, 9))


def test_states_have_the_numbers_and_names_of_the_wire():
    assert [(state.value, state.label) for state in TaskState] == [
        (0, "Invalid"),
        (1, "Pending"),
        (2, "Running"),
        (3, "Completed"),
        (4, "Resolving"),
    ]


def test_amounts_add_and_subtract_by_resource():
    assert Resources(1, 20, 300) + Resources(4, 50, 600) == Resources(5, 70, 900)
    assert Resources(5, 70, 900) - Resources(4, 50, 600) == Resources(1, 20, 300)


@given(amounts, amounts)
def test_what_was_added_can_be_taken_away(a, b):
    assert a + b == b + a
    assert (a + b) - b == a


@given(amounts, amounts)
def test_an_amount_covers_what_leaves_nothing_missing(a, b):
    left = a - b
    assert a.covers(b) == (min(left.memory_mb, left.disk_mb, left.containers) >= 0)
    assert a.covers(a)


@pytest.mark.parametrize("short", [Resources(1, 0, 0), Resources(0, 1, 0), Resources(0, 0, 1)])
def test_each_resource_can_be_what_is_missing(short):
    assert not Resources(0, 0, 0).covers(short)
    assert short.covers(Resources(0, 0, 0))


def test_every_task_takes_one_container():
    assert Definition(b"", "preloaded:x", memory_mb=5, disk_mb=7, max_pids=9).resources == Resources(5, 7, 1)
    assert Resources() == Resources(0, 0, 1)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Task("g", "d", Definition(b"", "preloaded:x"), TaskState.PENDING, 1, 1), "state"),
        (Definition(b"", "preloaded:x"), "rootfs"),
        (Resources(), "memory_mb"),
        (CellState("c", "z", Resources(), Resources()), "available"),
    ],
    ids=lambda each: type(each).__name__ if not isinstance(each, str) else each,
)
def test_values_do_not_change(value, name):
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, None)
