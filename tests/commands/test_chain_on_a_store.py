# SPDX-License-Identifier: Apache-2.0
"""README's commands with gs:// in place of ./: killed and resumed in each stage."""

import pytest
from etils import epath

from ldm_jax.cli import main

pytestmark = [pytest.mark.store, pytest.mark.slow]
STEPS = [
    *("--config.batch_size=16", "--config.train.num_steps=4"),
    *("--config.train.checkpoint_every=2", "--config.train.report_every=2"),
    *(
        "--config.autoencoder.num_res_blocks=1",
        "--config.autoencoder.channel_mult=(1,1)",
    ),
]
UNET = ["--config.unet.channel_mult=(1,)", "--config.unet.attention_levels=(0,)"]


def interrupted_then_whole(store, bucket, argv, at):
    """Runs a command until its request number `at` to write, and then whole."""
    writes = [0]

    def refuse(method, path):
        writes[0] += method in ("POST", "PUT")
        return 403 if writes[0] > at and method in ("POST", "PUT") else None

    store.fault = refuse
    assert main(argv) == 2
    store.fault = lambda method, path: None
    assert main(argv) == 0


def test_the_chain_runs_in_a_bucket_and_each_stage_resumes(bucket, store, capsys):
    stage, latents, model = f"{bucket}/fs", f"{bucket}/latents", f"{bucket}/ldm"
    first = ["train", "--config=quickstart:stage=first_stage", f"--workdir={stage}"]
    interrupted_then_whole(store, bucket, [*first, *STEPS], 40)
    encode = ["latents", f"--model={stage}", f"--out={latents}", "--batch-size=64"]
    interrupted_then_whole(store, bucket, encode, 2)
    second = ["train", "--config=quickstart:stage=diffusion", f"--workdir={model}"]
    second += [f"--config.latents.directory={latents}", *STEPS, *UNET]
    interrupted_then_whole(store, bucket, second, 60)
    out = f"{bucket}/samples"
    sample = ["sample", f"--model={model}", "--label=1,2", "--num-steps=2"]
    interrupted_then_whole(store, bucket, [*sample, f"--out={out}"], 2)
    assert {"000000.png", "settings.json"} <= {
        p.name for p in epath.Path(out).iterdir()
    }
    assert main(["info", model]) == 0
    assert "4 of 4 steps" in capsys.readouterr().out
