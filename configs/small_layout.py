# SPDX-License-Identifier: Apache-2.0
r"""Boxes with classes, e.g. a part of COCO with its instances.

    ldm-jax latents --config=small_layout --model runs/first_stage \
        --out LATENTS --images ./coco --num-crops 8
    ldm-jax train --config=small_layout --workdir=runs/layout \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/layout --out samples --boxes boxes.json

The folder contains boxes.json in COCO's format, with 80 classes. small.py trains the
first stage.
"""

from ldm_jax.configs import common, small


def get_config(arg: str = ""):
    """Returns the experiment."""
    common.parse(arg)
    config = small.diffusion(num_steps=2500)
    config.images.update(split="all", boxes="boxes.json")
    config.transform.update(crop="random", min_scale=0.5)
    width = 64
    # The condition contains the ten largest boxes of an image.
    objects = config.transform.max_boxes = 10
    config.condition = dict(
        kind="layout", num_classes=80, width=width, depth=2, max_objects=objects
    )
    small.attend(config, width)
    return config
