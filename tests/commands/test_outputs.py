# SPDX-License-Identifier: Apache-2.0
"""Every command checks and locks the place of its result before it works.

The inputs named here do not exist: an error about the output shows that it was looked
at first.
"""

import os
import sys

import pytest

from ldm_jax.cli import main
from ldm_jax.files.lock import lock_directory, lock_output

WEIGHTS = "--feature-weights=nowhere.safetensors"
CONFIG = "--config=quickstart"
SAMPLES = ["--model=digits", "--metrics=fid", "--num=2", WEIGHTS]
# Command -> its flags; {} is the output.
FILES = {
    "stats": ["./photos", "--size=8", WEIGHTS, "--out={}.npz"],
    "reconstruct": ["--model=nowhere", "--out={}.png"],
    "weights inception": ["nowhere.pth", "--out={}.safetensors"],
    "weights lpips": ["nowhere.pth", "--out={}.safetensors"],
}
NEW = {
    "import": ["nowhere.ckpt", "--out={}"],
    "import from the Hub": ["hf://nowhere/nowhere", "--out={}"],
    "database": ["./photos", "--clip-model=nowhere", "--out={}"],
    "export npz": ["nowhere", "--to=npz", "--out={}"],
    "export compvis": ["nowhere", "--to=compvis", "--out={}"],
    "export diffusers": ["nowhere", "--to=diffusers", "--out={}"],
}
DIRECTORIES = {
    "train": [f"{CONFIG}:stage=first_stage", "--workdir={}"],
    "quickstart": [CONFIG, "--workdir={}"],
    "latents": ["--model=nowhere", "--out={}"],
    "sample": ["--model=nowhere", "--out={}"],
    "evaluate": ["--images=photos", WEIGHTS, "--out={}"],
    "evaluate samples": [*SAMPLES, "--out={}"],
}
COMMANDS = {**FILES, **NEW, **DIRECTORIES}
# Written to gs:// directly; made here and copied there.
REMOTE = ("train", "import", "import from the Hub")
STAGED = sorted(COMMANDS.keys() - REMOTE)


def run(name, out, capsys):
    """Runs a command in a folder without its inputs; returns its error."""
    command = name.split()[: 2 if name.startswith("weights") else 1]
    argv = [*command, *(flag.format(out) for flag in COMMANDS[name])]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def suffix(name):
    (flag,) = (flag for flag in COMMANDS[name] if "{}" in flag)
    return flag.partition("{}")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_cannot_be_written_is_found_before_any_work(name, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    error = run(name, tmp_path / "file" / "out", capsys)
    flag = "workdir" if "workdir" in str(COMMANDS[name]) else "out"
    assert f"--{flag} must be a directory that this process may write" in error
    assert "Not a directory" in error and f"Choose another --{flag}" in error
    assert (tmp_path / "file").read_text() == "x"


def test_the_rules_of_a_study_are_written_where_that_is_possible(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    argv = ["study", "--config=nowhere.py", "--out=nowhere"]
    assert main([*argv, f"--snakefile={tmp_path}/file/S"]) == 2
    error = capsys.readouterr().err
    assert "--snakefile must be a directory that this process may write" in error
    assert main([*argv, f"--snakefile={tmp_path}"]) == 2
    assert "--snakefile must name a file" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"train"}))
def test_the_second_of_two_writers_is_refused_at_once(name, tmp_path, capsys):
    out = tmp_path / "out"
    take = lock_directory if name in DIRECTORIES else lock_output
    with take(f"{out}{suffix(name)}"):
        error = run(name, out, capsys)
    assert f"is in use by process {os.getpid()} on" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", STAGED)
def test_a_store_without_its_package_is_refused_before_any_work(
    name, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    error = run(name, "gs://bucket/a", capsys)
    assert "gs://bucket/a" in error and "pip install 'ldm_jax[gcs]'" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"train", "quickstart"}))
def test_a_mistake_in_the_inputs_leaves_no_folder_behind(
    name, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    error = run(name, tmp_path / "new" / "out", capsys)
    assert "nowhere" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_new_output_that_exists_is_refused_and_stays(name, kind, tmp_path, capsys):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    stale = out / "model_index.json" if kind == "folder" else out
    stale.write_text("x")
    error = run(name, out, capsys)
    assert f"--out must be new: {out} exists; choose another --out" in error
    assert stale.read_text() == "x"


@pytest.mark.parametrize("name", FILES)
def test_an_output_that_is_no_file_is_refused(name, tmp_path, capsys):
    (tmp_path / f"out{suffix(name)}").mkdir()
    assert "--out must name a file: got the folder" in run(
        name, tmp_path / "out", capsys
    )


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"train", "quickstart"}))
def test_the_home_directory_is_expanded(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    error = run(name, "~/file/out", capsys)
    assert "must be a directory that this process may write" in error
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
