"""The simulators share no code with the clients, and need nothing but the standard library."""
from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import streams.sim

ROOM = Path(streams.sim.__file__).parent
FILES = sorted(ROOM.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_simulator_imports_only_its_own_room(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                assert name.name.partition(".")[0] in sys.stdlib_module_names, name.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"line {node.lineno} leaves the room"
            if not node.level:
                assert (node.module or "").partition(".")[0] in sys.stdlib_module_names
            elif node.module:
                assert (ROOM / f"{node.module.partition('.')[0]}.py").exists()


def test_what_is_exported_is_there() -> None:
    assert len(set(streams.sim.__all__)) == len(streams.sim.__all__)
    for name in streams.sim.__all__:
        assert getattr(streams.sim, name).__module__.startswith("streams.sim.")
