# SPDX-License-Identifier: Apache-2.0
"""Config files: found by name or path, run, and their errors reported in one line."""

import os
import pathlib
import subprocess
import sys

import pytest

from ldm_jax import cli, configs
from ldm_jax.experiment.config import config_files

ROOT = pathlib.Path(__file__).parents[3]
OWN = """
from ldm_jax.configs import common, quickstart

def get_config(arg=""):
    config = quickstart.first_stage()
    config.batch_size = common.parse(arg, batch=4).batch
    return config
"""
EMPTY = "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()\n"


def write(folder, text, name="user.py"):
    (folder / name).write_text(text)
    return str(folder / name)


def error_of(config):
    with pytest.raises(ValueError) as raised:
        config_files.read(str(config))
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_name_and_the_path_of_its_file_are_the_same_config(monkeypatch):
    monkeypatch.chdir(ROOT)
    by_name = config_files.read("quickstart:stage=diffusion")
    by_path = config_files.read("configs/quickstart.py:stage=diffusion")
    assert by_name.to_dict() == by_path.to_dict()


def test_every_config_of_the_folder_has_a_name_unless_it_is_a_part_of_others():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert set(configs.names()) == files - configs.PARTS
    assert files >= configs.PARTS


def test_a_file_anywhere_imports_the_configs_of_the_package(tmp_path, monkeypatch):
    path = write(tmp_path, OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for config in (path, "user.py", "./user.py", "~/user.py"):
        assert config_files.read(config).batch_size == 4
        assert config_files.read(f"{config}:batch=8").batch_size == 8


def test_a_file_imports_its_neighbours_which_replace_no_module(tmp_path, monkeypatch):
    write(tmp_path, "SEED = 5\n", "my_shared_values.py")
    write(tmp_path, "raise AssertionError\n", "colorsys.py")
    text = "import colorsys, my_shared_values\n" + EMPTY.replace(
        "ConfigDict()", "ConfigDict(dict(seed=my_shared_values.SEED))"
    )
    before = list(sys.path)
    assert config_files.read(write(tmp_path, text)).seed == 5
    assert sys.path == before


def test_a_changed_config_file_is_run_again(tmp_path):
    """Two files of one size within a second would share their bytecode."""
    for seed in "12345":
        path = write(tmp_path, EMPTY.replace("Dict()", f"Dict(dict(seed={seed}))"))
        assert config_files.read(path).seed == int(seed)
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize("colon", ["a:b", "c.py.d"])
def test_the_argument_follows_the_file_also_in_a_strange_folder(tmp_path, colon):
    folder = tmp_path / colon
    folder.mkdir()
    assert config_files.read(f"{write(folder, OWN)}:batch=2").batch_size == 2


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = (1,\ny = 2\n", 1, "SyntaxError: '(' was never closed"),
        ("def get_config():\n  x = 1\n y = 2\n", 3, "IndentationError: unindent"),
        ("\nimport no_such_module\n", 2, "ModuleNotFoundError: No module named 'no_s"),
        ("from ldm_jax.configs import comon\n", 1, "ImportError: cannot import name"),
        ("\n\nnames = {}['a']\n", 3, "KeyError: 'a'"),
        ("def f(): return f()\nf()\n", 1, "RecursionError: maximum recursion"),
        ("import sys\nsys.exit()\n", 2, "SystemExit"),
        ("def get_config():\n    raise SystemExit(0)\n", 2, "SystemExit: 0"),
        ("def get_config():\n    1 / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("def get_config():\n    raise ValueError('two\\nlines')\n", 2, "two lines"),
        ("class Own(BaseException): pass\nraise Own\n", 2, "Own"),
        ("def get_config():\n    return int('x')\n", 2, "invalid literal for int()"),
        ("assert False\n", 1, "AssertionError"),
    ],
)
def test_an_error_in_a_file_is_one_line_with_file_and_line(
    tmp_path, text, line, message
):
    path = write(tmp_path, text)
    assert error_of(path).startswith(f"{path}:{line}: {message}")


def test_an_error_below_a_config_is_placed_where_the_config_called(tmp_path):
    text = "import json\n\ndef get_config():\n    return json.loads('{')\n"
    path = write(tmp_path, text)
    assert error_of(path).startswith(f"{path}:4: JSONDecodeError: Expecting property")


def test_a_syntax_error_of_a_neighbour_is_placed_in_the_neighbour(tmp_path):
    neighbour = write(tmp_path, "\n)\n", "my_broken_values.py")
    path = write(tmp_path, "import my_broken_values\n")
    assert error_of(path).startswith(f"{neighbour}:2: SyntaxError")


def test_bytes_that_are_no_python_are_refused(tmp_path):
    for content in (b"\xff\xfe\x00", b"a\x00b"):
        (tmp_path / "user.py").write_bytes(content)
        assert error_of(tmp_path / "user.py").startswith(str(tmp_path / "user.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have a function get_config: got none."),
        ("get_config = 3\n", "must have a function get_config: got int."),
        ("def get_config(): pass\n", "must return a ConfigDict: got a NoneType."),
        ("def get_config(): return {}\n", "must return a ConfigDict: got a dict."),
    ],
)
def test_a_file_that_makes_no_config_is_refused(tmp_path, text, message):
    path = write(tmp_path, text)
    error = error_of(path)
    assert error.startswith(f"--config={path}: ") and message in error


