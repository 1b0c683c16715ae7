# SPDX-License-Identifier: Apache-2.0
"""The command line of databases, and of queries of them."""

from ldm_jax import cli


def test_a_folder_that_is_no_clip_is_refused_by_name(tmp_path, capsys):
    argv = [
        "database",
        str(tmp_path),
        f"--clip-model={tmp_path}",
        f"--out={tmp_path}/d.npz",
    ]
    assert cli.main(argv) == 2
    assert f"{tmp_path} lacks config.json" in capsys.readouterr().err


def test_flags_of_retrieval_need_a_clip_model(capsys):
    argv = ["sample", "--model=m", "--out=o", "--query=a.png"]
    assert cli.main(argv) == 2
    assert "--query is of retrieval models" in capsys.readouterr().err
