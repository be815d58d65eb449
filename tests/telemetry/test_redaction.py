"""The last look at a line: no secrets by name or in URLs, no long texts."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.core import limits
from bulletin.telemetry.redaction import REDACTED, clean, clean_text
from bulletin.wire.proto import bbs_pb2


def cleaned(**fields: object) -> dict[str, object]:
    event = dict(fields)
    clean(None, "info", event)
    return event


@pytest.mark.parametrize(
    "name",
    ["image_password", "env", "Environment_Variables", "passphrase", "encryption_keys", "Authorization", "DATABASE"],
)
def test_a_secret_by_its_name(name):
    assert cleaned(**{name: "hunter2", "other": "kept"}) == {name: REDACTED, "other": "kept"}
    assert cleaned(data={name: ["hunter2"]}) == {"data": {name: REDACTED}}
    assert cleaned(data=[{"deep": {name: "hunter2"}}]) == {"data": [{"deep": {name: REDACTED}}]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:hunter2@db/x", f"postgresql://{REDACTED}@db/x"),
        ("postgresql://:hunter2@db/x", f"postgresql://{REDACTED}@db/x"),
        ("cannot reach postgresql://u:hunter2@[::1]:5432/x", f"cannot reach postgresql://{REDACTED}@[::1]:5432/x"),
        ("postgres://u:hu/nt?er#2@db/x", f"postgres://{REDACTED}@db/x"),
        ("https://u:hu:nt@er2@host/", f"https://u:{REDACTED}@host/"),
        ("postgresql://db/x?user=u&password=hunter2&a=b", f"postgresql://db/x?user=u&password={REDACTED}&a=b"),
        ("http://host/a:b@c", "http://host/a:b@c"),
        ("http://host:80/", "http://host:80/"),
        ("http://me@host:80/", "http://me@host:80/"),
        ("mail a:b@c", "mail a:b@c"),
    ],
)
def test_a_password_in_a_url(text, shown):
    assert clean_text(text) == shown
    assert cleaned(error=text) == {"error": shown}
    assert cleaned(error=ValueError(text)) == {"error": shown}


def test_a_long_text_is_cut():
    bound = limits.LOG_STRING_CHARACTERS_MAX
    assert cleaned(text="a" * bound) == {"text": "a" * bound}
    (cut,) = cleaned(text="a" * (bound + 1)).values()
    assert len(cut) == bound
    assert cut.endswith("a(truncated)")


def test_of_a_long_traceback_the_end_is_kept():
    bound = limits.LOG_EXCEPTION_CHARACTERS_MAX
    (cut,) = cleaned(exception="a" * bound + "ValueError: 7").values()
    assert len(cut) == bound
    assert cut.startswith("(truncated)a")
    assert cut.endswith("ValueError: 7")


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Definition:
    password: str


def test_what_would_show_its_fields_is_only_named():
    message = bbs_pb2.TaskDefinition(image_password="hunter2")
    assert cleaned(definition=message, record=Definition("hunter2"), body=message.SerializeToString()) == {
        "definition": "[TaskDefinition]",
        "record": "[Definition]",
        "body": f"[{message.ByteSize()} bytes]",
    }


def test_plain_values_stay():
    plain = {"a": 1, "b": 1.5, "c": None, "d": True, "e": ["x", 2], "f": {"g": "h"}}
    assert cleaned(**plain) == plain
    assert cleaned(path=Path("/x"), error=OSError(2, "gone"), colour=Colour.RED) == {
        "path": "/x",
        "error": "[Errno 2] gone",
        "colour": "Colour.RED",
    }


def test_what_goes_deep_or_round_ends():
    ring: dict[str, object] = {}
    ring["ring"] = ring
    assert json.dumps(cleaned(ring=ring))


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each))
)
def test_whatever_is_logged_can_be_written(value):
    json.dumps(cleaned(value=value))
