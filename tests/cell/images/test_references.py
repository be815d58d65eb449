from __future__ import annotations

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bulletin.cell.images.references import (
    DockerReference,
    PreloadedReference,
    ReferenceInvalid,
    parse_image_name,
    parse_reference,
    parse_rootfs,
)

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("docker:///busybox", "docker.io/library/busybox:latest"),
        ("docker:///busybox#1.36", "docker.io/library/busybox:1.36"),
        ("docker:///busybox:1.36", "docker.io/library/busybox:1.36"),
        ("docker://busybox", "docker.io/library/busybox:latest"),
        ("docker:///cloudfoundry/grace", "docker.io/cloudfoundry/grace:latest"),
        ("docker://cloudfoundry/grace", "docker.io/cloudfoundry/grace:latest"),
        ("docker:///a/b/c#x", "docker.io/a/b/c:x"),
        ("docker://docker.io/busybox", "docker.io/library/busybox:latest"),
        ("docker://index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("docker://docker.io/library/busybox#1", "docker.io/library/busybox:1"),
        ("docker://quay.io/team/app#v1.2_3-rc", "quay.io/team/app:v1.2_3-rc"),
        ("docker://quay.io/app", "quay.io/app:latest"),
        ("docker://localhost/app", "localhost/app:latest"),
        ("docker://localhost:5000/app#2", "localhost:5000/app:2"),
        ("docker://127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
        ("docker://[::1]:5000/app", "[::1]:5000/app:latest"),
        ("docker://host:5000/app", "host:5000/app:latest"),
        ("docker://Registry.Example.COM/app", "Registry.Example.COM/app:latest"),
        (f"docker:///busybox@sha256:{HEX}", f"docker.io/library/busybox@sha256:{HEX}"),
        (f"docker://quay.io/a/b@sha512:{HEX}{HEX}", f"quay.io/a/b@sha512:{HEX}{HEX}"),
        ("docker:///a__b/c.d/e---f", "docker.io/a__b/c.d/e---f:latest"),
        ("DOCKER:///busybox", "docker.io/library/busybox:latest"),
        # A host without a path is the image of that name, a port its tag: so the docker command line reads it.
        ("docker://busybox:5000", "docker.io/library/busybox:5000"),
    ],
)
def test_docker_urls_are_normalised_as_the_docker_command_line_does(url: str, name: str) -> None:
    reference = parse_rootfs(url)
    assert isinstance(reference, DockerReference)
    assert reference.name == name
    assert bool(reference.tag) != bool(reference.digest)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "no root file system was named"),
        ("busybox", "has no scheme"),
        ("/some/path", "has no scheme"),
        ("http://example.com/x", "root file system scheme 'http' is not known here"),
        ("preloaded+layer:cflinuxfs4?layer=x", "root file system scheme 'preloaded+layer' is not known here"),
        ("preloaded:", "preloaded: names no stack"),
        ("docker:busybox", "docker:// is expected"),
        ("docker:/busybox", "docker:// is expected"),
        ("docker://", "the image reference is empty"),
        ("docker:///", "the image reference is empty"),
        ("docker:////busybox", "invalid reference format"),
        ("docker:///busybox#", "invalid reference format"),
        ("docker:///busybox#a#b", "invalid reference format"),
        ("docker:///busybox#a b", "invalid reference format"),
        ("docker:///busybox#-a", "invalid reference format"),
        ("docker:///busybox#" + "a" * 129, "invalid reference format"),
        ("docker:///busybox?x=y", "invalid reference format"),
        ("docker:///a//b", "invalid reference format"),
        ("docker:///a/../b", "invalid reference format"),
        ("docker:///-a", "invalid reference format"),
        ("docker:///a.", "invalid reference format"),
        ("docker:///a...b", "invalid reference format"),
        ("docker:///busyböx", "invalid reference format"),
        ("docker:///busybox\n", "invalid reference format"),
        ("docker:///b%75sybox", "invalid reference format"),
        ("docker:///Busybox", "repository name must be lowercase"),
        ("docker://Foo/bar", "repository name must be lowercase"),
        ("docker://quay.io/Team/app", "repository name must be lowercase"),
        ("docker:///" + HEX, "64 hexadecimal digits"),
        ("docker://quay.io/" + "a/" * 124 + "abc", "must not be more than 255 characters"),
        ("docker:///" + "a" * 2000, "too long"),
        (
            f"docker:///busybox:1@sha256:{HEX}",
            "Docker references with both a tag and digest are currently not supported",
        ),
        (
            f"docker:///busybox#1@sha256:{HEX}",
            "Docker references with both a tag and digest are currently not supported",
        ),
        ("docker:///busybox@sha256:abc", "invalid reference format"),
        (f"docker:///busybox@sha256:{HEX[:-1]}", "sha256 takes 64 digits"),
        (f"docker:///busybox@sha256:{HEX.upper()}", "sha256 takes 64 digits"),
        (f"docker:///busybox@md5:{HEX[:32]}", "unsupported digest algorithm"),
        (f"docker://busybox@sha256:{HEX}", "a digest stands behind a path"),
    ],
)
def test_what_names_no_image_is_refused_with_the_reason(url: str, text: str) -> None:
    with pytest.raises(ReferenceInvalid) as refused:
        parse_rootfs(url)
    assert text in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    for url in ("docker://bob:hunter2@quay.io/app", "docker://bob:hunter2@quay.io"):
        with pytest.raises(ReferenceInvalid) as refused:
            parse_rootfs(url)
        assert "hunter2" not in str(refused.value)


