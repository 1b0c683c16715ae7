# SPDX-License-Identifier: Apache-2.0
r"""Semantic synthesis of landscapes (Rombach et al. 2022, Sec. 4.3.2, Tab. 15).

    ldm-jax latents --config=semantic --model models/vq-f4 --out LATENTS \
        --manual-dir ./landscapes
    ldm-jax train --config=semantic --workdir=runs/semantic \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/semantic --out wide --segmentation map_512x1024.png

UNet 215M with attention in the middle only, so that it takes maps larger than those it
was trained on. 360k steps with batch 48 at 256; size=512 fine-tunes the same model.
Images are windows of 2/3 of the shorter side: 256 of 384, and at 512 (inferred) 512 of
768. Maps have COCO-Stuff's 182 classes.

    f=4 (default)   VQ-f4, as in the released models
    f=8             VQ-f8, as in Tab. 15; UNet 215,232,772
    stage=kl-f4     KL-f4, rescaled, or not with scale=raw: Fig. 15, where large images
                    from raw latents (larger standard deviation) are worse
    maps=none       the same UNet without maps: an unconditional model of landscapes,
                    which Fig. 14 samples at 512 with ldm-jax sample --double. Its
                    hyperparameters are not published; these are inferred.
"""

from ldm_jax.configs import common


def get_config(arg: str = ""):
    """Returns the experiment at one size."""
    values = common.parse(arg, size=256, f=4, stage="", scale="measured", maps="182")
    has_maps = common.choose("maps", values.maps, {"182": True, "none": False})
    is_raw = common.choose("scale", values.scale, {"measured": False, "raw": True})
    size = values.size
    rate = common.choose("size", size, {256: 4.8e-5, 512: 8e-6})
    stage = common.choose("f", values.f, {4: "vq-f4", 8: "vq-f8"})
    config = common.latent_diffusion(
        values.stage or stage, "landscapes", image_size=size
    )
    if is_raw:
        config.latents.scale = 1.0
    config.transform = dict(crop="random", min_scale=2 / 3, max_scale=2 / 3)
    config.schedule.end = 0.0205
    config.unet = common.UNET_215M
    channels = config.autoencoder.latent_channels
    if has_maps:
        config.condition = dict(kind="semantic", num_classes=182, out_channels=channels)
        common.add_concat(config, channels)
    config.objective.distance = "l1"
    config.batch_size = {256: 48, 512: 8}[size]
    config.optimizer.learning_rate = rate
    config.train.num_steps = 360_000
    config.sampling.num_steps = 200
    return config
