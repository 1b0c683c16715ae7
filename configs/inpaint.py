# SPDX-License-Identifier: Apache-2.0
r"""Inpainting of Places (Rombach et al. 2022, Tab. 6, 7 and 15).

    ldm-jax train --config=inpaint:model=big --workdir=runs/inpaint \
        --config.latents.first_stage=models/vq-f4-noattn
    ldm-jax sample --model runs/inpaint --out painted --image a.png --mask a_mask.png

    model=small   LDM-4 with attention in the first stage: UNet 215M; 360k steps of 128.
                  FID 2.15, LPIPS 0.144 at 512 (Tab. 7).
    model=big     387M, first stage without attention: FID 2.40, LPIPS 0.142; after
                  half an epoch at 512 1.50 and 0.137. The released inpainting_big.

Trained on 256, at 512 sampled. Latents for it (ldm-jax latents --config) hold the
images as well, since every step draws new holes; here images are encoded in the step.
"""

from ldm_jax.configs import common

MODELS = {
    "small": ("vq-f4", common.UNET_215M),
    "big": (
        "vq-f4-noattn",
        dict(
            channels=256,
            channel_mult=(1, 2, 3, 4),
            attention_levels=(1, 2, 3),
            num_heads=8,
            resblock_updown=True,
        ),
    ),
}


def get_config(arg: str = ""):
    """Returns one model's experiment."""
    name = common.parse(arg, model="small").model
    autoencoder, unet = common.choose("model", name, MODELS)
    config = common.latent_diffusion(autoencoder, "places")
    config.transform.update(crop="random", mask="train")
    config.schedule.end = 0.0205
    config.condition.kind = "inpaint"
    config.unet = unet
    # The image with its hole, encoded, and the mask.
    common.add_concat(config, config.autoencoder.latent_channels + 1)
    config.objective.distance = "l1"
    config.batch_size = 128
    config.optimizer.learning_rate = 1e-6
    config.train.num_steps = 360_000
    config.sampling.num_steps = 200
    return config
