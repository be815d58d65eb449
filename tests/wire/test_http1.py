"""URLs into requests: what is dialled, what is written, and that nothing of a URL becomes anything else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.core import callbacks
from bulletin.wire.http1 import Origin, Target, encode_request


@pytest.mark.parametrize(
    ("url", "origin", "path", "host"),
    [
        ("http://h", Origin(False, "h", 80), "/", "h"),
        ("HTTPS://H", Origin(True, "h", 443), "/", "h"),
        ("http://h:80/x", Origin(False, "h", 80), "/x", "h:80"),
        ("http://h:8080/a/b?c=d&e#f", Origin(False, "h", 8080), "/a/b?c=d&e", "h:8080"),
        ("http://[::1]/", Origin(False, "::1", 80), "/", "[::1]"),
        ("https://[fd00::A]:1/", Origin(True, "fd00::a", 1), "/", "[fd00::a]:1"),
        ("http://[fe80::1%25eth0]/", Origin(False, "fe80::1", 80), "/", "[fe80::1]"),
        ("http://exämple.org/", Origin(False, "xn--exmple-cua.org", 80), "/", "xn--exmple-cua.org"),
        ("http://a_b-c.d./", Origin(False, "a_b-c.d.", 80), "/", "a_b-c.d."),
        ("http://h?q", Origin(False, "h", 80), "/?q", "h"),
        ("http://h/a b/ü/%20?ü= x", Origin(False, "h", 80), "/a%20b/%C3%BC/%20?%C3%BC=%20x", "h"),
        ("http://h/a;b=c,d/$&+@:'()*!~", Origin(False, "h", 80), "/a;b=c,d/$&+@:'()*!~", "h"),
    ],
)
def test_a_url_is_taken_apart(url, origin, path, host):
    target = Target.parse(url)
    assert (target.origin, target.path) == (origin, path)
    assert target.headers == f"Host: {host}\r\nUser-Agent: bulletin-board\r\n"


@pytest.mark.parametrize(
    "url",
    [
        *("", "host", "/x", "ftp://h/", "http://", "http:///x", "http://[::1", "http://h:port/", "http://h:70000/"),
        *("http://a b/", "http://a\x00b/", "http://h\\x/", "http://ä..b/", "http://a%2fb/", f"http://{'a' * 254}/"),
        *("http://[v1.x]/", "http://[::1]x/", "http://x[::1]/", "http://[::1]:x/", "http://[1.2.3.4]/"),
    ],
    ids=repr,
)
def test_what_is_no_such_url_is_refused_without_repeating_it(url):
    with pytest.raises(ValueError, match="not |neither") as caught:
        Target.parse(url)
    assert caught.value.__cause__ is None
    assert url == "" or url not in str(caught.value)


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("u:p", b"u:p"),
        ("u", b"u:"),
        ("u:", b"u:"),
        (":p", b":p"),
        ("u%40x:p%3A%2F", b"u@x:p:/"),
        ("u:a:b@c", b"u:a:b@c"),
    ],
)
def test_user_and_password_are_sent_as_basic_credentials_and_not_in_the_path(userinfo, credentials):
    target = Target.parse(f"http://{userinfo}@h:1/x")
    assert target.origin == Origin(False, "h", 1)
    assert target.path == "/x"
    assert target.headers.startswith("Host: h:1\r\n")
    assert f"Authorization: Basic {base64.b64encode(credentials).decode()}\r\n" in target.headers


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:secret@h/secret?secret#secret", "http://h:80"),
        ("https://[::1]:8443/secret", "https://[::1]:8443"),
    ],
)
def test_an_origin_is_shown_without_secrets(url, shown):
    assert str(Target.parse(url).origin) == shown


def test_a_request_with_a_body():
    assert encode_request("POST", Target.parse("http://h:1/x?y"), b'{"a":1}') == (
        b"POST /x?y HTTP/1.1\r\nHost: h:1\r\nUser-Agent: bulletin-board\r\n"
        b'Content-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
    )


def test_a_request_without_one():
    assert encode_request("GET", Target.parse("http://h"), None) == (
        b"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: bulletin-board\r\n\r\n"
    )


def test_a_long_url_is_not_remembered_but_read():
    url = f"http://h/{'x' * 5000}"
    assert Target.parse(url).path == f"/{'x' * 5000}"


pieces = st.text(max_size=30) | st.sampled_from(
    ["\r\n", "\r\nX: y", " HTTP/1.1\r\n\r\n", "\n", "\x00", "%0d%0a", "@", "?"]
)
urls = st.builds("".join, st.lists(pieces, max_size=5)).map(lambda rest: f"http://{rest}") | st.builds(
    "http://h/{}".format, pieces
)


@given(urls)
def test_no_url_writes_more_than_one_request_of_known_headers(url):
    try:
        target = Target.parse(url)
    except ValueError:
        return
    encoded = encode_request("POST", target, b"{}")
    head, body = encoded.split(b"\r\n\r\n")
    assert body == b"{}"
    first, *lines = head.split(b"\r\n")
    method, path, version = first.split(b" ")
    assert (method, version, path[:1]) == (b"POST", b"HTTP/1.1", b"/")
    names = [line.split(b": ")[0] for line in lines if line.count(b": ") == 1]
    assert len(names) == len(lines)
    assert [name for name in names if name != b"Authorization"] == [
        b"Host",
        b"User-Agent",
        b"Content-Type",
        b"Content-Length",
    ]
    assert all(32 < byte < 127 for byte in path)


@given(urls)
def test_whatever_can_be_called_is_found_usable(url):
    """The rule of the core is the wider one, so that the driver never calls what the core refused."""
    usable = isinstance(callbacks.first_request(url), callbacks.Request)
    try:
        Target.parse(url)
    except ValueError:
        return
    assert usable or any(character < " " or character == "\x7f" for character in url) or "%" in url or ":0" in url
