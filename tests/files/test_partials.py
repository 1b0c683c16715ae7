# SPDX-License-Identifier: Apache-2.0
"""Names of partial results, and their removal."""

import os
import time

from ldm_jax.files.partials import STALE_SECONDS, remove_partials, temporary_name
from ldm_jax.files.writing import write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_writer_left_is_removed_a_day_later(tmp_path):
    old, young, other = (tmp_path / f".{n}.{'0' * 32}.partial" for n in ("a", "a", "b"))
    young = tmp_path / f".a.{'1' * 32}.partial"
    for path in (old, young, other):
        path.write_text("")
    for path in (old, other):
        day_ago = time.time() - STALE_SECONDS - 1
        os.utime(path, (day_ago, day_ago))
    write_text(tmp_path / "a", "x")
    assert names(tmp_path) == sorted([young.name, other.name, "a"])


def test_a_long_name_has_room_for_its_temporary_one(tmp_path):
    path = tmp_path / ("\u732b" * 80)  # 240 bytes
    write_text(path, "x")
    assert path.read_text() == "x" and len(names(tmp_path)) == 1


def test_partial_results_without_a_live_writer_are_removed_at_once(tmp_path):
    for name in ("set-0", "set-1", "other"):
        temporary_name(tmp_path / name).mkdir()
    (tmp_path / "set-0").write_text("")
    remove_partials(tmp_path, lambda name: name.startswith("set-"), seconds=0)
    kept = [name.split(".")[1] for name in names(tmp_path) if name.startswith(".")]
    assert kept == ["other"] and (tmp_path / "set-0").exists()
