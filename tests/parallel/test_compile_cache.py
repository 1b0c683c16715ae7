# SPDX-License-Identifier: Apache-2.0
"""Compiled programs are kept on disk, complete, and only by default."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldm_jax.parallel import compile_cache

ROOT = Path(__file__).parents[2]
LIMIT = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
COMPILES = """
import jax, jax.numpy as jnp, logging
from ldm_jax.parallel.compile_cache import keep_programs
logging.basicConfig(level=logging.WARNING)
keep_programs()
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))[0, 0])
print("limit", jax.config.jax_persistent_cache_min_compile_time_secs)
"""


def compile_once(home: Path, **variables: str) -> str:
    """Compiles a small program in a separate process; returns its warnings."""
    return in_process(home, **variables).stderr


def in_process(home: Path, **variables: str) -> subprocess.CompletedProcess:
    """Compiles a small program in a separate process."""
    env = {"XDG_CACHE_HOME": str(home), "JAX_COMPILATION_CACHE_DIR": "", **variables}
    env = {LIMIT: "0", **env}
    inherited = {k: v for k, v in os.environ.items() if k != LIMIT}
    return subprocess.run(
        [sys.executable, "-c", COMPILES],
        env={
            **inherited,
            "PYTHONPATH": str(ROOT),
            **{name: value for name, value in env.items() if value != "unset"},
        },
        capture_output=True,
        text=True,
        check=True,
    )


def programs(home: Path) -> dict[str, int]:
    """Returns the time of writing of every program, by name."""
    folder = home / "ldm_jax" / "programs"
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*-cache")}


def test_a_second_process_reads_what_the_first_compiled(tmp_path):
    compile_once(tmp_path)
    first = programs(tmp_path)
    assert first
    warnings = compile_once(tmp_path, JAX_LOGGING_LEVEL="DEBUG")
    assert programs(tmp_path) == first
    assert "Persistent compilation cache hit" in warnings


def test_a_program_that_was_not_written_whole_is_compiled_again(tmp_path):
    compile_once(tmp_path)
    first = programs(tmp_path)
    folder = tmp_path / "ldm_jax" / "programs"
    for file in folder.glob("*-atime"):
        file.unlink()  # as after a kill: the time of use is written last
    for name in first:
        (folder / name).write_bytes(b"half of a prog")
    assert "Error reading" not in compile_once(tmp_path)
    assert programs(tmp_path).keys() == first.keys()
    assert all((folder / name).stat().st_size > 100 for name in first)


@pytest.mark.parametrize("variable", ["JAX_COMPILATION_CACHE_DIR", "off"])
def test_a_choice_of_the_shell_stays(tmp_path, variable):
    own = tmp_path / "own"
    chosen = {"JAX_ENABLE_COMPILATION_CACHE": "0"}
    if variable != "off":
        chosen = {variable: str(own)}
    compile_once(tmp_path, **chosen)
    assert not programs(tmp_path)
    assert own.exists() == (variable != "off")


def test_a_folder_that_cannot_be_made_is_a_warning_with_its_name(tmp_path):
    (tmp_path / "ldm_jax").write_text("a file, where the folder should be")
    warnings = compile_once(tmp_path)
    assert "compiled programs are not kept" in warnings
    assert str(tmp_path / "ldm_jax" / "programs") in warnings


@pytest.mark.parametrize(("variable", "limit"), [("unset", 0.02), ("0.5", 0.5)])
def test_small_programs_are_kept_unless_the_shell_says_otherwise(
    tmp_path, variable, limit
):
    """JAX's own limit, 1 s, leaves out all draws of parameters."""
    printed = in_process(tmp_path, **{LIMIT: variable}).stdout
    assert printed.splitlines()[-1] == f"limit {limit}"


def test_of_many_programs_the_last_used_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "MAX_PROGRAMS", 2)
    folder = tmp_path / "programs"
    folder.mkdir()
    for age, name in enumerate("dbac"):
        for end in ("cache", "atime"):
            (folder / f"{name}-{end}").write_bytes(b"x")
            os.utime(folder / f"{name}-{end}", (1e9 - age, 1e9 - age))
    (folder / "unfinished-cache").write_bytes(b"x")
    compile_cache._tidy(folder)
    left = sorted(file.name for file in folder.iterdir() if "lock" not in file.name)
    assert left == ["b-atime", "b-cache", "d-atime", "d-cache"]
