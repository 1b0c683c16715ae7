# SPDX-License-Identifier: Apache-2.0
r"""Label maps, e.g. CamVid's streets in 12 classes.

    ldm-jax train --config=small --workdir=runs/first_stage \
        --config.images.dataset=./camvid --config.images.label_maps=maps
    ldm-jax latents --config=small_semantic --model runs/first_stage \
        --out LATENTS --images ./camvid --num-crops 4
    ldm-jax train --config=small_semantic --workdir=runs/semantic \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/semantic --out samples --segmentation map_64x64.png

The sub-folder maps contains a PNG of class numbers for every image. The denoiser takes
maps larger than those it was trained on.
"""

from ldm_jax.configs import common, small


def get_config(arg: str = ""):
    """Returns the experiment."""
    common.parse(arg)
    config = small.diffusion()
    config.images.label_maps = "maps"
    config.transform.update(crop="random", min_scale=0.5)
    channels = 8
    config.condition = dict(kind="semantic", num_classes=12, out_channels=channels)
    common.add_concat(config, channels)
    return config
