"""``import bulletin``: what it names, and how little it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bulletin
import bulletin.client


@pytest.mark.parametrize("module", [bulletin, bulletin.client])
def test_the_names_for_type_checkers_are_those_at_run_time(module):
    tree = ast.parse(Path(module.__file__).read_text())
    named = {
        alias.asname or alias.name
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert named == set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)


@pytest.mark.parametrize("module", [bulletin, bulletin.client])
def test_other_names_are_not_there(module):
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = module.nonsense


def test_importing_brings_nothing_heavy():
    script = (
        "import sys, bulletin, bulletin.client; bulletin.TaskNotFound; bulletin.TaskDefinition;"
        "print(*({'aiohttp', 'asyncio', 'google.protobuf', 'rich', 'cyclopts'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
