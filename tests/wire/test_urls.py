from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.wire.urls import has_scheme_and_parses, scheme_of

#: The samples of board-api.md 5.5, then others that Go 1.26 was asked about.
VALID = [
    "preloaded:x",
    "docker:///x/y#z",
    "a+b.c-d:e",
    "a:b?%zz",
    "docker://user@h/x",
    "x:%zz",
    "x:",
    "docker://h:80:90/x",
    "docker:///busybox@sha256:0123",
    "docker://registry.example:5000/a/b#1.0",
    "preloaded+layer:cflinuxfs4?layer=https://h/x.tgz&layer_path=/tmp&layer_digest=d",
    "A:b",
    "a:#",
    "a:?",
    "a:b#%41?#",
    "a://",
    "a:///",
    "a://h:/x",
    "a://h?x y",
    "a://h%c3%a9/x",
    "a://h\u00e9/\u00e9",
    "a://h%25x/",
    "a://u:p@@h/",
    "a://u%41:p%42@h/",
    "a://[::1]",
    "a://[::1]:80/x",
    "a://[::ffff:1.2.3.4]/",
    "a://[::1%25en0]/x",
    "a://[::1%25%20]/x",
    "a://[::1%25a%25b]/x",
    "a://]x/",
    "a:/%41 b",
    "a://h/a b\\c{}|^",
    "a://\"<>!$&'()*+,;=/",
]
INVALID = [
    "",
    "ploop",
    "1a:b",
    "a b:c",
    "a_b:c",
    "/a:b",
    "://",
    "docker://foo bar/x",
    "docker://x/%zz",
    "docker://h:port/x",
    "docker://h%41/x",
    "a:b#%zz",
    "a://[::1/x",
    "*",
    "\u00e9:x",
    "a\n:b",
    "a:b\n",
    "a:\x00",
    "a:\x7f",
    "a:b#\x01",
    "a://h\\x/",
    "a://h{/",
    "a://h|/",
    "a://h^/",
    "a://h`/",
    "a://h%/x",
    "a://h%4/x",
    "a://u\u00e9@h/",
    "a://u %41@h/",
    "a://u%zz@h/",
    "a://x[::1]/",
    "a://x[1]/",
    "a://[foo]/",
    "a://[1.2.3.4]/",
    "a://[::1]x/",
    "a://[::1]:x/",
    "a://[::1%en0]/",
    "a://[::1%25]/",
    "a://[::1%25%41 ]/",
    "a://[::1%25%zz]/",
    "a://[::1%25%0a]/",
    "a://[::1%25%80]/",
    "a:/%zz",
    "a:///%z",
    "a:b#%4",
    "a://h:\u0663/",
]


@pytest.mark.parametrize("url", VALID)
def test_valid(url):
    assert has_scheme_and_parses(url)


@pytest.mark.parametrize("url", INVALID)
def test_invalid(url):
    assert not has_scheme_and_parses(url)


@given(st.text(max_size=40) | st.text(st.sampled_from("a:/[]@%25#?.1 "), max_size=20).map(lambda t: "a://" + t))
def test_any_text_has_a_verdict(url):
    if has_scheme_and_parses(url):
        assert scheme_of(url)


@given(st.text(max_size=40))
def test_an_opaque_rest_is_not_looked_into(rest):
    printable = "".join(c for c in rest if c >= " " and c not in "\x7f#").lstrip("/")
    assert has_scheme_and_parses("preloaded:" + printable)


def test_scheme_of():
    assert [scheme_of(u) for u in ("docker:///x", "a+b:c", "x", ":", "1:2", "")] == ["docker", "a+b", "", "", "", ""]
