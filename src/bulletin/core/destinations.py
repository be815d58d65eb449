"""Where a callback may go: a rule over the address that is about to be connected to, never over a name.

Whoever desires a task chooses a URL that the board then calls from inside the operator's network. By default it may go
anywhere but to addresses that hand out credentials to whoever asks from this machine: link-local ones and the metadata
services of clouds. Operators deny more networks, and allow parts of what is denied: allowing beats denying.

Rules. An IPv6 address that stands for an IPv4 one is judged by that one too, and goes only where both may. What can
be no destination (unspecified, multicast, broadcast) cannot be allowed: Linux takes 0.0.0.0 for the machine itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

__all__ = ["DENIED", "METADATA", "NEVER", "Destinations"]

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address

#: Services that tell a machine of a cloud its own secrets, beside those that are link-local.
METADATA: Final[tuple[Network, ...]] = (
    IPv4Network("169.254.169.254"),  # AWS, Azure, Google, OpenStack, Oracle and most others; named for its fame
    IPv6Network("fd00:ec2::/32"),  # AWS: instance metadata is ::254, credentials of pods ::23
    IPv6Network("fd20:ce::254"),  # Google, machines without IPv4
    IPv6Network("fd00:c1::a9fe:a9fe"),  # Oracle
    IPv6Network("fd00:42::42"),  # Scaleway
    IPv6Network("fd00:a9fe:a9fe::1"),  # Akamai
    IPv4Network("100.100.100.200"),  # Alibaba
    IPv4Network("168.63.129.16"),  # Azure: WireServer, from which a machine's agent has its certificates
    IPv4Network("192.0.0.192"),  # Oracle, the classic one
)
#: What is denied unless it is allowed.
DENIED: Final[tuple[Network, ...]] = (
    IPv4Network("169.254.0.0/16"),  # link-local, RFC 3927
    IPv6Network("fe80::/10"),  # link-local, RFC 4291
    *METADATA,
)
#: What is no destination, whatever is allowed.
NEVER: Final[tuple[Network, ...]] = (
    IPv4Network("0.0.0.0/8"),  # unspecified, and "this network", RFC 1122
    IPv4Network("224.0.0.0/4"),  # multicast, RFC 1112
    IPv4Network("255.255.255.255"),  # broadcast, RFC 919
    IPv6Network("::"),  # unspecified, RFC 4291
    IPv6Network("ff00::/8"),  # multicast, RFC 4291
)

#: Prefixes of IPv6 with the number of bits below the IPv4 address they carry.
_EMBEDDING: Final[tuple[tuple[IPv6Network, int], ...]] = (
    (IPv6Network("::/96"), 0),  # IPv4-compatible, RFC 4291; holds :: and ::1, which carry none
    (IPv6Network("::ffff:0:0:0/96"), 0),  # IPv4-translated, RFC 2765
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052
    (IPv6Network("64:ff9b:1::/48"), 0),  # NAT64 for local use, RFC 8215, as it is used with /96 prefixes
    (IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
)
_TEREDO: Final = IPv6Network("2001::/32")  # RFC 4380: the last 32 bits, inverted
_ISATAP: Final = 0x5EFE  # RFC 5214: stands before the last 32 bits, with or without the universal bit


@dataclass(frozen=True, slots=True)
class Destinations:
    """What an operator set: networks that are allowed whatever else is said, and networks that are denied."""

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> Destinations:
        """Read addresses and networks in CIDR form.

        Raises:
            ValueError: one is neither; the text names it.
        """
        return cls(tuple(map(_network, allow)), tuple(map(_network, deny)))

    def permits(self, address: str) -> bool:
        """Whether a callback may be sent to ``address``, in text, an IPv6 scope included or not.

        Raises:
            ValueError: it is no address.
        """
        return all(map(self._permits, _meanings(ip_address(address.partition("%")[0]))))

    def _permits(self, address: Address) -> bool:
        if _holds(NEVER, address):
            return False
        return _holds(self.allow, address) or not (_holds(self.deny, address) or _holds(DENIED, address))


def _network(text: str) -> Network:
    try:
        network = ip_network(text.strip(), strict=False)
    except ValueError as error:
        msg = f"{text!r} is neither an address nor a network; write for example 10.0.0.0/8 or fd00::/8"
        raise ValueError(msg) from error
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:  # Addresses are judged as what they mean, so a rule has to say what it means too.
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _holds(networks: Iterable[Network], address: Address) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _meanings(address: Address) -> Iterator[Address]:
    """The address, and an IPv4 address inside it; only that of an IPv4-mapped one, which is no more than a notation."""
    if isinstance(address, IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    yield address
    number = int(address)
    if number <= 1:  # unspecified and loopback
        return
    for network, bits_below in _EMBEDDING:
        if address in network:
            yield IPv4Address(number >> bits_below & 0xFFFF_FFFF)
    if address in _TEREDO:
        yield IPv4Address(~number & 0xFFFF_FFFF)
    if number >> 32 & 0xFDFF_FFFF == _ISATAP:
        yield IPv4Address(number & 0xFFFF_FFFF)
