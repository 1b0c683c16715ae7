# SPDX-License-Identifier: Apache-2.0
r"""Classes from a folder whose sub-folders are classes, e.g. Fashion-MNIST; or none.

    ldm-jax latents --config=small_class --model runs/first_stage \
        --out LATENTS --images ./fashion_mnist
    ldm-jax train --config=small_class --workdir=runs/class \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/class --out samples --label 0,1,2 --num 12

kind=none trains on the same pictures without a condition. small.py trains the first
stage. The autoencoder, the image size, and the number and names of the classes are read
from the latents.
"""

from ml_collections.config_dict import placeholder

from ldm_jax.configs import common, small


def get_config(arg: str = ""):
    """Returns the experiment with the classes of its data, or with no condition."""
    kind = common.parse(arg, kind="class").kind
    has_classes = common.choose("kind", kind, {"class": True, "none": False})
    config = small.diffusion()
    config.autoencoder = {}
    config.latents.image_size = placeholder(int)
    if has_classes:
        width = 64
        config.condition = dict(kind="class", num_classes=placeholder(int), width=width)
        small.attend(config, width)
    return config
