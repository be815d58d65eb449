from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.cell.images.fetching import Credentials, explain_failure, last_words, skopeo_copy
from bulletin.cell.images.repository import Workspace
from bulletin.cell.images.settings import ImageSettings

NAME = "docker.io/library/foo:latest"


@pytest.mark.parametrize(
    ("words", "text", "transient"),
    [
        (
            "initializing source docker://foo:x: reading manifest x in docker.io/library/foo: manifest unknown: x",
            "not found",
            False,
        ),
        ("reading manifest x in host/x: name unknown: repository name not known to registry", "not found", False),
        (
            "determining manifest MIME type for docker://x: received unexpected HTTP status: 404 Not Found",
            "not found",
            False,
        ),
        ("reading manifest latest in host/x: unauthorized: authentication required", "unauthorized", False),
        (
            "reading manifest latest in docker.io/library/foo: denied: requested access to the resource is denied",
            "unauthorized",
            False,
        ),
        ("received unexpected HTTP status: 403 Forbidden", "unauthorized", False),
        (
            "reading manifest latest in h/foo: toomanyrequests: You have reached your pull rate limit.",
            "the registry allows no more pulls for now",
            True,
        ),
        (
            'pinging container registry h:1: Get "https://h:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused',
            "the registry cannot be reached",
            True,
        ),
        (
            'pinging container registry h: Get "https://h/v2/": dial tcp: lookup h on 10.0.0.1:53: no such host',
            "the registry cannot be reached",
            True,
        ),
        ('Get "https://h/v2/": dial tcp 10.0.0.9:443: i/o timeout', "the registry cannot be reached", True),
        ('Get "https://h/v2/": net/http: TLS handshake timeout', "the registry cannot be reached", True),
        (
            "writing blob: storing blob to file: happened during read: unexpected EOF",
            "the registry cannot be reached",
            True,
        ),
        (
            'Get "https://h/v2/": http: server gave HTTP response to HTTPS client',
            "the registry speaks plain HTTP, which is not allowed for it",
            False,
        ),
        (
            'Get "https://h/v2/": x509: certificate signed by unknown authority',
            "the registry's certificate is not trusted",
            False,
        ),
        (
            "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: x",
            "the registry's certificate is not trusted",
            False,
        ),
        ("received unexpected HTTP status: 500 Internal Server Error", "the registry failed", True),
        ("received unexpected HTTP status: 503 Service Unavailable", "the registry failed", True),
        (
            "writing blob: happened during read: Digest did not match, expected sha256:1, got sha256:2",
            "it arrived damaged",
            True,
        ),
        ("writing blob: write /x/y: no space left on device", "no space left on this machine", False),
        (
            "Source image rejected: Running image docker://foo:latest is rejected by policy.",
            "refused by the trust policy of this machine",
            False,
        ),
        (
            'choosing image instance: no image found in manifest list for architecture amd64, variant "", OS linux',
            "it is not made for this kind of machine",
            False,
        ),
        ("something new", "something new", False),
        ("", "skopeo failed without a word", False),
    ],
)
def test_failures_become_one_short_sentence(words: str, text: str, transient: bool) -> None:
    failure = explain_failure(NAME, words)
    assert str(failure) == f"{NAME}: {text}"
    assert failure.transient is transient


@pytest.mark.parametrize("path", ["unauthorized", "404", "manifest-unknown", "denied/eof", "x509"])
def test_the_name_of_an_image_is_not_taken_for_the_cause(path: str) -> None:
    words = f"initializing source docker://h/{path}:v1: reading manifest v1 in h/{path}: something: else"
    assert str(explain_failure(f"h/{path}:v1", words)) == f"h/{path}:v1: {words}"


def test_signed_addresses_are_not_repeated() -> None:
    words = 'Get "https://bucket.example.com/blob?X-Amz-Signature=abc&X-Amz-Credential=def": what: is this'
    assert "abc" not in str(explain_failure(NAME, words))


@given(st.text(max_size=2000))
def test_any_words_make_a_bounded_sentence(words: str) -> None:
    text = str(explain_failure(NAME, last_words(words.encode("utf-8", errors="replace"))))
    assert text.startswith(f"{NAME}: ")
    assert len(text) < 400
    assert text.isprintable()


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        (b"", ""),
        (b'time="x" level=fatal msg="a \\"b\\": c"\n', 'a "b": c'),
        (b'time="x" level=warning msg="w"\ntime="x" level=fatal msg="f"\n', "f"),
        (b"time=x level=fatal msg=short\n", "short"),
        ("   • unpacking rootfs ...\n   \u2a2f create rootfs: broken\n".encode(), "create rootfs: broken"),
        (b"one\ntwo\x1b[31m\x07\n", "two [31m"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_last_words(stderr: bytes, words: str) -> None:
    assert last_words(stderr) == words


def test_credentials_do_not_show_themselves() -> None:
    assert "hidden" not in repr(Credentials("bob", "hidden"))


def test_the_operators_trust_policy_counts(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, -1)
    policy = tmp_path / "policy.json"
    command = skopeo_copy("docker://x", tmp_path, workspace, ImageSettings(policy=policy))
    assert command[1:3] == ("--policy", str(policy))
    assert "--insecure-policy" not in command
