# SPDX-License-Identifier: Apache-2.0
"""Launch scripts, really run, with stand-ins for gcloud, srun and the training."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from ldm_jax import configs
from ldm_jax.cli import make_parser
from ldm_jax.parallel.environment import EXIT_WHEN_STOPPED

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])

# Trains for as long as it is let; on SIGTERM it saves and ends well, as ours does.
TRAINING = """#!/usr/bin/env bash
trap 'sleep 0.3; echo saved; exit "$LDM_JAX_EXIT_WHEN_STOPPED"' TERM
echo "started $*"
touch started
while true; do sleep 0.05; done
"""


def write(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def environment(tmp_path, **given):
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "LDM_JAX_WAIT": "0", **given}


def run(*command, cwd, **given):
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(cwd, **given),
        capture_output=True,
        text=True,
        timeout=60,
    )


def start(*command, cwd, **given):
    """Starts a command and returns when the training in it has begun."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(cwd, **given),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not (cwd / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


@pytest.fixture
def bin_dir(tmp_path):
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_pass_shellcheck(path):
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        command = ["shellcheck", "-x", "--severity=warning", path]
        result = subprocess.run(command, cwd=LAUNCH.parent, capture_output=True)
        assert result.returncode == 0, result.stdout.decode()


def test_what_was_lost_starts_again(tmp_path):
    """Oracle: lost twice (hung, killed), done at the third start; a log by host."""
    codes = write(
        tmp_path / "codes", "#!/bin/sh\necho x >> n; exit $(sed -n $(wc -l <n)p c)"
    )
    (tmp_path / "c").write_text("75\n137\n0\n")
    got = run(LAUNCH / "retry.sh", codes, cwd=tmp_path, LDM_JAX_LOGS="logs")
    assert got.returncode == 0
    assert (tmp_path / "n").read_text() == "x\n" * 3
    (log,) = (tmp_path / "logs").glob("*.log")
    assert log.read_text().count("retry: attempt") == 3


@pytest.mark.parametrize("code", [0, 2, 3, 130])
def test_what_ended_by_itself_does_not_start_again(tmp_path, code):
    got = run(
        LAUNCH / "retry.sh", "sh", "-c", f"echo x >> n; exit {code}", cwd=tmp_path
    )
    assert got.returncode == code
    assert (tmp_path / "n").read_text() == "x\n"


def test_attempts_are_counted(tmp_path):
    got = run(LAUNCH / "retry.sh", "false", cwd=tmp_path, LDM_JAX_ATTEMPTS="2")
    assert got.returncode == 1
    assert got.stdout.count("attempt") == 2


def test_a_run_saves_before_it_stops_on_a_signal(tmp_path):
    training = write(tmp_path / "training", TRAINING)
    process = start(LAUNCH / "retry.sh", training, cwd=tmp_path)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75  # saved, and not done
    assert out.count("saved") == 1 and out.count("attempt") == 1


def test_a_run_that_another_host_stopped_resumes(tmp_path):
    """A preempted host makes all save; this one was not asked, and starts again."""
    training = write(
        tmp_path / "training",
        "#!/bin/sh\n[ -e was_here ] && exit 0\ntouch was_here\n"
        'exit "$LDM_JAX_EXIT_WHEN_STOPPED"\n',
    )
    got = run(LAUNCH / "retry.sh", training, cwd=tmp_path)
    assert got.returncode == 0 and got.stdout.count("attempt") == 2


def test_slurm_saves_before_the_time_limit_and_queues_again(tmp_path, bin_dir):
    """The real batch script, with an srun that runs one task here."""
    shutil.copytree(LAUNCH, tmp_path / "launch")
    write(
        bin_dir / "srun", f"#!/bin/sh\necho $* > srun.args\nexec {bin_dir}/training\n"
    )
    write(bin_dir / "training", TRAINING)
    write(bin_dir / "scontrol", "#!/bin/sh\necho $* > scontrol.args\n")
    settings = dict(SLURM_JOB_ID="17", SLURM_SUBMIT_DIR=str(tmp_path))
    command = (LAUNCH / "slurm.sbatch", "ldm-jax", "train", "--workdir=a b")
    process = start(*command, cwd=tmp_path, **settings)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75 and "saved" in out
    assert (tmp_path / "scontrol.args").read_text() == "requeue 17\n"
    asked = (tmp_path / "srun.args").read_text()
    assert "--kill-on-bad-exit=1" in asked and "logs/%x-%j-%N-%t.log" in asked
    assert asked.rstrip().endswith("ldm-jax train --workdir=a b")


