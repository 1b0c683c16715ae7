# SPDX-License-Identifier: Apache-2.0
r"""Inpainting of Places (Rombach et al. 2022, Tab. 6, 7 and 15).

    ldm-jax train --config=inpaint:model=big --workdir=runs/inpaint \
        --config.latents.first_stage=models/vq-f4-noattn
    ldm-jax sample --model runs/inpaint --out painted --image a.png --mask a_mask.png

    model=small   LDM-4 with attention in the first stage: UNet 215M; 360k steps with
                  batch 128
    model=noattn  the same without attention in the first stage
    model=kl      the same with a KL first stage; the paper does not say whether its
                  latents were rescaled; here they are
    model=pixels  LDM-1 without a first stage. Its UNet is not published: 220.5M is
                  inferred from "parameters fixed" and its speed
    model=big     387M, first stage without attention. Released as inpainting_big

    paper       at 512 (Tab. 7)     masks of 40-50 %    after 6 epochs (Tab. 6)
                FID   LPIPS         FID    LPIPS        FID     rate at 256, 512
    small       2.15  0.144         11.87  0.257        14.99   0.97  0.34
    noattn      2.37  0.145         12.60  0.259        15.95   0.99  0.36
    kl                                                  15.21   0.97  0.34
    pixels                                              24.74   0.26  0.07
    big         2.40  0.142         12.89  0.257
    big, 512    1.50  0.137         9.39   0.246

FID of Tab. 6 is of 2,000 images. Its rates are of sampling on an A100; their unit and
number of steps are not clear. Its training rates count steps, not images (inferred).
The models are trained at 256 and sample at 512. size=512 fine-tunes all weights for
half an epoch at 512 from --config.train.init_from=runs/inpaint. Its batch size and
learning rate are not published; those of 256 are used, for 900,000 images. Latents for
this config (ldm-jax latents --config) also contain the images, since every step draws
new masks. The command above has no latents: it encodes images in every step.
"""

from ldm_jax.configs import common

MODELS = {
    "small": ("vq-f4", common.UNET_215M),
    "noattn": ("vq-f4-noattn", common.UNET_215M),
    "kl": ("kl-f4", common.UNET_215M),
    "pixels": ("pixels", dict(common.UNET_215M, channel_mult=(1, 1, 1, 4, 8))),
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
    values = common.parse(arg, model="small", size=256)
    autoencoder, unet = common.choose("model", values.model, MODELS)
    batch = 128
    num_steps = common.choose(
        "size", values.size, {256: 360_000, 512: 900_000 // batch}
    )
    config = common.latent_diffusion(autoencoder, "places", values.size)
    config.transform.update(crop="random", mask="train")
    config.schedule.end = 0.0205
    config.condition.kind = "inpaint"
    config.unet = unet
    # The image with its hole, encoded, and the mask.
    channels = config.autoencoder.get("latent_channels", 3)
    config.unet.in_channels = 2 * channels + 1
    config.objective.distance = "l1"
    config.batch_size = batch
    config.optimizer.learning_rate = 1e-6
    config.train.num_steps = num_steps
    config.sampling.num_steps = 200
    return config
