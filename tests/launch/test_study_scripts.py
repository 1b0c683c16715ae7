# SPDX-License-Identifier: Apache-2.0
"""Scripts that start a study, really run, with stand-ins for sbatch, gcloud and it."""

import shutil

import pytest

from tests.launch.test_scripts import LAUNCH, run, write

STAGES = """reference
first_stage/kl-f2-1a
first_stage/kl-f4-2b
latents/kl-f2-1a-3c
latents/kl-f4-2b-4d
denoiser/f=1/seed0
denoiser/f=2 wide/seed0
denoiser/f=2 wide/seed1
evaluate/f=1/seed0
report"""
FLAGS = ("--config=user.py:a b", "--out=runs/my study")


@pytest.fixture
def checkout(tmp_path):
    """A folder with launch/, and stand-ins that record their arguments."""
    shutil.copytree(LAUNCH, tmp_path / "launch")
    (tmp_path / "bin").mkdir()
    script = 'for x; do printf "<%s>" "$x"; done >> {0}.args; echo >> {0}.args\n'
    write(
        tmp_path / "bin" / "ldm-jax",
        "#!/usr/bin/env bash\n" + script.format("ldm-jax") + 'for x; do case "$x" in '
        f"--list) cat <<'END'\n{STAGES}\nEND\n;; esac; done\n",
    )
    write(
        tmp_path / "bin" / "sbatch",
        "#!/usr/bin/env bash\n" + script.format("sbatch") + "wc -l < sbatch.args\n",
    )
    return tmp_path


def test_slurm_gets_an_array_for_each_kind_each_after_the_one_before(checkout):
    got = run("launch/study_slurm.sh", *FLAGS, cwd=checkout)
    assert got.returncode == 0, got.stderr
    jobs = (checkout / "sbatch.args").read_text().splitlines()
    assert [job.split("--job-name=study-")[1].split(">")[0] for job in jobs] == [
        *("reference", "first_stage", "latents", "denoiser", "evaluate", "report")
    ]
    arrays = [job.split("--array=")[1].split(">")[0] for job in jobs]
    assert arrays == ["0-0", "0-1", "0-1", "0-2", "0-0", "0-0"]
    assert "--dependency" not in jobs[0]
    assert "<--dependency=afterany:3>" in jobs[3]
    stage = "<launch/slurm.sbatch><launch/study_stage.sh><denoiser>"
    assert jobs[3].endswith(f"{stage}<{FLAGS[0]}><{FLAGS[1]}>")


def test_a_task_of_an_array_runs_the_stage_of_its_number(checkout):
    for number, stage in ((0, "denoiser/f=1/seed0"), (2, "denoiser/f=2 wide/seed1")):
        command = ("launch/study_stage.sh", "denoiser", *FLAGS)
        got = run(*command, cwd=checkout, SLURM_ARRAY_TASK_ID=str(number))
        assert got.returncode == 0, got.stderr
        last = (checkout / "ldm-jax.args").read_text().splitlines()[-1]
        assert last == f"<study><{FLAGS[0]}><{FLAGS[1]}><--run={stage}>"


def test_every_arm_gets_a_queued_resource(checkout):
    write(
        checkout / "launch" / "tpu_queued.sh",
        "#!/usr/bin/env bash\n"
        'printf "<%s>" "$TPU" "$@" >> tpu.args; echo >> tpu.args\n',
    )
    for action in ("submit", "delete"):
        command = ("launch/study_tpu.sh", action, *FLAGS)
        assert run(*command, cwd=checkout, TPU="s").returncode == 0
    flags = f"<submit><ldm-jax><study><{FLAGS[0]}><{FLAGS[1]}>"
    assert (checkout / "tpu.args").read_text().splitlines() == [
        f"<s-1>{flags}<--only=f=1>",
        f"<s-2>{flags}<--only=f=2 wide>",
        "<s-1><delete>",
        "<s-2><delete>",
    ]


@pytest.mark.parametrize("script", ["study_slurm.sh", "study_tpu.sh"])
def test_without_a_study_they_print_how_they_are_used(checkout, script):
    got = run(f"launch/{script}", cwd=checkout)
    assert got.returncode == 2 and "usage: launch/" in got.stderr