def test_slurm_does_not_queue_again_what_is_done(tmp_path, bin_dir):
    """The run ends by itself while the time limit is near."""
    shutil.copytree(LAUNCH, tmp_path / "launch")
    write(bin_dir / "srun", "#!/bin/sh\ntrap '' TERM\ntouch started\nsleep 0.5\n")
    write(bin_dir / "scontrol", "#!/bin/sh\necho $* > scontrol.args\n")
    settings = dict(SLURM_JOB_ID="17", SLURM_SUBMIT_DIR=str(tmp_path))
    process = start(LAUNCH / "slurm.sbatch", "true", cwd=tmp_path, **settings)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == 0 and not (tmp_path / "scontrol.args").exists()


def test_slurm_needs_a_command(tmp_path):
    got = run(LAUNCH / "slurm.sbatch", cwd=tmp_path)
    assert got.returncode == 2 and "usage" in got.stderr


@pytest.fixture
def gcloud(tmp_path, bin_dir):
    """A gcloud that records its arguments, and runs a remote command here."""
    write(
        bin_dir / "gcloud",
        "#!/usr/bin/env bash\n"
        'printf "%s\\n" "$*" >> gcloud.args\n'
        'for x; do case $x in --command=*) bash -c "${x#--command=}";; esac; done\n',
    )
    shutil.copytree(LAUNCH, tmp_path / "ldm_jax" / "launch")
    return dict(TPU="t", ZONE="z", HOME=str(tmp_path), TYPE="v5litepod-16", VERSION="v")


def test_a_tpu_slice_runs_the_command_as_it_was_written(tmp_path, gcloud):
    """Identity: arguments survive two shells, and the run outlives the connection."""
    write(
        tmp_path / "bin" / "show",
        f"#!/bin/sh\nprintf '<%s>' \"$@\" > {tmp_path}/seen\n",
    )
    given = ("show", "--a=b c", "it's", "$HOME", '"q"')
    got = run(LAUNCH / "tpu_vm.sh", "run", *given, cwd=tmp_path, **gcloud)
    assert got.returncode == 0, got.stderr
    deadline = time.monotonic() + 20
    while not (tmp_path / "seen").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)
    assert (tmp_path / "seen").read_text() == """<--a=b c><it's><$HOME><"q">"""
    arguments = (tmp_path / "gcloud.args").read_text()
    assert arguments.startswith(
        "compute tpus tpu-vm ssh t --zone=z --worker=all --command="
    )
    assert list((tmp_path / "logs").glob("*.log"))


def test_a_tpu_slice_is_made_and_deleted(tmp_path, gcloud):
    for action in ("create", "status", "delete"):
        script = LAUNCH / "tpu_vm.sh"
        assert run(script, action, cwd=tmp_path, **gcloud, SPOT="1").returncode == 0
    lines = (tmp_path / "gcloud.args").read_text().splitlines()
    assert lines[0].endswith("--accelerator-type=v5litepod-16 --version=v --spot")
    assert lines[2] == "compute tpus tpu-vm delete t --zone=z --quiet"


def test_a_queued_resource_boots_into_the_run(tmp_path, gcloud):
    script, code = LAUNCH / "tpu_queued.sh", "gs://b/code.tar.gz"
    command = ("ldm-jax", "train", "--workdir=gs://b/a run")
    got = run(script, "startup", *command, cwd=tmp_path, **gcloud, CODE=code)
    subprocess.run(["bash", "-n"], input=got.stdout, text=True, check=True)
    assert got.stdout.splitlines()[-1] == (
        r"exec launch/retry.sh ldm-jax train --workdir=gs://b/a\ run "
    )


def test_the_jobset_is_whole_and_runs_a_command_that_we_have():
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == (
        "jobset.x-k8s.io/v1alpha2",
        "JobSet",
    )
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    # JobSet's own rules: one completion for each pod, restarts by the JobSet alone.
    assert job["parallelism"] == job["completions"] and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a podFailurePolicy needs that
    (container,) = pod["containers"]
    ruled = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert ruled["containerName"] == container["name"]
    sides = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = int(sides[0]) * int(sides[1])
    assert (
        job["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips
    )
    # An evicted pod that ended with 0 would complete its Job.
    settings = {setting["name"]: setting["value"] for setting in container["env"]}
    code = int(settings[EXIT_WHEN_STOPPED])
    assert code not in (0, *ruled["values"])
    program, *command = container["command"]
    assert program == "ldm-jax"
    args, overrides = make_parser().parse_known_args([*command, *container["args"]])
    assert args.workdir.startswith("gs://") and args.config in configs.names()
    assert overrides == ["--config.latents.directory=gs://BUCKET/latents/celebahq"]
