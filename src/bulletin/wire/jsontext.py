"""JSON from strangers: bounded in depth before it is parsed, and one kind of error whatever is wrong with it."""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

from bulletin.core import errors
from bulletin.core.limits import JSON_DEPTH_MAX

__all__ = ["load_json"]

#: A whole string, or one bracket outside of strings. An unfinished string swallows the rest, which json refuses.
_STRING_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def load_json(body: bytes) -> object:
    """The value ``body`` stands for.

    Raises:
        TaskError: InvalidRequest, when it is not UTF-8, not JSON, names a key twice in one object, or nests deeper
            than ``JSON_DEPTH_MAX``.
    """
    if body.count(b"[") + body.count(b"{") > JSON_DEPTH_MAX and _is_deeper(body, JSON_DEPTH_MAX):
        raise errors.bad_request()
    try:
        value: object = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except ValueError as error:
        raise errors.bad_request() from error
    return value


def _is_deeper(body: bytes, levels: int) -> bool:
    """Whether arrays and objects stand in each other deeper than ``levels``, judged by the brackets alone."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(body):
        token = match.group()
        if token in (b"[", b"{"):
            depth += 1
            if depth > levels:
                return True
        elif token in (b"]", b"}"):
            depth -= 1
    return False


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(members)
    if len(made) != len(members):
        raise ValueError("a key stands twice")
    return made


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
