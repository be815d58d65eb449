"""``bulletin.cli.output``: the process's lines and the cell's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.cli.output import CELL_SOURCE, PROCESS_SOURCE, tell_apart
from bulletin.client.values import OutputLine

A, C = PROCESS_SOURCE, CELL_SOURCE


def heard(*lines):
    """What the process said, as (stream, text, ended)."""
    said = tell_apart([OutputLine(1, stream, source, text) for stream, source, text in lines])
    return [(piece.line.stream, piece.line.text, piece.ended) for piece in said if piece.by_process]


CREATING = ("out", C, "Cell c creating container for instance g")


@pytest.mark.parametrize(
    ("lines", "process"),
    [
        ([], []),
        ([CREATING], []),
        ([CREATING, ("out", A, "hi"), ("out", A, "Exit status 0")], [("out", "hi", True)]),
        ([("out", A, "fooExit status 0")], [("out", "foo", False)]),
        ([("out", A, "Exit status 1Exit status 0")], [("out", "Exit status 1", False)]),
        ([("out", A, "Exit status 3"), ("out", A, "Exit status 0")], [("out", "Exit status 3", True)]),
        ([("out", A, "xExit status 137 (out of memory)")], [("out", "x", False)]),
        ([("out", A, "Exit status 137 (exceeded 10s graceful shutdown interval)")], []),
        ([("out", A, "Exit status 0"), ("err", A, "late")], [("err", "late", True)]),
        ([("err", A, "Exit status 0")], [("err", "Exit status 0", True)]),
        ([("out", A, "no exit line")], [("out", "no exit line", True)]),
        ([("out", A, 'failed-creating-process: exec: "x"')], []),
        (
            [("out", A, "failed-creating-process: x"), ("out", A, "Exit status 0")],
            [("out", "failed-creating-process: x", True)],
        ),
        ([("out", A, "a"), ("out", C, "Cell c stopping instance g")], [("out", "a", True)]),
    ],
)
def test_whose_line(lines, process):
    assert heard(*lines) == process


TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(TEXT), st.one_of(st.just(""), TEXT), st.integers(0, 255))
def test_whatever_a_process_prints_comes_back(lines, tail, status):
    """Lines as a cell would keep them: the unterminated tail and the exit line are one."""
    kept = [("out", A, line) for line in lines] + [("out", A, f"{tail}Exit status {status}")]
    expected = [("out", line, True) for line in lines] + ([("out", tail, False)] if tail else [])
    assert heard(CREATING, *kept) == expected


@given(st.lists(st.tuples(st.sampled_from(["out", "err"]), st.sampled_from([A, C, "X"]), TEXT)))
def test_nothing_is_lost(lines):
    said = tell_apart([OutputLine(1, *line) for line in lines])
    assert "".join(piece.line.text for piece in said) == "".join(text for *_, text in lines)
