# SPDX-License-Identifier: Apache-2.0
r"""Layout to image 256x256 (Rombach et al. 2022, Tab. 9 and 15).

    ldm-jax latents --config=layout:data=coco --model models/vq-f8 \
        --out LATENTS
    ldm-jax train --config=layout:data=coco --workdir=runs/layout_coco \
        --config.latents.directory=LATENTS

    data=openimages   LDM-4: UNet 246M, layout encoder 59M; 4.4M steps with batch 24.
                      FID 32.02; its sampling steps are not known, and 200 are used
                      here. 340 of Open Images' 600 classes with their attributes, in a
                      table of 352 class ids; see configs/open_images.py.
                      size=512: FID 35.80; its hyperparameters are not published. Those
                      of 256 are used, from --config.train.init_from=runs/layout
                      (inferred).
    data=coco4        LDM-4 for COCO, fine-tuned from the model of Open Images by
                      --config.train.init_from: FID 40.91, 200 steps. Its training
                      steps are not published; class embeddings start from scratch.
    data=coco         LDM-8 with VQ-f8 (Tab. 15): UNet 312M, layout encoder 59M; 170k
                      steps with batch 48. FID 42.06, 100 steps. 80 classes.

The size that Tab. 9 gives for COCO, 345M, is that of a layout encoder of 8 layers
(345,893,252 parameters: data=coco,depth=8). The default is the 16 layers of Tab. 17,
which give 371.1M. Images are square windows with a side from 256 pixels to the shorter
side, and objects come in a new order each time. One thing differs from the original: it
gives the model the window and the boxes of the whole image; this config gives the boxes
inside the window.
"""

from ldm_jax.configs import common, open_images

MODELS = {
    "openimages": dict(
        dataset="openimages_layout",
        autoencoder="vq-f4",
        classes=dict(
            num_classes=open_images.NUM_IDS,
            has_attributes=True,
            class_names=open_images.NAMES,
        ),
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
        autoencoder="vq-f8",
        classes=dict(num_classes=80),
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
MODELS["coco4"] = dict(
    MODELS["openimages"],
    dataset="coco2017",
    classes=dict(num_classes=80),
    num_steps=170_000,
)


def get_config(arg: str = ""):
    """Returns one data set's experiment."""
    values = common.parse(arg, data="openimages", depth=16, size=256)
    model = common.choose("data", values.data, MODELS)
    size = common.choose("size", values.size, {256: 256, 512: 512})
    config = common.latent_diffusion(model["autoencoder"], model["dataset"], size)
    config.transform = dict(crop="random", min_scale="native")
    config.schedule.end = 0.0205
    width = 512
    config.condition = dict(
        kind="layout",
        width=width,
        depth=values.depth,
        random_order=True,
        **model["classes"],
    )
    config.unet = dict(model["unet"], head_channels=32, context_dim=width)
    config.objective.distance = "l1"
    config.batch_size = model["batch_size"]
    config.optimizer.learning_rate = model["learning_rate"]
    config.train.num_steps = model["num_steps"]
    config.sampling.num_steps = model["sampling_steps"]
    return config
