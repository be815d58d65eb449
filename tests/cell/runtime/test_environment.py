"""environment.py: the rows of cell.md section 6, their order, and what no one overrides."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.cell.runtime.environment import PATH_ROOT, PATH_USER, Addresses, process_environment

ADDRESSES = Addresses("10.0.0.1", "10.254.0.2")
FIXED = {
    "CF_INSTANCE_IP": "10.0.0.1",
    "CF_INSTANCE_INTERNAL_IP": "10.254.0.2",
    "CF_INSTANCE_PORT": "",
    "CF_INSTANCE_ADDR": "",
    "CF_INSTANCE_PORTS": "[]",
}
ROWS = ("image", "task", "identity", "action")


def environment(*, addresses=ADDRESSES, user="vcap", uid=2000, home="/home/vcap", **rows):
    sources = {row: rows.get(row, ()) for row in ROWS}
    return dict(process_environment(**sources, addresses=addresses, user=user, uid=uid, home=home))


def test_with_nothing_given_only_the_fixed_and_the_defaults_are_there():
    assert environment() == {**FIXED, "PATH": PATH_USER, "USER": "vcap", "HOME": "/home/vcap"}


@pytest.mark.parametrize(("uid", "path"), [(0, PATH_ROOT), (1, PATH_USER), (2000, PATH_USER)])
def test_path_depends_on_being_root(uid, path):
    assert environment(uid=uid)["PATH"] == path


@pytest.mark.parametrize(("lower", "upper"), list(itertools.combinations(ROWS, 2)))
def test_a_later_row_wins(lower, upper):
    assert environment(**{lower: (("NAME", "lower"),), upper: (("NAME", "upper"),)})["NAME"] == "upper"


@pytest.mark.parametrize("row", ROWS)
def test_a_later_duplicate_in_one_row_wins(row):
    assert environment(**{row: (("FOO", "OLD"), ("FOO", "NEW"))})["FOO"] == "NEW"


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", FIXED)
def test_nobody_overrides_the_networking_variables(row, name):
    assert environment(**{row: ((name, "mine"),)})[name] == FIXED[name]


def test_an_action_overrides_the_identity():
    rows = {"identity": (("CF_INSTANCE_CERT", "a"),), "action": (("CF_INSTANCE_CERT", "b"),)}
    assert environment(**rows)["CF_INSTANCE_CERT"] == "b"


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", ["PATH", "USER", "HOME"])
def test_a_default_gives_way_to_any_row(row, name):
    assert environment(**{row: ((name, "mine"),)})[name] == "mine"


@pytest.mark.parametrize(("name", "expected"), [("PATH", ""), ("USER", ""), ("HOME", "/home/vcap")])
def test_only_an_empty_home_counts_as_unset(name, expected):
    assert environment(action=((name, ""),))[name] == expected


def test_ipv6_is_told_only_where_there_is_one():
    assert "CF_INSTANCE_INTERNAL_IPV6" not in environment()
    with_ipv6 = environment(addresses=Addresses("10.0.0.1", "10.254.0.2", "fd00::2"))
    assert with_ipv6["CF_INSTANCE_INTERNAL_IPV6"] == "fd00::2"


pairs = st.lists(st.tuples(st.sampled_from(["A", "B", "PATH", "HOME", "CF_INSTANCE_IP"]), st.text(max_size=3)))


@given(image=pairs, task=pairs, identity=pairs, action=pairs)
def test_names_are_distinct_and_the_last_of_each_counts(image, task, identity, action):
    answer = process_environment(
        image=image, task=task, identity=identity, action=action, addresses=ADDRESSES, user="u", uid=1, home="/h"
    )
    names = [name for name, _ in answer]
    assert len(names) == len(set(names))
    expected = {**dict(image), **dict(task), **dict(identity), **dict(action), **FIXED}
    got = dict(answer)
    for name, value in expected.items():
        assert got[name] == value or (name == "HOME" and value == "" and got[name] == "/h")
