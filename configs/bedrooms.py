# SPDX-License-Identifier: Apache-2.0
r"""Unconditional LDM-4 on LSUN bedrooms 256x256 (Rombach et al. 2022, Tab. 1 and 12).

    ldm-jax latents --config=bedrooms --model models/vq-f4 --out LATENTS
    ldm-jax train --config=bedrooms --workdir=runs/bedrooms \
        --config.latents.directory=LATENTS

UNet 274M on 64x64x3. Paper: 1.9M steps with batch 48, 60 V100 days (Tab. 18, whose sum
is printed as 55 too); FID 2.95, precision 0.66, recall 0.48 with 200 steps of DDIM
(Tab. 1), eta 1 and IS 2.22 (README of the released code); 1.07 images/s on an A100
(Tab. 18).
"""

from ldm_jax.configs import common


def get_config(arg: str = ""):
    """Returns the experiment."""
    common.parse(arg)
    config = common.latent_diffusion("vq-f4", "lsun_bedrooms")
    config.unet = common.UNET_274M
    config.batch_size = 48
    config.optimizer.learning_rate = 9.6e-5
    config.train.num_steps = 1_900_000
    config.sampling.update(num_steps=200, eta=1.0)
    return config
