# SPDX-License-Identifier: Apache-2.0
"""The rule of the house: imports go down only, and TensorFlow stays out."""

import ast
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

from ldm_jax.experiment.schema import SECTIONS

PACKAGE = pathlib.Path(__file__).parent.parent / "ldm_jax"

# Rooms from the ground up (the map in CONTRIBUTING.md): each may import those below it,
# and of those on its own floor none but itself.
FLOORS = (
    {"types", "configs"},
    {"files"},
    {"models", "diffusion", "data", "parallel"},
    {"conditions"},
    {"interop", "tasks", "training"},
    {"metrics"},
    {"experiment"},
    {"planning"},
    {"commands"},
    {"cli", "__init__"},
)


def room_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported_rooms(path: pathlib.Path):
    """Yields (room, line) for every import of this package, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "ldm_jax" and len(parts) > 1:
                yield parts[1], node.lineno


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_imports_go_down_only(path):
    room = room_of(path)
    below = set()
    for floor in FLOORS:
        if room in floor:
            break
        below |= floor
    else:
        pytest.fail(f"{path} lies in no known room: add it to the map")
    for other, line in imported_rooms(path):
        assert other in below | {room}, f"{path}:{line}: {room} may not import {other}"


def test_no_module_is_named_for_nothing():
    nameless = {"utils", "misc", "common", "helpers"}
    assert not [p for p in PACKAGE.rglob("*.py") if p.stem in nameless]


def test_tensorflow_is_never_imported():
    """Importing every module of the package leaves TensorFlow and PyTorch out."""
    modules = [
        ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts)
        for p in sorted(PACKAGE.rglob("*.py"))
        # The exported file is copied into a folder of its own; nothing here imports it.
        if p.name != "__init__.py" and p != PACKAGE / "interop/pytorch/model.py"
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print([m for m in ('tensorflow', 'torch') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("runner", ["stablehlo_runner.py", "onnx_runner.py"])
def test_the_readme_shows_the_runners_that_are_tested(runner):
    root = PACKAGE.parent
    runner = (root / "tests" / "commands" / runner).read_text()
    assert runner.split("\n", 1)[1].strip() in (root / "README.md").read_text()


def test_every_name_in_the_map_exists():
    """CONTRIBUTING.md: files and folders, and dotted names of functions."""
    root = PACKAGE.parent
    text = (root / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:ldm_jax|configs|tests|launch)/[\w/.]*)`", text)
    assert len(paths) > 15
    assert [path for path in paths if not (root / path).exists()] == []
    names = re.findall(r"`(ldm_jax(?:\.\w+)+)`", text)
    assert len(names) > 10
    for name in names:
        pkgutil.resolve_name(name)


# Rooms and files that get objects, never the sections of a config.
OBJECTS_ONLY = (
    *("planning", "training", "tasks", "commands/bench", "commands/train.py"),
    *("commands/evaluation", "commands/reconstruct.py", "commands/stats.py"),
)


@pytest.mark.parametrize("place", OBJECTS_ONLY)
def test_the_sections_of_a_config_are_read_in_experiment_only(place):
    """An attribute of a variable `config` that is the name of a section."""
    sections = {name for known in SECTIONS.values() for name in known}
    root = PACKAGE / place
    for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                is_read = node.value.id == "config" and node.attr in sections
                assert not is_read, f"{path}:{node.lineno}: config.{node.attr}"
