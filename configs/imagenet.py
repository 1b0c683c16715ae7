# SPDX-License-Identifier: Apache-2.0
r"""Class-conditional ImageNet 256x256 (Rombach et al. 2022, Tab. 3, 10 and 15).

    ldm-jax latents --config=imagenet --model models/vq-f4 --out LATENTS
    ldm-jax train --config=imagenet --workdir=runs/imagenet \
        --config.latents.directory=LATENTS

    f=4   LDM-4: UNet 401M; 178k steps with batch 1200, 271 V100 days; FID 10.56 with
          250 sampling steps; with guidance scale 1.5, FID 3.60 and IS 247.67. Released
          as cin256-v2: one head per level.
    f=8   LDM-8: UNet 395M; 4.8M steps with batch 64, 79 V100 days; FID 15.51. It can be
          guided only by a classifier. Released as cin256.

Classifier-free guidance needs training with dropped labels. The paper's text and code
do not give the probability; 0.1 is from Ho & Salimans 2022.
"""

from ldm_jax.configs import common

MODELS = {
    4: dict(
        autoencoder="vq-f4",
        has_null=True,
        unet=dict(common.IMAGENET_UNETS[4], num_heads=1),
        batch_size=1200,
        learning_rate=1e-4,
        num_steps=178_000,
        sampling=dict(num_steps=250, eta=1.0, guidance_scale=1.5),
    ),
    8: dict(
        autoencoder="vq-f8",
        has_null=False,
        unet=dict(common.IMAGENET_UNETS[8], head_channels=32),
        batch_size=64,
        learning_rate=6.4e-5,
        num_steps=4_800_000,
        sampling=dict(num_steps=200, eta=1.0),
    ),
}


def get_config(arg: str = ""):
    """Returns the experiment at one f."""
    model = common.choose("f", common.parse(arg, f=4).f, MODELS)
    config = common.latent_diffusion(model["autoencoder"], "imagenet")
    config.latents.flip = False
    config.transform.crop = "random"
    config.unet = model["unet"]
    common.add_classes(config, 1000, model["has_null"])
    config.objective.drop_probability = 0.1 if model["has_null"] else 0.0
    config.batch_size = model["batch_size"]
    config.optimizer.learning_rate = model["learning_rate"]
    config.train.num_steps = model["num_steps"]
    config.sampling.update(model["sampling"])
    return config
