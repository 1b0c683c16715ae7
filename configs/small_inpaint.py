# SPDX-License-Identifier: Apache-2.0
r"""Inpainting of any folder of pictures, 32x32.

    ldm-jax latents --config=small_inpaint --model runs/first_stage \
        --out LATENTS --images ./photos
    ldm-jax train --config=small_inpaint --workdir=runs/inpaint \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/inpaint --out painted --image a.png --mask a_mask.png

The latents also contain the images, because every step draws new masks. small.py trains
the first stage.
"""

from ldm_jax.configs import common, small


def get_config(arg: str = ""):
    """Returns the experiment."""
    common.parse(arg)
    config = small.diffusion()
    config.transform.mask = "train"
    config.condition.kind = "inpaint"
    common.add_concat(config, config.autoencoder.latent_channels + 1)
    return config
