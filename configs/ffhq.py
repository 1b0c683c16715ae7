# SPDX-License-Identifier: Apache-2.0
r"""Unconditional LDM-4 on FFHQ 256x256 (Rombach et al. 2022, Tab. 1 and 12).

    ldm-jax latents --config=ffhq --model models/vq-f4 --out LATENTS
    ldm-jax train --config=ffhq --workdir=runs/ffhq \
        --config.latents.directory=LATENTS

UNet 274M on 64x64x3. Paper: 635k steps with batch 42, 26 V100 days; FID 4.98, precision
0.73, recall 0.50 with 200 steps of DDIM (Tab. 1), eta 1 and IS 4.50 (README of the
released code); 1.07 images/s on an A100 (Tab. 18).
"""

from ldm_jax.configs import common


def get_config(arg: str = ""):
    """Returns the experiment."""
    common.parse(arg)
    config = common.latent_diffusion("vq-f4", "ffhq")
    config.latents.flip = False
    config.unet = common.UNET_274M
    config.batch_size = 42
    config.optimizer.learning_rate = 8.4e-5
    config.train.num_steps = 635_000
    config.sampling.update(num_steps=200, eta=1.0)
    return config
