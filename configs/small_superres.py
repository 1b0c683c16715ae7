# SPDX-License-Identifier: Apache-2.0
r"""Super-resolution by four, 8x8 to 32x32, of any folder of pictures.

    ldm-jax latents --config=small_superres --model runs/first_stage \
        --out LATENTS --images ./photos
    ldm-jax train --config=small_superres --workdir=runs/superres \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/superres --out large --low-res small.png

small.py trains the first stage.
"""

from ldm_jax.configs import common, small


def get_config(arg: str = ""):
    """Returns the experiment."""
    common.parse(arg)
    config = small.diffusion()
    config.transform.low_res = "pil_bicubic"
    config.condition.kind = "superres"
    common.add_concat(config, 3)
    return config