@pytest.mark.parametrize(
    ("signature", "argument", "message"),
    [
        ("()", ":f=8", "get_config() does not take what follows the colon: got 'f=8'."),
        ("(arg)", "", "get_config(arg) needs an argument: --config=CONFIG:ARGUMENT."),
        ("(a, b)", ":x", "get_config(a, b) does not take what follows the colon"),
        ("()", ":", None),
        ("(arg)", ":", None),
        ("(arg='')", "", None),
    ],
)
def test_an_argument_that_a_config_does_not_take_is_refused(
    tmp_path, signature, argument, message
):
    path = write(tmp_path, EMPTY.replace("()", signature, 1)) + argument
    if message is None:
        assert not config_files.read(path)
    else:
        assert error_of(path).startswith(f"--config={path}: {message}")


def test_a_wrong_argument_is_an_error_of_the_command_not_of_a_line():
    error = error_of("imagenet_f:f=3")
    assert error.startswith("--config=imagenet_f:f=3: unknown f=3 of this config; one")


def test_an_error_for_an_unknown_name_suggests_the_nearest_and_lists_all():
    error = error_of("quikstart:stage=diffusion")
    assert 'no config has the name "quikstart"; did you mean "quickstart"?' in error
    assert "bedrooms, celebahq, celebahq_f, " in error and "FILE.py" in error
    assert "did you mean" not in error_of("zzz")


@pytest.mark.parametrize("part", sorted(configs.PARTS))
def test_what_is_part_of_other_configs_is_no_config(part):
    assert f'no config has the name "{part}"' in error_of(part)


def test_an_error_for_a_missing_file_suggests_the_name_of_a_config(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    error = error_of("configs/quickstart.py:stage=diffusion")
    assert "there is no config file configs/quickstart.py" in error
    assert f"(from {tmp_path})" in error and 'did you mean "quickstart"?' in error


def test_only_regular_files_are_run(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    for name in ("pipe.py", "folder.py", "none.py"):
        assert "there is no config file" in error_of(tmp_path / name)
    assert "must be on a file system: got gs://b/a.py" in error_of("gs://b/a.py:x")


def test_a_returned_config_is_locked_and_can_be_changed(tmp_path):
    text = EMPTY.replace("import ConfigDict", "import FrozenConfigDict as ConfigDict")
    for source in (EMPTY, text):
        config = config_files.read(
            write(tmp_path, source.replace("Dict()", "Dict(dict(seed=1))"))
        )
        config.seed = 2
        with pytest.raises(AttributeError):
            config.sed = 3


@pytest.mark.parametrize(
    ("config", "is_ours"),
    [
        ("quickstart", True),
        ("quikstart:a=b", True),  # to be answered with the nearest
        ("a/b.py:c", True),
        ("cin256.yaml", False),
        ("models/config.yaml", False),
        ("./config", False),
    ],
)
def test_configs_are_distinguished_from_other_files(config, is_ours):
    assert config_files.is_config(config) == is_ours


def test_the_command_line_prints_the_line_and_ends_with_two(tmp_path, capsys):
    path = write(tmp_path, "import sys\nsys.exit(0)\n")
    assert cli.main(["train", f"--config={path}", f"--workdir={tmp_path / 'a'}"]) == 2
    assert capsys.readouterr().err == f"ldm-jax train: {path}:2: SystemExit: 0\n"


@pytest.mark.parametrize("copies", ["ldm_jax configs", "ldm_jax"])
def test_the_configs_are_those_of_the_package_that_is_imported(tmp_path, copies):
    """Identity: a clone on PYTHONPATH, and an installed package, use their own."""
    folder = tmp_path / "clone"
    (folder / "ldm_jax").mkdir(parents=True)
    os.symlink(ROOT / "ldm_jax" / "__init__.py", folder / "ldm_jax" / "__init__.py")
    where = folder / "configs" if "configs" in copies else folder / "ldm_jax/configs"
    where.mkdir(exist_ok=True)
    (folder / "ldm_jax" / "configs").mkdir(exist_ok=True)
    source = (ROOT / "ldm_jax" / "configs" / "__init__.py").read_text()
    (folder / "ldm_jax" / "configs" / "__init__.py").write_text(source)
    (where / "common.py").write_text("")
    (where / "unheard_of.py").write_text("")
    program = (
        "from ldm_jax import configs; from ldm_jax.configs import unheard_of; "
        "print(unheard_of.__file__, configs.names())"
    )
    got = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert got.stdout.split() == [str(where / "unheard_of.py"), "['unheard_of']"]
