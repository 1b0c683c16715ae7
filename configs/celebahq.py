# SPDX-License-Identifier: Apache-2.0
r"""Unconditional LDM-4 on CelebA-HQ 256x256 (Rombach et al. 2022, Tab. 1 and 12).

    ldm-jax latents --config=celebahq --model models/vq-f4 --out LATENTS
    ldm-jax train --config=celebahq --workdir=runs/celebahq \
        --config.latents.directory=LATENTS

UNet 274M on 64x64x3. Paper: 410k steps with batch 48, 14.4 V100 days; FID 5.11,
precision 0.72, recall 0.49 with 500 steps of DDIM (Tab. 1); 0.43 images/s on an A100
with as many (Tab. 18). The README of the released code gives 200 steps with eta 0 for
the same FID, and IS 3.29; this config takes 200.
"""

from ldm_jax.configs import common


def get_config(arg: str = ""):
    """Returns the experiment."""
    common.parse(arg)
    config = common.latent_diffusion("vq-f4", "celebahq")
    config.latents.flip = False
    config.unet = common.UNET_274M
    config.batch_size = 48
    config.optimizer.learning_rate = 9.6e-5
    config.train.num_steps = 410_000
    config.sampling.update(num_steps=200, eta=0.0)
    return config
