"""The error taxonomy, byte for byte against board-api.md section 4."""

from __future__ import annotations

import pytest

from bulletin.core.errors import (
    Blame,
    ErrorType,
    TaskError,
    bad_request,
    conflicting_cell,
    invalid_fields,
    transition,
)


def test_types_have_the_numbers_of_the_wire():
    assert {kind.name: kind.value for kind in ErrorType} == {
        "UNKNOWN_ERROR": 0,
        "INVALID_RECORD": 3,
        "INVALID_REQUEST": 4,
        "INVALID_RESPONSE": 5,
        "INVALID_PROTOBUF_MESSAGE": 6,
        "INVALID_JSON": 7,
        "FAILED_TO_OPEN_ENVELOPE": 8,
        "INVALID_STATE_TRANSITION": 9,
        "RESOURCE_CONFLICT": 11,
        "RESOURCE_EXISTS": 12,
        "RESOURCE_NOT_FOUND": 13,
        "ROUTER_ERROR": 14,
        "RUNNING_ON_DIFFERENT_CELL": 24,
        "GUID_GENERATION": 26,
        "DESERIALIZE": 27,
        "DEADLOCK": 28,
        "UNRECOVERABLE": 29,
        "LOCK_COLLISION": 30,
        "TIMEOUT": 31,
    }


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ErrorType.RESOURCE_NOT_FOUND, "the requested resource could not be found"),
        (ErrorType.RESOURCE_EXISTS, "the requested resource already exists"),
        (ErrorType.RESOURCE_CONFLICT, "the requested resource is in a conflicting state"),
        (ErrorType.DEADLOCK, "the request failed due to deadlock"),
        (ErrorType.INVALID_REQUEST, "the request received is invalid"),
        (ErrorType.UNKNOWN_ERROR, "the request failed for an unknown reason"),
        (ErrorType.DESERIALIZE, "could not deserialize record"),
        (ErrorType.FAILED_TO_OPEN_ENVELOPE, "could not open envelope"),
        (ErrorType.LOCK_COLLISION, "lock already exists"),
        (ErrorType.GUID_GENERATION, "cannot generate random guid"),
        (ErrorType.INVALID_RECORD, ""),
    ],
)
def test_fixed_texts(kind, text):
    error = TaskError(kind)
    assert (error.type, error.message, str(error), error.blame) == (kind, text, text, Blame.CALLER)


def test_a_given_text_wins_even_when_empty():
    assert TaskError(ErrorType.UNKNOWN_ERROR, "disk full", Blame.ENVIRONMENT).message == "disk full"
    assert TaskError(ErrorType.UNKNOWN_ERROR, "").message == ""


def test_blame_is_kept():
    assert {TaskError(ErrorType.TIMEOUT, blame=blame).blame for blame in Blame} == set(Blame)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (bad_request(), ErrorType.INVALID_REQUEST, "the request received is invalid"),
        (
            invalid_fields(["Invalid field: rootfs", "invalid action type"]),
            ErrorType.INVALID_REQUEST,
            "Invalid field: rootfs, invalid action type",
        ),
        (
            transition("Pending", "Resolving"),
            ErrorType.INVALID_STATE_TRANSITION,
            "Cannot transition from Pending to Resolving",
        ),
        (conflicting_cell("a", "b"), ErrorType.RUNNING_ON_DIFFERENT_CELL, "Running on cell a not b"),
    ],
)
def test_errors_with_a_text_of_their_own(error, kind, text):
    assert (error.type, error.message) == (kind, text)


def test_an_error_shows_what_it_is():
    assert repr(transition("Pending", "Running")) == (
        "TaskError(INVALID_STATE_TRANSITION, 'Cannot transition from Pending to Running')"
    )