def test_preloaded_names_a_stack() -> None:
    assert parse_rootfs("preloaded:cflinuxfs4") == PreloadedReference("cflinuxfs4")


def test_the_longest_name_passes() -> None:
    path = "a/" * 122 + "abc"
    reference = parse_reference(f"quay.io/{path}")
    assert len(reference.repository) == 255


def test_an_image_is_given_a_name_but_no_digest() -> None:
    assert parse_image_name("busybox") == parse_image_name("docker:///busybox")
    with pytest.raises(ReferenceInvalid, match="digest follows"):
        parse_image_name(f"busybox@sha256:{HEX}")


@pytest.mark.parametrize(
    ("domain", "on_loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.9.9.9:80", True),
        ("[::1]", True),
        ("[::1]:5000", True),
        ("docker.io", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com:5000", False),
        ("10.0.0.1:5000", False),
        ("[::2]:5000", False),
    ],
)
def test_loopback_is_known_by_its_name_alone(domain: str, on_loopback: bool) -> None:
    assert parse_reference(f"{domain}/app").on_loopback is on_loopback


labels = st.from_regex(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?", fullmatch=True)
domains = st.builds(
    lambda labels, port: ".".join(labels) + port,
    st.lists(labels, min_size=2, max_size=4),
    st.sampled_from(["", ":80", ":5000"]),
)
components = st.from_regex(r"[a-z0-9]{1,5}(?:(?:[._]|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
paths = st.lists(components, min_size=1, max_size=4).map("/".join)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
digests = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)


@given(domains, paths, tags)
def test_a_full_reference_is_what_it_says(domain: str, path: str, tag: str) -> None:
    if domain in ("docker.io", "index.docker.io"):
        return
    expected = DockerReference(domain, path, tag)
    assert parse_rootfs(f"docker://{domain}/{path}#{tag}") == expected
    assert parse_rootfs(f"docker://{domain}/{path}:{tag}") == expected
    assert parse_reference(expected.name) == expected


@given(domains, paths, digests)
def test_a_digest_is_kept_and_excludes_a_tag(domain: str, path: str, digest: str) -> None:
    reference = parse_rootfs(f"docker://{domain}/{path}@{digest}")
    assert isinstance(reference, DockerReference)
    assert (reference.tag, reference.digest) == ("", digest)
    with pytest.raises(ReferenceInvalid, match="both a tag and digest"):
        parse_rootfs(f"docker://{domain}/{path}#tag@{digest}")


@given(paths)
def test_no_host_means_the_default_registry(path: str) -> None:
    first, slash, _ = path.partition("/")
    assume(len(path) != 64)
    assume(not slash or (first != "localhost" and "." not in first))
    reference = parse_rootfs(f"docker:///{path}")
    assert isinstance(reference, DockerReference)
    assert reference.domain == "docker.io"
    assert reference.path == (path if slash else f"library/{path}")


@given(st.text(string.printable + "ö\u202e\0", max_size=60), st.sampled_from(["", "docker://", "docker:///", "x:"]))
def test_any_text_is_a_reference_or_a_reason(text: str, start: str) -> None:
    said = ""
    reference: object = None
    try:
        reference = parse_rootfs(start + text)
    except ReferenceInvalid as refused:
        said = str(refused)
    assert said.isprintable()
    assert bool(said) == (reference is None)
    if isinstance(reference, DockerReference):
        assert parse_reference(reference.name) == reference
        assert reference.name.isascii()
        assert reference.name.isprintable()
        assert not set(reference.name) & set(" ?#%&;'\"\\$`")
        assert not reference.name.startswith("-")
