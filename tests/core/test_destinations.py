"""Where callbacks may go: every rule at its edges, and what an IPv6 address stands for."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.core.destinations import DENIED, METADATA, NEVER, Destinations

DEFAULT = Destinations()
METADATA_ADDRESSES = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "fd00:a9fe:a9fe::1",
]
ORDINARY = [
    "127.0.0.1",
    "127.255.255.255",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "8.8.8.8",
    "100.64.0.1",
    "169.253.255.255",
    "169.255.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "100.100.100.199",
    "1.0.0.0",
    "223.255.255.255",
    "240.0.0.1",
    "255.255.255.254",
    "::1",
    "2001:db8::1",
    "fd00::1",
    "fd00:ec1:ffff::1",
    "fd00:ec3::1",
    "fd20:ce::253",
    "fe7f:ffff::1",
    "fec0::1",
]
NO_DESTINATIONS = [
    "0.0.0.0",
    "0.255.255.255",
    "224.0.0.0",
    "239.255.255.255",
    "255.255.255.255",
    "::",
    "ff00::",
    "ff02::1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
]
LINK_LOCAL = ["169.254.0.0", "169.254.1.1", "169.254.255.255", "fe80::", "fe80::1", "febf:ffff::1"]


def forms(address: str) -> list[str]:
    """The ways in which an IPv6 address stands for an IPv4 one."""
    number = int(IPv4Address(address))
    return [
        f"::ffff:{address}",
        f"::ffff:0:{address}",
        f"64:ff9b::{address}",
        f"64:ff9b:1::{address}",
        str(IPv6Address(0x2002 << 112 | number << 80 | 1)),
        str(IPv6Address(0x2001_0000 << 96 | 0x0A000001 << 64 | number ^ 0xFFFF_FFFF)),
        f"2001:db8::5efe:{address}",
        f"2001:db8::200:5efe:{address}",
    ] + ([f"::{address}"] if number > 1 else [])


@pytest.mark.parametrize("address", ORDINARY)
def test_the_rest_is_allowed_and_so_are_other_forms_of_it(address):
    assert DEFAULT.permits(address)
    if "." in address:
        assert [form for form in forms(address) if not DEFAULT.permits(form)] == []


@pytest.mark.parametrize("address", METADATA_ADDRESSES + LINK_LOCAL)
def test_metadata_and_link_local_addresses_are_denied_in_every_form(address):
    assert not DEFAULT.permits(address)
    if "." in address:
        assert [form for form in forms(address) if DEFAULT.permits(form)] == []


@pytest.mark.parametrize("address", METADATA_ADDRESSES + LINK_LOCAL)
def test_an_operator_may_allow_what_is_denied(address):
    assert Destinations.parse([address]).permits(address)
    assert Destinations.parse(["0.0.0.0/0", "::/0"]).permits(address)


@pytest.mark.parametrize("address", NO_DESTINATIONS)
def test_what_is_no_destination_cannot_be_allowed(address):
    everything = Destinations.parse(["0.0.0.0/0", "::/0", address])
    assert not DEFAULT.permits(address)
    assert not everything.permits(address)
    if "." in address:
        assert [form for form in forms(address) if everything.permits(form)] == []


def test_allowing_beats_denying():
    rules = Destinations.parse(["10.1.2.3", "10.9.0.0/16"], ["10.0.0.0/8"])
    assert [rules.permits(each) for each in ("10.1.2.3", "10.9.255.1", "10.1.2.4", "11.0.0.0")] == [
        True,
        True,
        False,
        True,
    ]
    assert Destinations.parse(["10.0.0.0/8"], ["10.1.2.3"]).permits("10.1.2.3")


def test_both_meanings_of_an_address_have_to_be_allowed():
    rules = Destinations.parse(deny=["64:ff9b::/96"])
    assert not rules.permits("64:ff9b::8.8.8.8")
    assert rules.permits("8.8.8.8")
    assert not Destinations.parse(["64:ff9b::/96"]).permits("64:ff9b::169.254.169.254")
    assert Destinations.parse(["169.254.169.254"]).permits("64:ff9b::169.254.169.254")


def test_a_mapped_address_is_the_ipv4_address_in_rules_too():
    assert not Destinations.parse(deny=["::/0"]).permits("::1")
    assert Destinations.parse(deny=["::/0"]).permits("::ffff:10.0.0.1")
    assert not Destinations.parse(deny=["10.0.0.0/8"]).permits("::ffff:10.0.0.1")
    assert not Destinations.parse(deny=["::ffff:10.0.0.0/104"]).permits("10.0.0.1")
    assert not Destinations.parse(deny=["::ffff:10.0.0.1"]).permits("10.0.0.1")
    assert Destinations.parse(deny=["::ffff:10.0.0.0/104"]).permits("11.0.0.1")


def test_a_scope_changes_nothing():
    assert not DEFAULT.permits("fe80::1%eth0")
    assert Destinations.parse(["fe80::/10"]).permits("fe80::1%eth0")


@pytest.mark.parametrize("text", ["", "x", "10.0.0.0/33", "10.0.0.0/8/8", "::/129", "example.com", "1.2.3"])
def test_a_rule_that_is_no_network_is_refused_by_its_text(text):
    for sides in ({"allow": [text]}, {"deny": [text]}):
        with pytest.raises(ValueError, match="neither an address nor a network") as caught:
            Destinations.parse(**sides)
        assert repr(text) in str(caught.value)


def test_a_rule_may_have_host_bits_and_space_around_it():
    assert not Destinations.parse(deny=[" 10.1.2.3/8 "]).permits("10.200.0.1")


def test_a_name_is_no_address():
    with pytest.raises(ValueError, match="address"):
        DEFAULT.permits("localhost")


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
networks = st.builds(
    lambda address, bits: str(ip_network((address, min(bits, address.max_prefixlen)), strict=False)),
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.integers(0, 128),
)


@given(st.ip_addresses(v=4).map(str), st.lists(networks, max_size=3), st.lists(networks, max_size=3))
def test_no_form_of_an_address_goes_where_it_does_not(address, allow, deny):
    rules = Destinations.parse(allow, deny)
    assert rules.permits(f"::ffff:{address}") == rules.permits(address)
    if not rules.permits(address):
        assert not any(rules.permits(form) for form in forms(address))


@given(addresses, st.lists(networks, max_size=4), st.lists(networks, max_size=4), networks)
def test_more_denying_never_permits_more_and_more_allowing_never_less(address, allow, deny, more):
    permitted = Destinations.parse(allow, deny).permits(address)
    assert permitted or not Destinations.parse(allow, [*deny, more]).permits(address)
    assert not permitted or Destinations.parse([*allow, more], deny).permits(address)


@given(addresses)
def test_by_default_only_the_listed_networks_are_denied(address):
    value = ip_address(address)
    listed = any(value.version == network.version and value in network for network in DENIED + NEVER)
    assert not (listed and DEFAULT.permits(address))
    if value.version == 4:
        assert DEFAULT.permits(address) != listed


def test_the_lists_are_without_doubles():
    assert len(set(METADATA)) == len(METADATA)
    assert set(METADATA) <= set(DENIED)
