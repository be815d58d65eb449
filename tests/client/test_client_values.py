"""``bulletin.client.values``: what an outcome tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin import Outcome, Task, TaskState
from bulletin.core.model import Definition


def outcome(*, failed: bool, reason: str = "", result: str = "") -> Outcome:
    definition = Definition(b"", "docker:///x")
    task = Task("g", "d", definition, TaskState.COMPLETED, 1, 2, 2, failed=failed, failure_reason=reason, result=result)
    return Outcome(task)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("LOG: Exited with status 3", 3),
        ("APP: Exited with status 137 (out of memory)", 137),
        ("exceeded 2s timeout; LOG: Exited with status 143", 143),
        ("A: Exited with status 1; B: Exited with status 2", None),
        ("task was cancelled", None),
        ("", None),
        ("NotExited with status 3", None),
        ("Exited with status 12345", None),
    ],
)
def test_exit_status_of_a_failure(reason, status):
    assert outcome(failed=True, reason=reason).exit_status == status


def test_a_success_has_status_0_whatever_its_reason():
    ended = outcome(failed=False, reason="LOG: Exited with status 3", result="r")
    assert ended.succeeded
    assert ended.exit_status == 0
    assert (ended.guid, ended.result) == ("g", "r")


@given(st.integers(0, 255), st.from_regex(r"[A-Za-z0-9 _.-]{1,20}", fullmatch=True), st.booleans())
def test_every_status_of_every_source_is_found(status, source, memory):
    reason = f"{source}: Exited with status {status}" + (" (out of memory)" if memory else "")
    assert outcome(failed=True, reason=reason).exit_status == status


@given(st.text())
def test_any_reason_can_be_asked(reason):
    status = outcome(failed=True, reason=reason).exit_status
    assert status is None or 0 <= status <= 999
