from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.core.errors import TaskError
from bulletin.core.limits import JSON_DEPTH_MAX
from bulletin.wire.jsontext import load_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_json_is_read(value):
    assert load_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=60) | st.text(st.sampled_from('[]{}",:\\1nulte '), max_size=60).map(str.encode))
def test_anything_else_is_one_error(body):
    with suppress(TaskError):
        load_json(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b"NaN",
        b"[Infinity]",
        b'{"a":1,"a":2}',
        b"\xff",
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b"1" * 5000,
        b'"unfinished',
        b'"\\',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * (JSON_DEPTH_MAX + 1) + b"]" * (JSON_DEPTH_MAX + 1),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_refused(body):
    with pytest.raises(TaskError, match="the request received is invalid"):
        load_json(body)


def test_depth_counts_brackets_outside_of_strings_only():
    deepest = b"[" * JSON_DEPTH_MAX + b"]" * JSON_DEPTH_MAX
    assert load_json(deepest)
    assert load_json(b"[[]," + deepest[1:])
    with pytest.raises(TaskError):
        load_json(b"[[]," + deepest + b"]")
    assert load_json(b'"' + b"[" * 1000 + b'"') == "[" * 1000
    assert load_json(b'{"a\\"":"\\\\' + b"{" * 1000 + b'"}') == {'a"': "\\" + "{" * 1000}
    assert load_json(b"[" + b",".join([b"[]"] * 1000) + b"]") == [[]] * 1000
