"""The environment of a process, as a pure function (cell.md section 6)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["PATH_ROOT", "PATH_USER", "Addresses", "Variables", "process_environment"]

Variables = tuple[tuple[str, str], ...]

#: cell.md section 6, row 6.
PATH_ROOT: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATH_USER: Final = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Addresses:
    """How a container is reached. Tasks have no ports, so no ports are told (cell.md 5.4)."""

    #: The cell's own.
    external_ip: str
    #: The container's.
    internal_ip: str
    internal_ipv6: str = ""


def process_environment(
    *,
    image: Iterable[tuple[str, str]],
    task: Iterable[tuple[str, str]],
    identity: Iterable[tuple[str, str]],
    action: Iterable[tuple[str, str]],
    addresses: Addresses,
    user: str,
    uid: int,
    home: str,
) -> Variables:
    """Put the environment together; a later source wins, and so does a later duplicate within one.

    Args:
        image: row 1, the image's configuration.
        task: row 2, the definition's list.
        identity: row 3, certificates and instance identity, where the cell has them.
        action: row 4, the run action's list.
        addresses: row 5, which no one overrides.
        user: name of the user, as the action says it.
        uid: of that user, inside the container.
        home: of that user.

    Returns:
        Pairs of distinct names, in the order the names first came up.
    """
    variables: dict[str, str] = {}
    for source in (image, task, identity, action, _networking(addresses)):
        variables.update(source)
    variables.setdefault("PATH", PATH_ROOT if uid == 0 else PATH_USER)
    variables.setdefault("USER", user)
    if not variables.get("HOME"):
        variables["HOME"] = home
    return tuple(variables.items())


def _networking(addresses: Addresses) -> Variables:
    ipv6 = (("CF_INSTANCE_INTERNAL_IPV6", addresses.internal_ipv6),) if addresses.internal_ipv6 else ()
    return (
        ("CF_INSTANCE_IP", addresses.external_ip),
        ("CF_INSTANCE_INTERNAL_IP", addresses.internal_ip),
        *ipv6,
        ("CF_INSTANCE_PORT", ""),
        ("CF_INSTANCE_ADDR", ""),
        ("CF_INSTANCE_PORTS", "[]"),
    )
