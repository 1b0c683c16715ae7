# SPDX-License-Identifier: Apache-2.0
"""The installed package: dependencies, Python versions, and the files of the wheel.

How configs are found without installing: tests/experiment/config/test_config_files.py.
`.ci/run` installs the wheel and trains with it from an empty folder.
"""

import ast
import configparser
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions

import pytest
import yaml

import ldm_jax

ROOT = pathlib.Path(__file__).parents[1]
# Copied into exports, where they are run without this package.
EXPORTED = {
    ROOT / "ldm_jax/interop/pytorch/model.py",
    *ROOT.glob("ldm_jax/interop/diffusers/exported/*.py"),
}
SOURCES = {*ROOT.glob("ldm_jax/**/*.py"), *ROOT.glob("configs/*.py")} - EXPORTED


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(text):
    """Names of distributions in a list of requirements."""
    lines = [line for line in text.splitlines() if line and line[0] not in "#%"]
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}


def imported():
    """Yields (top-level module, is at the top of its file, file) for every import."""
    for path in sorted(SOURCES):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in names:
                module = name.partition(".")[0]
                # For type checkers, configs/ is imported by its place in a clone.
                if module not in (*sys.stdlib_module_names, "ldm_jax", "configs"):
                    yield module, node in tree.body, path


def test_every_package_that_is_imported_is_required(setup_cfg):
    """A dependency of a dependency may go at any time."""
    required = requirements(setup_cfg["options"]["install_requires"])
    extras = setup_cfg["options.extras_require"].values()
    optional = required.union(*map(requirements, extras))
    distributions = packages_distributions()
    for module, is_at_top, path in imported():
        owners = {normal(name) for name in distributions.get(module, [module])}
        # Of extras, modules are imported where they are used.
        listed = required if is_at_top else optional
        assert owners & listed, f"{path}: {module} is not in setup.cfg"


def test_every_required_package_is_imported(setup_cfg):
    distributions = packages_distributions()
    used = {
        normal(name)
        for module, _, _ in imported()
        for name in distributions.get(module, [])
    }
    # What jax.export writes its files with.
    by_others = {"flatbuffers"}
    required = requirements(setup_cfg["options"]["install_requires"])
    assert required - used == by_others


def test_every_requirement_has_a_lower_bound(setup_cfg):
    lines = setup_cfg["options"]["install_requires"].split("\n")
    for line in [line for line in lines if line and not line.startswith("#")]:
        assert re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+(,<[\d.]+)?", line), line


def test_the_versions_of_python_agree(setup_cfg):
    """Lint and types are checked for the oldest, the workflow runs both ends."""
    listed = re.findall(r"Python :: (3\.\d+)", setup_cfg["metadata"]["classifiers"])
    oldest, newest = listed[0], listed[-1]
    assert setup_cfg["options"]["python_requires"] == f">={oldest}"
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert tools["pyright"]["pythonVersion"] == oldest
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    job = workflow["jobs"]["run"]
    assert job["strategy"]["matrix"]["python"] == [oldest, newest]
    assert job["steps"][-1]["run"] == ".ci/run"
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text()


def test_the_version_is_written_once(setup_cfg, capsys):
    from ldm_jax import cli

    assert setup_cfg["metadata"]["version"] == "attr: ldm_jax.__version__"
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"ldm_jax {ldm_jax.__version__}\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", folder, ROOT], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(wheel):
    """Identity: modules, configs, pages and licence, and nothing else."""
    listed = subprocess.run(
        ["git", "ls-files", "ldm_jax", "configs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {re.sub("^configs/", "ldm_jax/configs/", name) for name in listed}
    names = set(zipfile.ZipFile(wheel).namelist())
    about = f"ldm_jax-{ldm_jax.__version__}.dist-info"
    assert {name for name in names if not name.startswith(about)} == expected
    assert f"{about}/licenses/LICENSE" in names


ARRAY = "Array | ndarray[tuple[Any, ...], dtype[Any]]"
# What a user of the front door writes, and the types that a checker shows for it.
TYPED = {
    "ldm_jax.load('digits')": "tuple[LatentDiffusion | Any, Any]",
    "model.condition(params, class_label=[3])": "Conditioning | Any",
    "model.decode(params, z_T)": f"{ARRAY} | Any",
    "ldm_jax.sample(model, params, None, z_T=z_T)": ARRAY,
    "ldm_jax.save('a', model, params)": "None",
}
WRONG = ("ldm_jax.load(3)", "ldm_jax.sample(model, params)", "ldm_jax.lode('digits')")


@pytest.mark.slow
def test_a_type_checker_sees_the_front_door_of_an_installed_wheel(wheel, tmp_path):
    """Of a package with py.typed, pyright takes annotations and infers no types."""
    pytest.importorskip("pyright")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    lines = ["import jax", "import ldm_jax", "", "z_T = jax.numpy.zeros((1, 8, 8, 2))"]
    lines.append("model, params = ldm_jax.load('digits')")
    start = len(lines)
    lines += [f"reveal_type({expression})" for expression in TYPED]
    (tmp_path / "pyrightconfig.json").write_text("{}")  # not one of a folder above
    (tmp_path / "user.py").write_text("\n".join([*lines, *WRONG]) + "\n")
    command = [sys.executable, "-m", "pyright", "--outputjson", "user.py"]
    shown = subprocess.run(
        [*command, "--pythonpath", sys.executable],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    ).stdout
    reported = json.loads(shown)["generalDiagnostics"]
    by_line = {entry["range"]["start"]["line"]: entry for entry in reported}
    for number, (expression, name) in enumerate(TYPED.items(), start):
        message = by_line[number]["message"]
        assert message == f'Type of "{expression}" is "{name}"'
    wrong = range(len(lines), len(lines) + len(WRONG))
    errors = {n for n, entry in by_line.items() if entry["severity"] == "error"}
    assert errors == set(wrong)
