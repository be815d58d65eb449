"""settings.py: names of directories and groups from any cell id."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.cell.runtime.settings import ContainersSettings
from bulletin.cell.runtime.spec import IdRange


def settings(**changes):
    return ContainersSettings(**{"data": Path("/data"), "cell_id": "cell-1", **changes})


def test_paths():
    made = settings()
    assert made.containers == Path("/data/containers")
    assert made.private == "/run/bulletin/cell-1"
    assert made.cgroup == "/bulletin/cell-1"


@given(st.text(min_size=1, max_size=300))
def test_any_id_gives_a_harmless_name(cell_id):
    name = settings(cell_id=cell_id).name
    assert "/" not in name
    assert "\0" not in name
    assert name not in ("", ".", "..")
    assert len(name.encode()) <= 100


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80))
def test_different_ids_give_different_names(one, other):
    assert (settings(cell_id=one).name == settings(cell_id=other).name) == (one == other)


@pytest.mark.parametrize("ids", [IdRange(0, 65_536), IdRange(100_000, 1000), IdRange(4_294_967_000, 65_536)])
def test_impossible_ranges_are_refused(ids):
    with pytest.raises(ValueError, match="ids"):
        settings(ids=ids)
