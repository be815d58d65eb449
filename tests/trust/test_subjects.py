"""What a subject says, in the form of the ssl module."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bulletin.trust.subjects import Subject, read_subject
from bulletin.wire.routes import Role

KEYS = st.sampled_from(["commonName", "organizationalUnitName", "organizationName", "countryName"])
VALUES = st.one_of(st.sampled_from([role.value for role in Role]), st.text(max_size=10))


def test_the_name_and_the_roles():
    subject = (
        (("organizationName", "client"),),
        (("organizationalUnitName", "client"), ("organizationalUnitName", "sales")),
        (("organizationalUnitName", "operator"),),
        (("commonName", "someone"),),
    )
    assert read_subject(subject) == Subject("someone", frozenset({Role.CLIENT, Role.OPERATOR}))


def test_nobody():
    assert read_subject(()) == Subject("", frozenset())


def test_the_last_common_name_counts():
    assert read_subject(((("commonName", "a"),), (("commonName", "b"),))).name == "b"


@given(st.lists(st.lists(st.tuples(KEYS, VALUES), max_size=3), max_size=5))
def test_roles_come_from_organizational_units_only(subject):
    said = {value for part in subject for key, value in part if key == "organizationalUnitName"}
    assert read_subject(subject).roles == {role for role in Role if role.value in said}
