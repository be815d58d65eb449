"""The step tree: every row of cell.md section 2 as a script, then random trees under random drivers."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.core.actions import (
    CodependentAction,
    DownloadAction,
    EmitProgressAction,
    ParallelAction,
    RunAction,
    SerialAction,
    TimeoutAction,
    TryAction,
    UploadAction,
)
from bulletin.core.steps import (
    CancelTransfer,
    ClearTimer,
    Emit,
    Exited,
    Finished,
    Interrupt,
    Policy,
    Ready,
    SetTimer,
    SignalProcess,
    Spawned,
    SpawnFailed,
    SpawnProcess,
    StartDownload,
    StartUpload,
    TimerFired,
    TimerName,
    TransferEnded,
    TransferFault,
    TransferStarted,
    UnexpectedEvent,
    WaitFailed,
    advance,
    begin,
    duration_text,
    from_data,
    size_text,
    sole_run,
    to_data,
)

POLICY = Policy()
RUN = RunAction("/bin/true", "vcap")
SILENT = RunAction("/bin/true", "vcap", suppress_log_output=True)
DOWNLOAD = DownloadAction("http://x/a.tgz", "/app", "vcap", artifact="app bits")
UNNAMED_DOWNLOAD = DownloadAction("http://x/a.tgz", "/app", "vcap")
UPLOAD = UploadAction("/out", "http://x/y", "vcap", artifact="droplet")
UNNAMED_UPLOAD = UploadAction("/out", "http://x/y", "vcap")


class Script:
    """A tree and what it said last."""

    def __init__(self, root, log_source="APP", log_guid="some-guid", policy=POLICY):
        self.policy = policy
        self.root = root
        self.tree, self.commands = begin(root, log_source=log_source, log_guid=log_guid)

    def hear(self, *events):
        said = []
        for event in events:
            self.tree, commands = advance(self.tree, event, self.policy)
            said += commands
        self.commands = tuple(said)
        return self.commands

    def run(self, step, status=0, **more):
        return self.hear(Spawned(step), Exited(step, status, **more))

    @property
    def lines(self):
        return [(c.source, c.stream, c.text) for c in self.commands if isinstance(c, Emit)]

    @property
    def spawned(self):
        return [c.step for c in self.commands if isinstance(c, SpawnProcess)]

    @property
    def outcome(self):
        """The failure reason, None for success; fails unless the tree has just finished."""
        (finished,) = [c for c in self.commands if isinstance(c, Finished)]
        assert finished is self.commands[-1]
        assert self.tree.finished
        return finished.error


def ended(error):
    return (Finished(error),)


# -- run -----------------------------------------------------------------------------------------------------------


def test_a_run_that_succeeds():
    script = Script(RUN)
    assert script.commands == (SpawnProcess(0, RUN, "APP"),)
    assert script.hear(Spawned(0)) == (Ready(),)
    assert script.hear(Exited(0, 0)) == (Emit(0, "APP", "out", "Exit status 0\n"), Finished(None))


@pytest.mark.parametrize(
    ("status", "out_of_memory", "line", "reason"),
    [
        (1, False, "Exit status 1\n", "APP: Exited with status 1"),
        (137, True, "Exit status 137 (out of memory)\n", "APP: Exited with status 137 (out of memory)"),
        (3, True, "Exit status 3 (out of memory)\n", "APP: Exited with status 3 (out of memory)"),
        (0, True, "Exit status 0\n", None),
    ],
)
def test_the_texts_of_an_exit(status, out_of_memory, line, reason):
    script = Script(RUN)
    script.run(0, status, out_of_memory=out_of_memory)
    assert script.lines == [("APP", "out", line)]
    assert script.outcome == reason


def test_a_process_that_cannot_be_created():
    script = Script(RUN)
    said = script.hear(SpawnFailed(0, "no such user"))
    assert said == (Emit(0, "APP", "out", "failed-creating-process: no such user\n"), Finished("no such user"))


def test_a_process_the_runtime_loses():
    script = Script(RUN)
    script.hear(Spawned(0))
    assert script.hear(WaitFailed(0, "lost it")) == ended("lost it")


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([Spawned(0), Exited(0, 0)], None),
        ([Spawned(0), Exited(0, 4)], "APP: Exited with status 4"),
        ([SpawnFailed(0, "nope")], "nope"),
    ],
)
def test_suppressed_output_leaves_the_reason_and_no_line(events, reason):
    script = Script(SILENT)
    script.hear(*events)
    assert script.lines == []
    assert script.outcome == reason


@pytest.mark.parametrize("status", [0, 1, 143])
def test_a_run_that_ends_after_sigterm(status):
    script = Script(RUN)
    script.hear(Spawned(0))
    assert script.hear(Interrupt()) == (SignalProcess(0, "TERM"), SetTimer(0, TimerName.GRACEFUL, 10.0))
    assert script.hear(Exited(0, status)) == (
        ClearTimer(0, TimerName.GRACEFUL),
        Emit(0, "APP", "out", f"Exit status {status}\n"),
        Finished("cancelled"),
    )


@pytest.mark.parametrize(("seconds", "text"), [(10.0, "10s"), (0.5, "500ms"), (90.0, "1m30s")])
def test_a_run_that_has_to_be_killed(seconds, text):
    script = Script(RUN, policy=Policy(graceful_shutdown_seconds=seconds))
    assert script.hear(Spawned(0), Interrupt())[-1] == SetTimer(0, TimerName.GRACEFUL, seconds)
    killing = script.hear(TimerFired(0, TimerName.GRACEFUL))
    assert killing == (SignalProcess(0, "KILL"), SetTimer(0, TimerName.KILL, 1.0))
    assert script.hear(Exited(0, 137, out_of_memory=True)) == (
        ClearTimer(0, TimerName.KILL),
        Emit(0, "APP", "out", f"Exit status 137 (exceeded {text} graceful shutdown interval)\n"),
        Finished("exceeded graceful shutdown interval"),
    )


def test_a_run_that_does_not_die():
    script = Script(RUN)
    script.hear(Spawned(0), Interrupt(), TimerFired(0, TimerName.GRACEFUL))
    assert script.hear(TimerFired(0, TimerName.KILL)) == ended("process did not exit")
    assert script.hear(Exited(0, 137)) == ()


def test_a_run_interrupted_while_it_is_created():
    script = Script(RUN)
    assert script.hear(Interrupt()) == (SignalProcess(0, "KILL"), Finished("cancelled"))
    assert script.hear(Spawned(0), Exited(0, 0)) == ()


def test_an_out_of_memory_exit_after_sigterm_says_so():
    script = Script(RUN)
    script.hear(Spawned(0), Interrupt(), Exited(0, 143, out_of_memory=True))
    assert script.lines == [("APP", "out", "Exit status 143 (out of memory)\n")]


def test_a_lost_process_that_was_being_stopped_clears_its_timer():
    script = Script(RUN)
    script.hear(Spawned(0), Interrupt())
    assert script.hear(WaitFailed(0, "lost it")) == (ClearTimer(0, TimerName.GRACEFUL), Finished("lost it"))


def test_a_second_interrupt_and_a_late_timer_change_nothing():
    script = Script(RUN)
    script.hear(Spawned(0), Interrupt())
    before = script.tree
    for event in (Interrupt(), TimerFired(0, TimerName.KILL), TimerFired(0, TimerName.TIMEOUT)):
        assert script.hear(event) == ()
        assert script.tree == before


@pytest.mark.parametrize(
    ("root", "events"),
    [
        (RUN, [Exited(0, 0)]),
        (RUN, [WaitFailed(0, "x")]),
        (RUN, [Spawned(0), Spawned(0)]),
        (RUN, [Spawned(0), SpawnFailed(0, "x")]),
        (RUN, [TransferEnded(0)]),
        (RUN, [Spawned(7)]),
        (DOWNLOAD, [Spawned(0)]),
        (SerialAction((RUN, RUN)), [Spawned(2)]),
        (SerialAction((RUN, RUN)), [Spawned(0)]),
        (SerialAction((RUN, DOWNLOAD)), [TransferStarted(2)]),
    ],
)
def test_events_that_cannot_be_are_refused(root, events):
    script = Script(root)
    with pytest.raises(UnexpectedEvent):
        script.hear(*events)


# -- log sources ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (RunAction("p", "u", log_source="OWN"), "OWN"),
        (RunAction("p", "u"), "APP"),
        (TimeoutAction(RUN, 1, log_source="W"), "W"),
        (TryAction(RUN, log_source="W"), "W"),
        (ParallelAction((RUN,), log_source="W"), "W"),
        (CodependentAction((RUN,), log_source="W"), "W"),
        (SerialAction((RUN,), log_source="W"), "APP"),
        (EmitProgressAction(RUN, log_source="W"), "APP"),
        (TryAction(SerialAction((RUN,), log_source="S"), log_source="T"), "T"),
        (TryAction(EmitProgressAction(RUN, log_source="E"), log_source="T"), "T"),
        (TryAction(TryAction(RUN), log_source="T"), "T"),
    ],
)
def test_who_inherits_a_log_source(root, expected):
    (spawn,) = [c for c in Script(root).commands if isinstance(c, SpawnProcess)]
    assert spawn.log_source == expected


def test_the_default_source_is_log():
    assert Script(RUN, log_source="").commands == (SpawnProcess(0, RUN, "LOG"),)


def test_without_a_log_guid_the_source_is_always_log():
    script = Script(RunAction("p", "u", log_source="OWN"), log_guid="")
    script.run(0, 2)
    assert script.lines == [("LOG", "out", "Exit status 2\n")]
    assert script.outcome == "LOG: Exited with status 2"


# -- timeout ---------------------------------------------------------------------------------------------------------


def test_a_timeout_whose_child_is_in_time():
    script = Script(TimeoutAction(RUN, 500))
    assert script.commands == (SetTimer(0, TimerName.TIMEOUT, 0.5), SpawnProcess(1, RUN, "APP"))
    script.run(1, 3)
    assert ClearTimer(0, TimerName.TIMEOUT) in script.commands
    assert script.outcome == "APP: Exited with status 3"


def test_a_timeout_waits_for_its_child_and_leaves_out_a_hidden_text():
    script = Script(TimeoutAction(RUN, 500))
    said = script.hear(Spawned(1), TimerFired(0, TimerName.TIMEOUT))
    assert said == (Ready(), SignalProcess(1, "TERM"), SetTimer(1, TimerName.GRACEFUL, 10.0))
    script.hear(TimerFired(1, TimerName.GRACEFUL), Exited(1, 137))
    assert script.outcome == "exceeded 500ms timeout"


def test_a_child_that_succeeds_late_does_not_save_a_timeout():
    script = Script(TimeoutAction(TryAction(RUN), 2000))
    script.hear(Spawned(2), TimerFired(0, TimerName.TIMEOUT), Exited(2, 0))
    assert script.outcome == "exceeded 2s timeout"


def test_a_timeout_shows_an_emittable_child_text():
    script = Script(TimeoutAction(TimeoutAction(SerialAction((RUN,)), 1000), 90_000))
    script.hear(Spawned(3), TimerFired(1, TimerName.TIMEOUT), TimerFired(0, TimerName.TIMEOUT), Exited(3, 143))
    assert script.outcome == "exceeded 1m30s timeout; exceeded 1s timeout"


def test_a_timeout_does_not_show_a_plain_child_text():
    script = Script(TimeoutAction(ParallelAction((RUN, RUN)), 1000))
    script.hear(Spawned(2), Exited(2, 1), Spawned(3), TimerFired(0, TimerName.TIMEOUT), Exited(3, 143))
    assert script.outcome == "exceeded 1s timeout"


def test_a_timeout_forwards_the_signal_and_then_its_time_does_not_count():
    script = Script(TimeoutAction(RUN, 1000))
    said = script.hear(Spawned(1), Interrupt())
    assert said[1:] == (
        ClearTimer(0, TimerName.TIMEOUT),
        SignalProcess(1, "TERM"),
        SetTimer(1, TimerName.GRACEFUL, 10.0),
    )
    assert script.hear(TimerFired(0, TimerName.TIMEOUT)) == ()
    script.hear(Exited(1, 143))
    assert script.outcome == "cancelled"


def test_a_signal_after_a_timeout_fired_does_not_hang_it():
    script = Script(TimeoutAction(RUN, 1000))
    script.hear(Spawned(1), TimerFired(0, TimerName.TIMEOUT))
    assert script.hear(Interrupt()) == ()
    script.hear(Exited(1, 143))
    assert script.outcome == "exceeded 1s timeout"


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(1, "1ms"), (500, "500ms"), (1500, "1.5s"), (2000, "2s"), (90_000, "1m30s"), (3_600_000, "1h0m0s")],
)
def test_how_a_timeout_prints_its_time(milliseconds, text):
    script = Script(TimeoutAction(RUN, milliseconds))
    script.hear(TimerFired(0, TimerName.TIMEOUT))
    assert script.outcome == f"exceeded {text} timeout"


# -- emit_progress and try -------------------------------------------------------------------------------------------

PROGRESS = EmitProgressAction(RUN, "begin", "done", "oh no", log_source="STG")


def test_progress_of_a_success():
    script = Script(PROGRESS)
    assert script.lines == [("STG", "out", "begin\n")]
    script.run(1)
    assert script.lines == [("APP", "out", "Exit status 0\n"), ("STG", "out", "done\n")]
    assert script.outcome is None


def test_progress_of_a_failure_shows_an_emittable_text_and_passes_the_error_on():
    script = Script(PROGRESS)
    script.run(1, 9)
    assert script.lines[-1] == ("STG", "err", "oh no: APP: Exited with status 9\n")
    assert script.outcome == "APP: Exited with status 9"


def test_progress_of_a_failure_does_not_show_a_plain_text():
    script = Script(PROGRESS)
    script.hear(SpawnFailed(1, "boom"))
    assert script.lines[-1] == ("STG", "err", "oh no\n")
    assert script.outcome == "boom"


@pytest.mark.parametrize("status", [0, 1])
def test_progress_without_messages_is_silent(status):
    script = Script(EmitProgressAction(SILENT))
    script.run(1, status)
    assert script.lines == []


@pytest.mark.parametrize(
    "events",
    [[Spawned(1), Exited(1, 1)], [SpawnFailed(1, "x")], [Spawned(1), Interrupt(), Exited(1, 143)], [Interrupt()]],
)
def test_try_always_succeeds(events):
    script = Script(TryAction(RUN))
    script.hear(*events)
    assert script.outcome is None


# -- serial ----------------------------------------------------------------------------------------------------------


def test_serial_runs_one_after_another():
    script = Script(SerialAction((RUN, RUN, RUN)))
    assert script.spawned == [1]
    script.run(1)
    assert script.spawned == [2]
    script.run(2)
    assert script.spawned == [3]
    script.run(3)
    assert script.outcome is None


def test_serial_stops_at_the_first_error():
    script = Script(SerialAction((RUN, RUN)))
    script.run(1, 5)
    assert script.outcome == "APP: Exited with status 5"


def test_a_signalled_serial_returns_its_child_even_a_success():
    script = Script(SerialAction((TryAction(RUN), RUN)))
    script.hear(Spawned(2), Interrupt(), Exited(2, 143))
    assert script.outcome is None
    assert script.spawned == []


def test_serial_is_ready_with_its_last_child():
    script = Script(SerialAction((RUN, ParallelAction((RUN, RUN)))))
    script.run(1)
    assert Ready() not in script.commands
    assert script.hear(Spawned(4)) == ()
    assert script.hear(Spawned(3)) == (Ready(),)
    assert script.hear(Exited(3, 0)) == (Emit(3, "APP", "out", "Exit status 0\n"),)


@pytest.mark.parametrize("kind", [SerialAction, ParallelAction, CodependentAction])
def test_an_empty_list_succeeds_at_once(kind):
    assert Script(kind(())).commands == ended(None)


# -- parallel --------------------------------------------------------------------------------------------------------


def test_parallel_waits_for_all_and_joins_in_list_order():
    script = Script(ParallelAction((RUN, RUN, RUN)))
    assert script.spawned == [1, 2, 3]
    assert not any(isinstance(c, SignalProcess) for c in script.run(3, 3))
    script.run(1, 1)
    script.run(2)
    assert script.outcome == "APP: Exited with status 1; APP: Exited with status 3"


def test_parallel_leaves_hidden_errors_out():
    script = Script(ParallelAction((RUN, RUN)))
    script.run(1, 1)
    script.hear(Spawned(2), Interrupt(), Exited(2, 143))
    assert script.outcome == "APP: Exited with status 1"


def test_a_parallel_of_cancelled_children_is_a_success():
    script = Script(ParallelAction((RUN, DOWNLOAD)))
    script.hear(Spawned(1), Interrupt(), Exited(1, 143))
    assert script.outcome is None


@pytest.mark.parametrize("kind", [ParallelAction, CodependentAction])
def test_an_empty_text_is_left_out_of_a_joined_one(kind):
    script = Script(kind((ParallelAction((DOWNLOAD,)), RUN, ParallelAction((DOWNLOAD,)))))
    script.run(3, 1)
    script.hear(Interrupt()) if not script.tree.finished else None
    assert script.outcome == "APP: Exited with status 1"


def test_the_empty_error_of_a_cancelled_parallel_still_ends_a_serial():
    script = Script(SerialAction((ParallelAction((DOWNLOAD,)), RUN)))
    script.hear(Interrupt())
    assert script.outcome is None
    assert script.spawned == []


def test_a_joined_error_is_not_emittable():
    script = Script(EmitProgressAction(ParallelAction((SILENT,)), "", "", "failed"))
    script.run(2, 1)
    assert script.lines == [("APP", "err", "failed\n")]
    assert script.outcome == "APP: Exited with status 1"


# -- codependent -----------------------------------------------------------------------------------------------------


def test_codependent_interrupts_the_others_and_never_succeeds():
    script = Script(CodependentAction((RUN, RUN)))
    script.hear(Spawned(1), Spawned(2))
    assert script.hear(Exited(1, 0))[1:] == (SignalProcess(2, "TERM"), SetTimer(2, TimerName.GRACEFUL, 10.0))
    script.hear(Exited(2, 143))
    assert script.outcome == "Codependent step exited"


def test_codependent_joins_in_the_order_of_ending():
    script = Script(CodependentAction((RUN, RUN, TryAction(RUN))))
    script.hear(Spawned(1), Spawned(2), Spawned(4), Exited(2, 7), Exited(4, 143), Exited(1, 143))
    assert script.outcome == "APP: Exited with status 7; Codependent step exited"


def test_codependent_with_children_that_end_within_the_turn():
    script = Script(CodependentAction((RUN, DOWNLOAD, RUN)))
    said = script.hear(Spawned(1), Exited(1, 1))
    assert said[1:] == (CancelTransfer(2), SignalProcess(3, "KILL"), Finished("APP: Exited with status 1"))


def test_a_codependent_signalled_from_above():
    script = Script(CodependentAction((RUN, TryAction(RUN))))
    script.hear(Spawned(1), Spawned(3), Interrupt(), Exited(1, 143), Exited(3, 143))
    assert script.outcome == "Codependent step exited"


# -- download and upload ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "line"),
    [(0, "Downloaded app bits\n"), (1024, "Downloaded app bits (1K)\n"), (13_107_200, "Downloaded app bits (12.5M)\n")],
)
def test_a_download_tells_of_its_artifact(size, line):
    script = Script(DOWNLOAD)
    assert script.commands[0] == StartDownload(0, DOWNLOAD, "APP")
    script.hear(TransferStarted(0))
    assert script.lines == [("APP", "out", "Downloading app bits...\n")]
    script.hear(TransferEnded(0, size_bytes=size))
    assert script.lines == [("APP", "out", line)]
    assert script.outcome is None


def test_transfers_without_an_artifact_are_silent():
    for action in (UNNAMED_DOWNLOAD, UNNAMED_UPLOAD):
        script = Script(action)
        script.hear(TransferStarted(0), TransferEnded(0, size_bytes=5))
        assert script.lines == []
        assert script.outcome is None


@pytest.mark.parametrize(
    ("action", "fault", "line", "reason"),
    [
        (DOWNLOAD, TransferFault.FETCH, "Downloading app bits failed", "Downloading app bits failed"),
        (UNNAMED_DOWNLOAD, TransferFault.FETCH, "Downloading failed", "Downloading failed"),
        (
            DOWNLOAD,
            TransferFault.COPY,
            "Copying app bits into the container failed: ERR",
            "Copying app bits into the container failed: ERR",
        ),
        (
            UNNAMED_DOWNLOAD,
            TransferFault.COPY,
            "Copying into the container failed: ERR",
            "Copying into the container failed: ERR",
        ),
        (DOWNLOAD, TransferFault.REFUSED, None, "ERR"),
        (UPLOAD, TransferFault.REFUSED, None, "ERR"),
        (UPLOAD, TransferFault.URL, "Failed to parse URL for droplet", "ERR"),
        (UNNAMED_UPLOAD, TransferFault.URL, None, "ERR"),
        (
            UPLOAD,
            TransferFault.TEMP_DIR,
            "Failed to create temp dir for droplet",
            "Failed to create temp dir for droplet",
        ),
        (UNNAMED_UPLOAD, TransferFault.TEMP_DIR, None, "Failed to create temp dir"),
        (UNNAMED_UPLOAD, TransferFault.TEMP_FILE, None, "Failed to create temp file"),
        (UNNAMED_UPLOAD, TransferFault.SPOOL, None, "Failed to copy stream contents into temp file"),
        (
            UPLOAD,
            TransferFault.STREAM,
            "Failed to establish stream from container for droplet",
            "Failed to establish stream from container",
        ),
        (
            UPLOAD,
            TransferFault.FIRST_ITEM,
            "Failed to find first item in tar stream for droplet",
            "Failed to find first item in tar stream",
        ),
        (UPLOAD, TransferFault.ATTEMPTS, "Failed to upload payload for droplet", "ERR"),
        (UNNAMED_UPLOAD, TransferFault.ATTEMPTS, None, "ERR"),
    ],
)
def test_how_a_transfer_fails(action, fault, line, reason):
    script = Script(action)
    script.hear(TransferEnded(0, fault=fault, text="ERR"))
    assert script.lines == ([] if line is None else [("APP", "err", line + "\n")])
    assert script.outcome == reason


def test_a_long_copy_error_is_cut_in_the_log_only():
    script = Script(UNNAMED_DOWNLOAD)
    script.hear(TransferEnded(0, fault=TransferFault.COPY, text="é" * 2000))
    ((_, _, line),) = script.lines
    assert line.endswith("é (error truncated)\n")
    assert 1022 <= len(line.removesuffix("\n").encode()) <= 1024
    assert script.outcome == "Copying into the container failed: " + "é" * 2000


def test_an_upload_tells_of_its_artifact():
    script = Script(UPLOAD)
    assert script.commands[0] == StartUpload(0, UPLOAD, "APP")
    script.hear(TransferStarted(0))
    assert script.lines == [("APP", "out", "Uploading droplet...\n")]
    script.hear(TransferEnded(0, size_bytes=1536))
    assert script.lines == [("APP", "out", "Uploaded droplet (1.5K)\n")]


@pytest.mark.parametrize("action", [DOWNLOAD, UPLOAD])
def test_a_transfer_is_cancelled_at_once(action):
    script = Script(action)
    assert script.hear(Interrupt()) == (CancelTransfer(0), Finished("cancelled"))
    assert script.hear(TransferEnded(0, cancelled=True)) == ()


@pytest.mark.parametrize("action", [DOWNLOAD, UPLOAD])
def test_a_transfer_cancelled_by_its_driver(action):
    assert Script(action).hear(TransferEnded(0, cancelled=True)) == ended("cancelled")


# -- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (2_000_000, "2ms"),
        (1_000_001, "1.000001ms"),
        (1_000_000_000, "1s"),
        (1_500_000_000, "1.5s"),
        (60_000_000_000, "1m0s"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h0m0s"),
        (90_061_001_000_000, "25h1m1.001s"),
        (-2_000_000_000, "-2s"),
    ],
)
def test_durations(duration_ns, text):
    assert duration_text(duration_ns) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (512, "512B"), (1023, "1023B"), (1024, "1K"), (1536, "1.5K"), (1 << 20, "1M"), (1 << 70, "1024E")],
)
def test_sizes(size, text):
    assert size_text(size) == text


# -- the only process ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (RUN, RUN),
        (TimeoutAction(TryAction(SerialAction((EmitProgressAction(RUN),))), 5), RUN),
        (ParallelAction((RUN, SerialAction(()))), RUN),
        (SerialAction((RUN, RUN)), None),
        (SerialAction((DOWNLOAD, RUN)), None),
        (SerialAction((RUN, UPLOAD)), None),
        (DOWNLOAD, None),
        (SerialAction(()), None),
    ],
)
def test_sole_run(root, expected):
    assert sole_run(root) is expected


# -- trees as data ---------------------------------------------------------------------------------------------------


def test_data_of_another_tree_or_version_is_refused():
    data = to_data(Script(RUN).tree)
    with pytest.raises(ValueError, match="1 steps for a tree of 2"):
        from_data(data, TryAction(RUN), log_source="", log_guid="")
    with pytest.raises(ValueError, match="version 9"):
        from_data(data | {"version": 9}, RUN, log_source="", log_guid="")


# -- any tree, any driver --------------------------------------------------------------------------------------------


def trees():
    leaves = st.sampled_from([RUN, SILENT, DOWNLOAD, UPLOAD])

    def wrap(children):
        some = st.lists(children, min_size=1, max_size=3).map(tuple)
        return st.one_of(
            st.builds(TryAction, children),
            st.builds(TimeoutAction, children, st.integers(1, 10_000)),
            st.builds(EmitProgressAction, children, st.just("a"), st.just("b"), st.just("c")),
            st.builds(SerialAction, some),
            st.builds(ParallelAction, some),
            st.builds(CodependentAction, some),
        )

    return st.recursive(leaves, wrap, max_leaves=8)


class World:
    """Does what commands ask, and keeps the events that may come of it."""

    def __init__(self):
        self.open = {}
        self.timers = set()
        self.counts = Counter()
        self.interrupted = False

    def take(self, commands):
        for command in commands:
            self.counts[type(command)] += 1
            match command:
                case SpawnProcess(step):
                    assert not self.interrupted
                    self.counts["step", step] += 1
                    self.open[step] = "spawning"
                case StartDownload(step) | StartUpload(step):
                    assert not self.interrupted
                    self.counts["step", step] += 1
                    self.open[step] = "transfer"
                case CancelTransfer(step):
                    assert self.open.pop(step) == "transfer"
                case SignalProcess(step, signal):
                    assert step in self.open
                    if self.open[step] == "spawning":
                        assert signal == "KILL"
                        del self.open[step]
                case SetTimer(step, name):
                    assert (step, name) not in self.timers
                    self.timers.add((step, name))
                case ClearTimer(step, name):
                    self.timers.remove((step, name))

    def events(self):
        possible = []
        for step, what in self.open.items():
            if what == "spawning":
                possible += [Spawned(step), SpawnFailed(step, "no")]
            elif what == "running":
                possible += [Exited(step, 0), Exited(step, 1), Exited(step, 137, True), WaitFailed(step, "lost")]
            else:
                possible += [TransferStarted(step), TransferEnded(step, 3), TransferEnded(step, cancelled=True)]
                possible += [TransferEnded(step, fault=TransferFault.REFUSED, text="no")]
        return possible + [TimerFired(step, name) for step, name in sorted(self.timers, key=str)]

    def happen(self, event):
        match event:
            case Spawned(step):
                self.open[step] = "running"
            case SpawnFailed(step) | Exited(step) | WaitFailed(step) | TransferEnded(step):
                del self.open[step]
            case TimerFired(step, name):
                self.timers.remove((step, name))
                if name is TimerName.KILL:
                    self.open.pop(step)
            case Interrupt():
                self.interrupted = True


@given(trees(), st.data())
def test_any_tree_ends_whatever_its_driver_answers(root, data):
    world = World()
    tree, commands = begin(root, log_source="APP", log_guid="g")
    world.take(commands)
    turns = 0
    while not tree.finished:
        turns += 1
        possible = world.events()
        assert possible, "the tree waits for something that cannot happen"
        event = data.draw(st.sampled_from(possible if world.interrupted else [*possible, Interrupt()]))
        if isinstance(event, TransferStarted) and turns > 60:
            event = TransferEnded(event.step, 1)
        world.happen(event)
        carried = from_data(json.loads(json.dumps(to_data(tree))), root, log_source="APP", log_guid="g")
        assert carried == tree
        tree, commands = advance(tree, event, POLICY)
        world.take(commands)
    assert commands[-1] == Finished(commands[-1].error)
    assert world.counts[Finished] == 1
    assert world.counts[Ready] <= 1
    assert not world.timers, "a timer was left running"
    assert not world.open, "a process or transfer was left running"
    assert all(count == 1 for key, count in world.counts.items() if isinstance(key, tuple))
    for event in (Interrupt(), Spawned(0), Exited(0, 0), TimerFired(0, TimerName.KILL), TransferEnded(0)):
        assert advance(tree, event, POLICY) == (tree, ())
