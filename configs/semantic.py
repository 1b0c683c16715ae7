# SPDX-License-Identifier: Apache-2.0
r"""Semantic synthesis of landscapes (Rombach et al. 2022, Sec. 4.3.2, Tab. 15).

    ldm-jax latents --config=semantic --model models/vq-f4 --out LATENTS \
        --manual-dir ./landscapes
    ldm-jax train --config=semantic --workdir=runs/semantic \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/semantic --out wide --segmentation map_512x1024.png

UNet 215M: attention in the middle only, so that it takes maps larger than it was
trained on. 360k steps of 48, at 256; size=512 fine-tunes the same model. Tab. 15 says
f = 8, the released models have f = 4; we follow them. Maps have COCO-Stuff's 182
classes.
"""

from ldm_jax.configs import common


def get_config(arg: str = ""):
    """Returns the experiment at one size."""
    size = common.parse(arg, size=256).size
    rate = common.choose("size", size, {256: 4.8e-5, 512: 8e-6})
    config = common.latent_diffusion("vq-f4", "landscapes", image_size=size)
    config.transform.crop = "random"
    config.schedule.end = 0.0205
    config.unet = common.UNET_215M
    channels = 3
    config.condition = dict(kind="semantic", num_classes=182, out_channels=channels)
    common.add_concat(config, channels)
    config.objective.distance = "l1"
    config.batch_size = {256: 48, 512: 8}[size]
    config.optimizer.learning_rate = rate
    config.train.num_steps = 360_000
    config.sampling.num_steps = 200
    return config
