# SPDX-License-Identifier: Apache-2.0
r"""Unconditional LDM-8 on LSUN churches 256x256 (Rombach et al. 2022, Tab. 1 and 12).

    ldm-jax latents --config=churches --model models/kl-f8 --out LATENTS
    ldm-jax train --config=churches --workdir=runs/churches \
        --config.latents.directory=LATENTS

UNet 295M on 32x32x4; KL latents, divided by their standard deviation. Paper: 500k steps
with batch 96 (Tab. 18: 410k, 18 V100 days); FID 4.02, precision 0.64, recall 0.52 with
200 steps of DDIM (Tab. 1). The README of the released code gives 400 steps, eta 0 and
IS 2.72; 6.80 images/s on an A100 with 100 steps (Tab. 18, for a model of 256M: a UNet
without scale_shift_norm and resblock_updown). The released config multiplies the
learning rate by the batch size; the paper's 5e-5 does not, and is used here.
"""

from ldm_jax.configs import common


def get_config(arg: str = ""):
    """Returns the experiment."""
    common.parse(arg)
    config = common.latent_diffusion("kl-f8", "lsun_churches")
    config.schedule.end = 0.0155
    config.unet = dict(
        channels=192,
        channel_mult=(1, 2, 2, 4, 4),
        attention_levels=(0, 1, 2, 3),
        num_heads=8,
        scale_shift_norm=True,
        resblock_updown=True,
    )
    config.objective.distance = "l1"
    config.batch_size = 96
    config.optimizer.learning_rate = 5e-5
    config.optimizer.schedule = dict(name="warmup_linear", warmup_steps=10_000)
    config.train.num_steps = 500_000
    config.sampling.update(num_steps=200, eta=0.0)
    return config
