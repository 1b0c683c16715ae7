# SPDX-License-Identifier: Apache-2.0
r"""Class-conditional ImageNet 256x256 (Rombach et al. 2022, Tab. 3, 10 and 15).

    ldm-jax latents --config=imagenet --model models/vq-f4 --out LATENTS
    ldm-jax train --config=imagenet --workdir=runs/imagenet \
        --config.latents.directory=LATENTS

    f=4   LDM-4: UNet 401M; 178k steps with batch 1200, 271 V100 days. Released as
          cin256-v2: one head per level.
    f=8   LDM-8: UNet 395M; 4.8M steps with batch 64, 79 V100 days. It can be guided
          only by a classifier (imagenet_classifier.py). Released as cin256.

    paper               steps  FID    IS      precision  recall  images/s (Tab. 18)
    f=4 (Tab. 3)        250    10.56  103.49  0.71       0.62    0.7
    scale 1.25          250    3.95   178.22  0.81       0.55
    scale 1.5           250    3.60   247.67  0.87       0.48    0.4
    f=8 (Tab. 10)       200    15.51  79.03   0.65       0.63    1.9
    after 2.9M steps    200    17.41  72.92   0.65       0.62

Sampling steps of f=8 are those of the README of the released code, as is eta 1.
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
