from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.core.limits import EGRESS_DESTINATIONS_MAX
from bulletin.wire.addresses import count_destinations, parse_ip, parse_ipv6


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "255.255.255.255",
        "8.8.0.0/16",
        "0.0.0.0/0",
        "1.2.3.4/32",
        "1.2.3.4/08",
        "1.2.3.4/00000000000000000000000000000000000000000000008",
        "::",
        "::1",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7::",
        "FE80::A",
        "::ffff:1.2.3.4",
        "fe80::/10",
        "::ffff:1.2.3.4/128",
        "1.2.3.4-1.2.3.4",
        "1.2.3.4-1.2.4.0",
        "::1-::2",
        "1.2.3.4-::ffff:1.2.3.5",
        "::-1.2.3.4",
    ],
)
def test_one_destination(text):
    assert count_destinations(text) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "-",
        "/",
        "a",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "01.2.3.4",
        "1.2.3.04",
        "0x1.2.3.4",
        "1.2.3.4 ",
        " 1.2.3.4",
        "1.2.3.4\n",
        "\u0661.2.3.4",
        "1.2.3.4/",
        "1.2.3.4/33",
        "1.2.3.4/-1",
        "1.2.3.4/+8",
        "1.2.3.4/\uff18",
        "1.2.3.4/1/2",
        "1.2.3.4/16777216",
        "/8",
        "1.2.3.4-",
        "-1.2.3.4",
        "1.2.3.5-1.2.3.4",
        "1.2.3.4-1.2.3.5-1.2.3.6",
        "1.2.3.4-1.2.3.4/8",
        "1.2.3.0/24-1.2.3.4",
        "::ffff:1.2.3.5-1.2.3.4",
        "fe80::1%eth0",
        "fe80::1%eth0/64",
        "12345::",
        "1::2::3",
        ":::",
        "::1:",
        "1:2:3:4::5:6:7:8",
        "::01.2.3.4",
        "::/129",
        "1.2.3.4,",
        ",1.2.3.4",
        "1.2.3.4, 1.2.3.5",
        "1.2.3.4,a",
    ],
)
def test_no_destination(text):
    assert count_destinations(text) == 0


def test_commas_separate():
    assert count_destinations("1.2.3.4,10.0.0.0/8,::1-::2") == 3


def test_more_than_the_limit_is_counted_and_not_read():
    assert count_destinations("x," * EGRESS_DESTINATIONS_MAX) == EGRESS_DESTINATIONS_MAX + 1
    assert count_destinations("::1," * (EGRESS_DESTINATIONS_MAX - 1) + "::1") == EGRESS_DESTINATIONS_MAX


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_ipv4_is_compared_in_its_mapped_form(first, last):
    assert parse_ip(str(first)) == int(ipaddress.IPv6Address(f"::ffff:{first}"))
    assert (count_destinations(f"{first}-{last}") == 1) == (first <= last)


@given(st.ip_addresses(v=6))
def test_ipv6(address):
    assert parse_ip(str(address)) == parse_ipv6(address.exploded) == int(address)


@given(st.text(max_size=50))
def test_any_text_has_a_verdict(text):
    assert count_destinations(text) in (0, text.count(",") + 1)
