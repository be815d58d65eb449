"""``bulletin.client.errors``: wire types to exceptions."""

from __future__ import annotations

import pickle

import pytest

from bulletin import (
    BoardError,
    BoardFault,
    BoardTimeout,
    BoardUnreachable,
    InvalidRequest,
    InvalidTransition,
    OutputNotFound,
    ResourceConflict,
    RunningOnAnotherCell,
    TaskExists,
    TaskGone,
    TaskNotFound,
    TaskState,
    WaitTimeout,
)
from bulletin.client.errors import refusal
from bulletin.core.errors import ErrorType

KINDS = {
    ErrorType.RESOURCE_NOT_FOUND: TaskNotFound,
    ErrorType.RESOURCE_EXISTS: TaskExists,
    ErrorType.INVALID_REQUEST: InvalidRequest,
    ErrorType.INVALID_RECORD: InvalidRequest,
    ErrorType.INVALID_STATE_TRANSITION: InvalidTransition,
    ErrorType.RUNNING_ON_DIFFERENT_CELL: RunningOnAnotherCell,
    ErrorType.RESOURCE_CONFLICT: ResourceConflict,
    ErrorType.DEADLOCK: ResourceConflict,
    ErrorType.LOCK_COLLISION: ResourceConflict,
}


@pytest.mark.parametrize("type_", list(ErrorType))
def test_every_type_has_its_kind(type_):
    error = refusal(int(type_), "the words", "the-guid")
    assert type(error) is KINDS.get(type_, BoardFault)
    assert error.type is type_
    assert error.text == "the words"
    assert not error.repeated


def test_a_type_from_the_future_is_unknown():
    error = refusal(99, "new")
    assert type(error) is BoardFault
    assert error.type is ErrorType.UNKNOWN_ERROR


def test_an_empty_error_still_says_something():
    assert str(refusal(0, "")).startswith("the board gave no reason; ")


def test_problems_are_taken_apart():
    error = refusal(4, "Invalid field: rootfs, invalid action type")
    assert isinstance(error, InvalidRequest)
    assert error.problems == ("Invalid field: rootfs", "invalid action type")


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("Cannot transition from Completed to Running", (TaskState.COMPLETED, TaskState.RUNNING)),
        ("Cannot transition from Nowhere to Running", (None, TaskState.RUNNING)),
        ("something else", (None, None)),
    ],
)
def test_transition_tells_the_states(text, states):
    error = refusal(9, text)
    assert isinstance(error, InvalidTransition)
    assert (error.from_state, error.to_state) == states


def test_other_cell_tells_the_cells():
    error = refusal(24, "Running on cell a b not c")
    assert isinstance(error, RunningOnAnotherCell)
    assert (error.actual, error.requested) == ("a b", "c")
    other = refusal(24, "x")
    assert isinstance(other, RunningOnAnotherCell)
    assert (other.actual, other.requested) == ("", "")


ALL = [
    BoardUnreachable("http://x", "connection refused"),
    BoardTimeout("http://x", "no answer within 1 s", "try again"),
    OutputNotFound("g", "it has not ended"),
    TaskGone("g", "removed"),
    WaitTimeout("g", 1.5),
    *(refusal(int(type_), "Cannot transition from Pending to Resolving", "g") for type_ in ErrorType),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_every_error_says_what_to_do_and_survives_pickling(error):
    assert isinstance(error, BoardError)
    assert error.hint
    assert str(error) == f"{error.message}; {error.hint}"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_a_late_wait_is_a_timeout_error():
    assert isinstance(WaitTimeout("g", 1), TimeoutError)
