# SPDX-License-Identifier: Apache-2.0
"""Small trained models that are part of the package, each a folder with a card.

`ldm-jax sample --model digits`, `ldm_jax.load("digits")`. They are written by
`ldm-jax export DIR --to=compact`.
"""

import pathlib

FOLDER = pathlib.Path(__file__).parent


def pretrained_names() -> list[str]:
    """Lists the models."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))
