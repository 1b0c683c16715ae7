# SPDX-License-Identifier: Apache-2.0
"""README's commands with gs:// in place of ./: killed and resumed in each stage."""

import re

import pytest

from ldm_jax.cli import main
from ldm_jax.files.stores import lease
from ldm_jax.files.stores.objects import list_objects, sizes_in
from tests.commands.test_chain import TINY

pytestmark = pytest.mark.store
# In the middle of the second checkpoint.
SECOND = (10, "checkpoints%2F8")


def tiny(stage):
    """Returns the settings of a stage of test_chain, whose programs are compiled."""
    prefix = f"--config.{stage}."
    return [flag.replace(prefix, "--config.") for flag in TINY if prefix in flag]


def killed(store, argv, at, within=""):
    """Runs a command until write number `at` to paths that contain a text.

    From then on nothing reaches the store, which is left as by a process that was
    killed: the lease is there, too.
    """
    writes = [0]

    def refuse(method, path):
        writes[0] += method in ("POST", "PUT") and within in path
        return 403 if writes[0] >= at else None

    store.fault = refuse
    assert main(argv) == 2
    store.fault = lambda method, path: None


def test_the_chain_runs_in_a_bucket_and_each_stage_resumes(
    bucket, store, capsys, monkeypatch
):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    stage, latents, model = f"{bucket}/fs", f"{bucket}/latents", f"{bucket}/ldm"
    first = ["train", "--config=quickstart:stage=first_stage", f"--workdir={stage}"]
    first += tiny("first_stage")
    killed(store, first, *SECOND)
    assert main(first) == 0
    out, error = capsys.readouterr()
    assert re.search(r"^ldm-jax train: gs://.*/fs.* could not be written", error, re.M)
    assert "first stage: resumes at step 4 of 12" in out

    encode = ["latents", f"--model={stage}", f"--out={latents}", "--batch-size=64"]
    encode += ["--records-per-shard=512"]
    killed(store, encode, 5)
    assert f"ldm-jax latents: {latents}" in capsys.readouterr().err
    shard = "latents-train.array_record-00000-of-00003"
    finished = list_objects(latents)
    assert set(finished) == {shard, f"{shard}.done.json"}
    assert main(encode) == 0
    now = list_objects(latents)
    assert all(now[name].version == item.version for name, item in finished.items())

    second = ["train", "--config=quickstart:stage=diffusion", f"--workdir={model}"]
    second += [f"--config.latents.directory={latents}", *tiny("diffusion")]
    killed(store, second, *SECOND)
    assert main(second) == 0
    out, error = capsys.readouterr()
    assert re.search(r"^ldm-jax train: gs://.*/ldm.* could not be written", error, re.M)
    assert "denoiser: resumes at step 4 of 12" in out

    samples = f"{bucket}/samples"
    sample = ["sample", f"--model={model}", "--label=1,2", "--num-steps=5"]
    sample += [f"--out={samples}"]
    killed(store, sample, 3)
    assert main(sample) == 0
    assert {"000000.png", "settings.json"} <= set(sizes_in(samples))
    capsys.readouterr()
    assert main(["info", model]) == 0
    assert "12 of 12 steps" in capsys.readouterr().out
