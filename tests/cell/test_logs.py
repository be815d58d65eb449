"""A task's output: splitting, gluing, keeping, limiting (cell.md section 10)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.cell.logs import CellLines, TaskLog
from bulletin.core.limits import LOG_LINE_BYTES_MAX


class FakeClock:
    def __init__(self):
        self.seconds = 100.0

    def now_ns(self):
        return int(self.seconds * 1e9)

    def monotonic(self):
        return self.seconds


def make(**more):
    clock = FakeClock()
    return TaskLog(clock, **more), clock


def texts(log):
    return [line.text for line in log.lines()]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"one\r\ntwo\rthree\n"], ["one", "two", "three"]),
        ([b"\n\n\r\r\n"], []),
        ([b"he", b"llo", b"\nwor", b"ld\n"], ["hello", "world"]),
        ([b"tail"], []),
        ([b""], []),
        ([b"caf\xc3", b"\xa9\n"], ["café"]),
        ([b"\xff\n"], ["\N{REPLACEMENT CHARACTER}"]),
        ([b" \n"], [" "]),
    ],
)
def test_lines_are_split(pieces, expected):
    log, _ = make()
    for piece in pieces:
        log.write(1, "out", "APP", piece)
    assert texts(log) == expected


def test_a_tail_is_glued_to_what_the_step_says_next():
    log, _ = make()
    log.write(1, "out", "APP", b"foo")
    log.write(1, "err", "APP", b"bar")
    log.write(2, "out", "WEB", b"other")
    log.write(1, "out", "APP", b"Exit status 0\n")
    assert texts(log) == ["fooExit status 0"]
    log.end(1)
    log.end(1)
    assert [(line.stream, line.source, line.text) for line in log.lines()] == [
        ("out", "APP", "fooExit status 0"),
        ("err", "APP", "bar"),
    ]
    log.end(2)
    assert texts(log)[-1] == "other"


def test_lines_carry_their_time():
    log, clock = make()
    log.write(1, "out", "APP", b"a\n")
    clock.seconds = 101.5
    log.write(1, "out", "APP", b"b\n")
    assert [line.time_ns for line in log.lines()] == [100_000_000_000, 101_500_000_000]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_long_line_is_split(end):
    log, _ = make(kept_bytes_max=1 << 20)
    log.write(1, "out", "APP", b"x" * (2 * LOG_LINE_BYTES_MAX + 5) + end)
    log.end(1)
    assert [len(text) for text in texts(log)] == [LOG_LINE_BYTES_MAX, LOG_LINE_BYTES_MAX, 5]


@pytest.mark.parametrize("character", ["é", "€", "\N{OCTOPUS}"])
@pytest.mark.parametrize("shift", range(4))
def test_a_long_line_is_split_between_characters(character, shift):
    log, _ = make(kept_bytes_max=1 << 20)
    line = "x" * shift + character * LOG_LINE_BYTES_MAX
    log.write(1, "out", "APP", line.encode()[: 3 * LOG_LINE_BYTES_MAX // 12 * 12 + shift] + b"\n")
    for text in texts(log):
        assert "\N{REPLACEMENT CHARACTER}" not in text
        assert LOG_LINE_BYTES_MAX - 4 < len(text.encode()) <= LOG_LINE_BYTES_MAX or text == texts(log)[-1]


def test_a_long_line_that_is_not_utf8_is_split_anyway():
    log, _ = make(kept_bytes_max=1 << 30)
    log.write(1, "out", "APP", b"\x80" * (LOG_LINE_BYTES_MAX + 1) + b"\n")
    assert [len(text) for text in texts(log)] == [LOG_LINE_BYTES_MAX, 1]


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_pieces_make_the_same_lines_as_the_whole(pieces):
    one, _ = make()
    many, _ = make()
    one.write(1, "out", "APP", b"".join(pieces))
    for piece in pieces:
        many.write(1, "out", "APP", piece)
    one.end(1)
    many.end(1)
    assert texts(one) == texts(many)
    assert all(texts(one))


# -- keeping ---------------------------------------------------------------------------------------------------------


def test_the_newest_lines_are_kept():
    log, _ = make(kept_bytes_max=1000)
    for number in range(100):
        log.write(1, "out", "APP", b"line %03d\n" % number)
    kept = texts(log)
    assert kept == [f"line {number:03d}" for number in range(100 - len(kept), 100)]
    assert 10 < len(kept) < 100


def test_a_single_line_over_the_bound_is_kept():
    log, _ = make(kept_bytes_max=10)
    log.write(1, "out", "APP", b"short\n" + b"x" * 50 + b"\n")
    assert texts(log) == ["x" * 50]


@pytest.mark.parametrize("text", [b"\n", b"x\n", b"\xff\n", b"x"])
def test_no_output_however_odd_is_kept_beyond_the_bound(text):
    log, _ = make(kept_bytes_max=10_000)
    for step in range(2):
        log.write(step, "out", "APP", text * 50_000)
    assert sum(len(line.text.encode()) + 32 for line in log.lines()) <= 10_000 or len(log.lines()) == 1


# -- the rate limit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [None, -1])
def test_no_rate_is_no_limit(rate):
    log, _ = make(bytes_per_second=rate)
    log.write(1, "out", "APP", b"x\n" * 1000)
    assert len(texts(log)) == 1000


def test_a_rate_of_zero_is_silence_for_all_but_the_cell():
    log, _ = make(bytes_per_second=0)
    log.write(1, "out", "APP", b"x\n")
    log.end(1)
    log.say("out", "LOG", "Cell says")
    assert texts(log) == ["Cell says"]


def test_over_the_rate_one_line_says_so_and_a_second_is_lost():
    log, clock = make(bytes_per_second=10)
    log.write(1, "err", "APP", b"12345\n12345\n1\n2\n")
    assert [(line.stream, line.text) for line in log.lines()] == [
        ("err", "12345"),
        ("err", "12345"),
        ("out", "app instance exceeded log rate limit (10 bytes/sec)"),
    ]
    clock.seconds += 0.9
    log.write(1, "out", "APP", b"still shut\n")
    assert len(texts(log)) == 3
    clock.seconds += 0.2
    log.write(1, "out", "APP", b"open again\n")
    assert texts(log)[-1] == "open again"


def test_a_line_over_the_rate_never_passes():
    log, clock = make(bytes_per_second=10)
    for _ in range(3):
        log.write(1, "out", "APP", b"12345678901\n")
        clock.seconds += 5
    assert texts(log) == ["app instance exceeded log rate limit (10 bytes/sec)"] * 3


def test_the_bucket_fills_with_time_and_not_beyond_its_depth():
    log, clock = make(bytes_per_second=10)
    log.write(1, "out", "APP", b"1234567890\n")
    clock.seconds += 0.5
    log.write(1, "out", "APP", b"12345\n")
    clock.seconds += 100
    log.write(1, "out", "APP", b"1234567890\nx\n")
    assert texts(log) == ["1234567890", "12345", "1234567890", "app instance exceeded log rate limit (10 bytes/sec)"]


# -- the cell's own lines --------------------------------------------------------------------------------------------


def test_the_cells_own_lines():
    lines = CellLines("c", "g")
    assert lines.creating == "Cell c creating container for instance g"
    assert lines.created == "Cell c successfully created container for instance g"
    assert lines.create_failed("why") == "Cell c failed to create container for instance g: why"
    assert lines.stopping == "Cell c stopping instance g"
    assert lines.destroying == "Cell c destroying container for instance g"
    assert lines.destroyed == "Cell c successfully destroyed container for instance g"
    assert lines.destroy_failed == "Cell c failed to destroy container for instance g"
