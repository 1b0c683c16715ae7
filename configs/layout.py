# SPDX-License-Identifier: Apache-2.0
r"""Layout to image 256x256 (Rombach et al. 2022, Tab. 9 and 15).

    ldm-jax latents --config=layout:data=coco --model models/kl-f8 \
        --out LATENTS
    ldm-jax train --config=layout:data=coco --workdir=runs/layout_coco \
        --config.latents.directory=LATENTS

    data=openimages   LDM-4: UNet 246M, boxes 59M; 4.4M steps of 24. FID 32.02, 200
                      steps. 600 classes with boxes.
    data=coco         LDM-8: UNet 312M, boxes 59M; 170k steps of 48. FID 42.06, 100
                      steps. 80 classes. The rate is that of semantic synthesis, which
                      has the same batch; the paper's is not in our notes.
"""

from ldm_jax.configs import common

MODELS = {
    "openimages": dict(
        dataset="openimages",
        autoencoder="vq-f4",
        num_classes=600,
        unet=dict(
            channels=128,
            channel_mult=(1, 2, 3, 4),
            attention_levels=(1, 2, 3),
            transformer_depth=3,
        ),
        batch_size=24,
        learning_rate=4.8e-5,
        num_steps=4_400_000,
        sampling_steps=200,
    ),
    "coco": dict(
        dataset="coco2017",
        autoencoder="kl-f8",
        num_classes=80,
        unet=dict(
            channels=192,
            channel_mult=(1, 2, 4),
            attention_levels=(0, 1, 2),
            transformer_depth=2,
            dropout=0.1,
        ),
        batch_size=48,
        learning_rate=4.8e-5,
        num_steps=170_000,
        sampling_steps=100,
    ),
}


def get_config(arg: str = ""):
    """Returns one data set's experiment."""
    data = common.parse(arg, data="openimages").data
    model = common.choose("data", data, MODELS)
    config = common.latent_diffusion(model["autoencoder"], model["dataset"])
    config.schedule.end = 0.0205
    width = 512
    config.condition = dict(
        kind="layout", num_classes=model["num_classes"], width=width, depth=16
    )
    config.unet = dict(model["unet"], head_channels=32, context_dim=width)
    config.objective.distance = "l1"
    config.batch_size = model["batch_size"]
    config.optimizer.learning_rate = model["learning_rate"]
    config.train.num_steps = model["num_steps"]
    config.sampling.num_steps = model["sampling_steps"]
    return config
