# SPDX-License-Identifier: Apache-2.0
r"""Classes from a folder whose sub-folders are classes, e.g. Fashion-MNIST; or none.

    ldm-jax latents --config=small_class --model runs/first_stage \
        --out LATENTS --images ./fashion_mnist
    ldm-jax train --config=small_class --workdir=runs/class \
        --config.latents.directory=LATENTS
    ldm-jax sample --model runs/class --out samples --label 0,1,2 --num 12

kind=none learns the same pictures without a condition. The first stage: small.py.
"""

from ldm_jax.configs import common, small


def get_config(arg: str = ""):
    """Returns the experiment with ten classes, or with no condition."""
    kind = common.parse(arg, kind="class").kind
    has_classes = common.choose("kind", kind, {"class": True, "none": False})
    config = small.diffusion()
    if has_classes:
        width = 64
        config.condition = dict(kind="class", num_classes=10, width=width)
        small.attend(config, width)
    return config
