"""What an attempt at a completion callback leads to, row by row against board-api.md section 8."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.core.callbacks import (
    Again,
    Answered,
    ConnectionClosed,
    Delivered,
    Failure,
    Leave,
    Policy,
    Request,
    TimedOut,
    Unreachable,
    decide,
    first_request,
    is_expired,
    may_start,
    problem,
    redirect,
)

SECOND = 1_000_000_000
COMPLETED = 7_000 * SECOND
POLICY = Policy()
POST = Request("POST", "http://h:8080/a/b?q=1", with_body=True)
GET = Request("GET", "http://h:8080/a/b?q=1", with_body=False)

RETRIED = [Answered(503), Answered(504), TimedOut(), ConnectionClosed()]
any_outcome = st.one_of(
    st.builds(Answered, st.integers(100, 599)),
    st.just(TimedOut()),
    st.just(ConnectionClosed()),
    st.builds(Unreachable, st.sampled_from(Failure)),
)


def decided(attempt, outcome, policy=POLICY, *, after_seconds=0.0, jitter=0.0):
    now = COMPLETED + round(after_seconds * SECOND)
    return decide(attempt, outcome, policy, now=now, first_completed_at=COMPLETED, jitter=jitter)


# -- statuses and failures ---------------------------------------------------------------------------------------


def test_any_status_but_two_counts_as_told():
    every = set(range(100, 600))
    told = {status for status in every if decided(1, Answered(status)) == Delivered()}
    assert told == every - {503, 504}
    assert {status for status in every if decided(3, Answered(status), after_seconds=1_000) == Delivered()} == told


@pytest.mark.parametrize("outcome", RETRIED, ids=str)
def test_three_attempts_in_total_with_growing_pauses(outcome):
    assert decided(1, outcome) == Again(0.5)
    assert decided(2, outcome) == Again(1.0)
    assert isinstance(decided(3, outcome), Leave)
    assert isinstance(decided(4, outcome), Leave)


@pytest.mark.parametrize("kind", Failure)
def test_what_cannot_be_reached_is_left_at_once(kind):
    assert decided(1, Unreachable(kind)) == Leave(kind.value)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Answered(503), "status 503 at attempt 3, the last"),
        (Answered(504), "status 504 at attempt 3, the last"),
        (TimedOut(), "no answer in time at attempt 3, the last"),
        (ConnectionClosed(), "connection closed at attempt 3, the last"),
    ],
)
def test_the_reason_of_leaving_tells_what_happened(outcome, reason):
    assert decided(3, outcome) == Leave(reason)


def test_failures_are_told_apart():
    assert len({kind.value for kind in Failure}) == len(Failure) == 11


@pytest.mark.parametrize("kind", Failure)
def test_a_failure_is_told_in_its_own_words(kind):
    assert problem(Unreachable(kind)) == kind.value


def test_what_counts_as_told_is_no_problem():
    assert {problem(Answered(status)) for status in set(range(100, 600)) - {503, 504}} == {""}
    assert [problem(each) for each in RETRIED] == [
        "status 503",
        "status 504",
        "no answer in time",
        "connection closed",
    ]


# -- shares of the workers ---------------------------------------------------------------------------------------


def fill(workers: int, silent: int) -> tuple[list[int], int]:
    """So many origins that never answer take all they may; what each has, and what is left."""
    held = [0] * silent
    progress = True
    while progress:
        progress = False
        for origin in range(silent):
            free = workers - sum(held)
            if may_start(held[origin], free):
                held[origin] += 1
                progress = True
    return held, workers - sum(held)


@pytest.mark.parametrize(("silent", "left"), [(0, 1000), (1, 800), (2, 666), (4, 500), (12, 250), (96, 40)])
def test_origins_that_never_answer_leave_workers_to_the_others(silent, left):
    held, free = fill(1000, silent)
    assert abs(free - left) <= silent
    assert max(held, default=0) - min(held, default=0) <= 1


@given(st.integers(1, 2000), st.integers(0, 60))
def test_while_there_are_more_workers_than_origins_one_is_left(workers, silent):
    _, free = fill(workers, silent)
    assert free >= min(1, max(0, workers - silent))


def test_the_first_of_an_origin_needs_a_free_worker_and_no_more():
    assert may_start(0, 1)
    assert not may_start(0, 0)
    assert not may_start(1, 4)
    assert may_start(1, 5)


# -- pauses and expiry -------------------------------------------------------------------------------------------


def test_pauses_grow_to_their_longest():
    policy = Policy(attempts_max=10_000)
    pauses = [decided(attempt, TimedOut(), policy).after_seconds for attempt in (1, 2, 3, 4, 5, 6, 500, 9_999)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0]


def test_chance_shortens_a_pause_by_up_to_a_quarter():
    assert decided(2, TimedOut(), jitter=0.5) == Again(0.875)
    assert decided(2, TimedOut(), Policy(jitter_fraction=0), jitter=0.5) == Again(1.0)
    assert decided(2, TimedOut(), Policy(jitter_fraction=1), jitter=0.5) == Again(0.5)


def test_no_attempt_is_promised_past_the_expiry():
    assert decided(1, TimedOut(), after_seconds=119.5) == Again(0.5)
    assert decided(1, TimedOut(), after_seconds=119.5 + 1e-9) == Leave(
        "no answer in time at attempt 1, expired before another"
    )
    assert decided(1, TimedOut(), Policy(callback_expiry_seconds=121), after_seconds=120) == Again(0.5)
    assert isinstance(decided(1, TimedOut(), Policy(callback_expiry_seconds=0)), Leave)


def test_expired():
    assert not is_expired(COMPLETED, COMPLETED + 120 * SECOND, POLICY)
    assert is_expired(COMPLETED, COMPLETED + 120 * SECOND + 1, POLICY)
    assert not is_expired(COMPLETED, COMPLETED + 121 * SECOND, Policy(callback_expiry_seconds=121))


@given(
    st.integers(1, 300),
    any_outcome,
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 200),
    st.floats(1, 10),
    st.floats(0, 100),
    st.floats(0, 1),
)
def test_every_outcome_is_decided_and_every_pause_bounded(attempt, outcome, jitter, first, factor, longest, fraction):
    policy = Policy(200, first, factor, longest, fraction)
    match decided(attempt, outcome, policy, jitter=jitter):
        case Delivered():
            assert isinstance(outcome, Answered)
            assert outcome.status not in (503, 504)
        case Again(after_seconds):
            assert attempt < 200
            assert outcome in RETRIED
            assert 0 <= after_seconds <= longest
            assert after_seconds <= 120
        case Leave(reason):
            assert reason


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_with_any_chance_the_second_pause_is_longer(first, second):
    assert decided(1, TimedOut(), jitter=first).after_seconds < decided(2, TimedOut(), jitter=second).after_seconds


@pytest.mark.parametrize(
    "fields",
    [
        {"attempts_max": 0},
        {"delay_first_seconds": -0.1},
        {"delay_first_seconds": float("nan")},
        {"delay_first_seconds": float("inf")},
        {"delay_factor": 0.9},
        {"delay_factor": 10.1},
        {"delay_max_seconds": -1},
        {"delay_max_seconds": float("inf")},
        {"jitter_fraction": -0.1},
        {"jitter_fraction": 1.1},
        {"callback_expiry_seconds": -1},
        {"callback_expiry_seconds": float("inf")},
    ],
    ids=str,
)
def test_a_policy_out_of_range_is_refused(fields):
    with pytest.raises(ValueError, match="out of range"):
        Policy(**fields)


def test_the_ends_of_the_ranges_are_in_them():
    assert decided(1, TimedOut(), Policy(1)) == Leave("no answer in time at attempt 1, the last")
    assert decided(3, TimedOut(), Policy(4, 0.5, 10, 100)) == Again(50)
    assert decided(3, TimedOut(), Policy(4, 0.5, 1, 100)) == Again(0.5)


def test_defaults():
    assert Policy() == Policy(3, 0.5, 2.0, 5.0, 0.25, 120.0)


@pytest.mark.parametrize(("attempt", "jitter"), [(0, 0.0), (1, -0.1), (1, 1.0)])
def test_arguments_out_of_range_are_a_defect(attempt, jitter):
    with pytest.raises(AssertionError):
        decided(attempt, TimedOut(), jitter=jitter)


# -- requests and redirects --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://h", "http://h:8080/x?y#z", "HTTPS://user:pw@h/", "http://[::1]:80/x", "http://h/ä b"]
)
def test_an_attempt_begins_with_a_post(url):
    assert first_request(url) == Request("POST", url, with_body=True)


UNUSABLE = [
    "",
    "h/x",
    "/x",
    "ftp://h/x",
    "mailto:h@x",
    "http:",
    "http:///x",
    "http://",
    "http://:80/x",
    "http://[::1/x",
    "http://h:port/x",
    "http://h:65536/x",
    "http://h:0/x",
    "http://h/a\nb",
    "http://h/a\x7fb",
    "\thttp://h/",
    "http://h/%zz",
    "http://h/%2",
    " http://h/",
]


@pytest.mark.parametrize("url", UNUSABLE, ids=repr)
def test_an_unusable_url_is_not_tried(url):
    assert first_request(url) == Unreachable(Failure.BAD_URL)


@pytest.mark.parametrize("status", [301, 302, 303])
@pytest.mark.parametrize("request_", [POST, GET], ids=["post", "get"])
def test_these_redirects_become_a_get_without_the_body(status, request_):
    assert redirect(request_, status, "http://other/x", 0) == Request("GET", "http://other/x", with_body=False)


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("request_", [POST, GET], ids=["post", "get"])
def test_these_redirects_repeat_the_request(status, request_):
    assert redirect(request_, status, "http://other/x", 0) == Request(
        request_.method, "http://other/x", request_.with_body
    )


def test_no_other_status_redirects():
    redirecting = {status for status in range(100, 600) if redirect(POST, status, "http://other/x", 0) is not None}
    assert redirecting == {301, 302, 303, 307, 308}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", [None, ""])
def test_a_redirect_that_leads_nowhere_is_final(status, location):
    assert redirect(POST, status, location, 0) is None
    assert decided(1, Answered(status)) == Delivered()


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/x", "http://h:8080/x"),
        ("x", "http://h:8080/a/x"),
        ("../x", "http://h:8080/x"),
        ("?q=2", "http://h:8080/a/b?q=2"),
        ("//other:1/x", "http://other:1/x"),
        ("https://other/x", "https://other/x"),
        ("HTTP://other/x", "http://other/x"),
    ],
)
def test_a_location_is_resolved_against_the_request(location, url):
    assert redirect(POST, 307, location, 0) == Request("POST", url, with_body=True)


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize(
    "location",
    [
        "http:foo",
        "HTTP:/next",
        "http:///x",
        "http://",
        "/%zz",
        "ftp://h/x",
        "mailto:h@x",
        "http://[::1/x",
        "//[x",
        "http://h:port/",
        "/a\nb",
        "javascript:x",
    ],
    ids=repr,
)
def test_a_location_that_cannot_be_followed_ends_the_attempt(status, location):
    assert redirect(POST, status, location, 0) == Unreachable(Failure.BAD_URL)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/x", "http://u:p@h:8080/x"),
        ("x", "http://u:p@h:8080/a/x"),
        ("http://h:8080/x", "http://u:p@h:8080/x"),
        ("http://H:9/x", "http://u:p@H:9/x"),
        ("https://h/x", "https://u:p@h/x"),
        ("http://v@h/x", "http://v@h/x"),
        ("http://other/x", "http://other/x"),
        ("http://h.other/x", "http://h.other/x"),
        ("//other/x", "http://other/x"),
    ],
)
def test_credentials_go_along_to_the_same_host_only(location, url):
    request = Request("POST", "http://u:p@h:8080/a/b", with_body=True)
    assert redirect(request, 307, location, 0) == Request("POST", url, with_body=True)


def test_credentials_are_not_sent_in_clear_after_tls():
    request = Request("POST", "https://u:p@h/a", with_body=True)
    assert redirect(request, 307, "http://h/b", 0) == Request("POST", "http://h/b", with_body=True)


@pytest.mark.parametrize("status", [302, 307])
def test_an_attempt_makes_at_most_ten_requests(status):
    request, requests = POST, 1
    while isinstance(request, Request):
        last = request
        request = redirect(request, status, f"/{requests}", requests - 1)
        requests += isinstance(request, Request)
    assert (last.url, requests) == ("http://h:8080/9", 10)
    assert request == Unreachable(Failure.TOO_MANY_REDIRECTS)
    # An answer that redirects nowhere is an answer, however many came before.
    assert redirect(POST, status, None, 9) is None
    assert redirect(POST, 200, "/x", 9) is None


@given(st.integers(100, 599), st.text(max_size=40) | st.none(), st.integers(0, 12))
def test_any_answer_leads_to_a_request_that_can_be_sent_or_to_an_end(status, location, followed):
    match redirect(POST, status, location, followed):
        case Request(method, url, with_body):
            assert (method, with_body) in {("GET", False), ("POST", True)}
            assert first_request(url) == Request("POST", url, with_body=True)
        case Unreachable(kind):
            assert kind in {Failure.BAD_URL, Failure.TOO_MANY_REDIRECTS}
        case rest:
            assert rest is None
