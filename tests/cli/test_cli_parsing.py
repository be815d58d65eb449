"""``bulletin.cli.parsing``: tables of what people type, and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.cell.images.references import parse_reference, parse_rootfs
from bulletin.cli.parsing import parse_duration_ms, parse_image, parse_size_mb, parse_variable

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("256", 256),
        ("1024", 1024),
        ("512M", 512),
        ("512m", 512),
        ("512MB", 512),
        ("512MiB", 512),
        ("1G", 1024),
        ("1.5G", 1536),
        ("0.5g", 512),
        ("2T", 2 * 1024 * 1024),
        ("2048K", 2),
        ("1 G", 1024),
        (" 7 ", 7),
        ("2147483647", 2147483647),
    ],
)
def test_sizes(text, size):
    assert parse_size_mb(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "+1", "1X", "1MM", "1.G", ".5G", "1,5G", "1e3", "\uff10", "512 M B", "1iB", "0x10"]
)
def test_no_sizes(text):
    with pytest.raises(ValueError, match="is not a size; write for example 512M"):
        parse_size_mb(text)


@pytest.mark.parametrize(("text", "words"), [("1.3M", "not a whole number"), ("1K", "not a whole"), ("2T", None)])
def test_sizes_are_whole(text, words):
    if words is None:
        parse_size_mb(text)
        return
    with pytest.raises(ValueError, match=words):
        parse_size_mb(text)


@pytest.mark.parametrize("text", ["2147483648", "2048T", "999999999999T"])
def test_sizes_fit_the_wire(text):
    with pytest.raises(ValueError, match="more than"):
        parse_size_mb(text)


@given(st.integers(0, 2**31 - 1))
def test_every_number_of_mb_is_itself(size):
    assert parse_size_mb(str(size)) == parse_size_mb(f"{size}M") == size


@given(st.integers(0, 2**21 - 1))
def test_a_giga_is_a_thousand_and_twenty_four(size):
    assert parse_size_mb(f"{size}G") == size * 1024


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("10", 10_000),
        ("1.5", 1_500),
        ("500ms", 500),
        ("2s", 2_000),
        ("1m30s", 90_000),
        ("1h", 3_600_000),
        ("1d", 86_400_000),
        ("0.5m", 30_000),
        ("1h0m0s", 3_600_000),
        (" 3s ", 3_000),
    ],
)
def test_durations(text, milliseconds):
    assert parse_duration_ms(text) == milliseconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s", "1x", "1s!", "abc", "1sm", "inf"])
def test_no_durations(text):
    with pytest.raises(ValueError, match="is not a length of time"):
        parse_duration_ms(text)


@pytest.mark.parametrize("text", ["0", "0s", "0ms", "0.5ms"])
def test_a_duration_is_not_nothing(text):
    with pytest.raises(ValueError, match="at least 1ms"):
        parse_duration_ms(text)


def test_a_duration_fits_the_wire():
    with pytest.raises(ValueError, match="too long"):
        parse_duration_ms("999999999999d")


@given(st.integers(1, 10**9))
def test_milliseconds_are_themselves(milliseconds):
    assert parse_duration_ms(f"{milliseconds}ms") == milliseconds


@pytest.mark.parametrize(
    ("text", "variable"), [("A=1", ("A", "1")), ("A=", ("A", "")), ("A=b=c", ("A", "b=c")), ("A= x ", ("A", " x "))]
)
def test_variables(text, variable):
    assert parse_variable(text) == variable


@pytest.mark.parametrize("text", ["", "A", "=x", "=", "sekret"])
def test_no_variables_and_no_secret_repeated(text):
    with pytest.raises(ValueError, match="NAME=VALUE") as refused:
        parse_variable(text)
    assert not text or text == "=" or text not in str(refused.value) or text == "A"


def test_a_variable_without_zero_bytes():
    with pytest.raises(ValueError, match="'A' holds a zero byte") as refused:
        parse_variable("A=sekret\0")
    assert "sekret" not in str(refused.value)


@given(st.text(st.characters(exclude_characters="=\0"), min_size=1), st.text(st.characters(exclude_characters="\0")))
def test_every_variable_comes_back(name, value):
    assert parse_variable(f"{name}={value}") == (name, value)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("busybox", "docker:///busybox"),
        ("busybox:1.36", "docker:///busybox#1.36"),
        ("team/app", "docker:///team/app"),
        ("team/app:v1", "docker:///team/app#v1"),
        ("host:5000/x:tag", "docker://host:5000/x#tag"),
        ("host:5000/x", "docker://host:5000/x"),
        ("example.com/team/app:v1", "docker://example.com/team/app#v1"),
        ("localhost/x", "docker://localhost/x"),
        ("[::1]:5000/x:t", "docker://[::1]:5000/x#t"),
        (f"busybox@{DIGEST}", f"docker:///busybox@{DIGEST}"),
        (f"host:5000/x@{DIGEST}", f"docker://host:5000/x@{DIGEST}"),
        ("docker:///busybox", "docker:///busybox"),
        ("docker://h:1/x#t", "docker://h:1/x#t"),
        ("preloaded:cflinuxfs4", "preloaded:cflinuxfs4"),
        ("preloaded+layer:x?layer=y", "preloaded+layer:x?layer=y"),
        ("some://thing", "some://thing"),
    ],
)
def test_images(text, url):
    assert parse_image(text) == url


@pytest.mark.parametrize("text", ["", "BusyBox", "a b", "x:", ":x", "-x", "x@sha256:1", f"x:t@{DIGEST}", "a//b"])
def test_no_images(text):
    with pytest.raises(ValueError, match="write for example busybox"):
        parse_image(text)


COMPONENT = st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,8})?", fullmatch=True)
HOST = st.sampled_from(["", "localhost/", "localhost:5000/", "example.com/", "r.example.com:443/", "[::1]:80/"])
TAG = st.one_of(st.just(""), st.from_regex(r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}", fullmatch=True), st.just("@" + DIGEST))


@given(HOST, st.lists(COMPONENT, min_size=1, max_size=3), TAG)
def test_the_url_means_what_was_typed(host, components, tag):
    text = host + "/".join(components) + tag
    assert parse_rootfs(parse_image(text)) == parse_reference(text)


def test_a_length_of_time_may_be_nothing_where_that_is_asked_for() -> None:
    assert parse_duration_ms("0s", ms_min=0) == 0
    assert parse_duration_ms("5ms", ms_min=5) == 5
    with pytest.raises(ValueError, match="at least 5ms"):
        parse_duration_ms("4ms", ms_min=5)
