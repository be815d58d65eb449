"""What a certificate's subject says of its owner: a name, and the roles it may play (design promise S14).

The common name is the name, for a cell its id; every organizational unit that is a role's word gives that role. What
else stands in a subject is ignored, so that certificates made for other purposes have no role here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bulletin.wire.routes import Role

__all__ = ["NAME_CHARACTERS_MAX", "Subject", "read_subject"]

#: X.509's bound of a common name (RFC 5280, ub-common-name).
NAME_CHARACTERS_MAX: Final = 64

_ROLES: Final = {role.value: role for role in Role}


@dataclass(frozen=True, slots=True)
class Subject:
    """Who a certificate is about."""

    #: Empty when the certificate names nobody.
    name: str
    roles: frozenset[Role]


def read_subject(subject: Iterable[Iterable[tuple[str, str]]]) -> Subject:
    """Read ``ssl``'s form of a subject: a sequence of sets of pairs such as ``("commonName", "cell-1")``.

    Of several common names the last one counts, which is the most specific.
    """
    name = ""
    roles: set[Role] = set()
    for attributes in subject:
        for key, value in attributes:
            if key == "commonName":
                name = value
            elif key == "organizationalUnitName" and value in _ROLES:
                roles.add(_ROLES[value])
    return Subject(name, frozenset(roles))
