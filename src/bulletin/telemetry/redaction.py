"""The last look at a line before it is written: secrets are struck out, long texts are cut.

This is the belt. The braces: nothing of a definition, a setting that holds a secret, or a header is ever given to a
logger. What is here knows fields by their names and passwords in URLs by their shape; it cannot know more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from bulletin.core import limits

__all__ = ["REDACTED", "clean", "clean_text"]

REDACTED: Final = "[redacted]"

#: In lower case, without underscores and hyphens.
_SECRET_NAMES: Final = frozenset(
    {
        "authorization",
        "completioncallbackurl",
        "cookie",
        "credentials",
        "database",
        "encryptionkeys",
        "env",
        "environment",
        "environmentvariables",
        "imagepassword",
        "passphrase",
        "password",
        "privatekey",
        "secret",
        "setcookie",
        "token",
    }
)
#: A database's URL: its password may hold anything, whatever the standard says, so all before the host goes.
_DATABASE_USER: Final = re.compile(r"(?i)\b(postgres(?:ql)?://)\S*@")
#: ``scheme://user:password@``, and a password among the parameters of a database's URL.
_URL_PASSWORD: Final = re.compile(r"(?<=://)([^\s/?#@:]*):[^\s/?#]*@")
_PARAMETER: Final = re.compile(r"(?i)\b(password|passphrase|sslpassword)=[^\s&;]+")
#: Values in values; what is deeper is told as text.
_DEPTH_MAX: Final = 4
_MARK: Final = "(truncated)"


def clean(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The processor: cleans every field of a line, those in it included."""
    for name, value in event.items():
        if name == "exception":
            # The end of a traceback says what happened; its beginning is the same for all.
            event[name] = clean_text(str(value), limits.LOG_EXCEPTION_CHARACTERS_MAX, keep_end=True)
        else:
            event[name] = _clean(name, value, 0)
    return event


def clean_text(text: str, characters_max: int = limits.LOG_STRING_CHARACTERS_MAX, *, keep_end: bool = False) -> str:
    """``text`` without the passwords of URLs in it, cut to ``characters_max``."""
    if "://" in text:
        text = _DATABASE_USER.sub(rf"\1{REDACTED}@", text)
        text = _URL_PASSWORD.sub(rf"\1:{REDACTED}@", text)
    if "=" in text:
        text = _PARAMETER.sub(rf"\1={REDACTED}", text)
    if len(text) <= characters_max:
        return text
    kept = characters_max - len(_MARK)
    return _MARK + text[-kept:] if keep_end else text[:kept] + _MARK


def _clean(name: str, value: object, depth: int) -> object:
    if _is_secret(name):
        return REDACTED
    match value:
        case str():
            return clean_text(value)
        case None | bool() | int() | float():
            return value
        case Mapping() if depth < _DEPTH_MAX:
            return {str(key): _clean(str(key), each, depth + 1) for key, each in value.items()}
        case list() | tuple() | set() | frozenset() if depth < _DEPTH_MAX:
            return [_clean("", each, depth + 1) for each in value]
        case bytes() | bytearray() | memoryview():
            return f"[{len(value)} bytes]"
    # What has no text of its own would show its fields; of a message, that is the whole definition.
    shows_fields = type(value).__str__ is object.__str__ or hasattr(value, "DESCRIPTOR")
    return f"[{type(value).__name__}]" if shows_fields else clean_text(str(value))


def _is_secret(name: str) -> bool:
    return name.lower().replace("_", "").replace("-", "") in _SECRET_NAMES
