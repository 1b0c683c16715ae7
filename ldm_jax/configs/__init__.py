# SPDX-License-Identifier: Apache-2.0
"""The experiments: the files of the folder `configs/`, importable from anywhere.

    from ldm_jax.configs import common

A wheel contains those files in this folder. In a clone they stay in `configs/` next to
the package, and `__path__` points there, whether the clone is installed or only on
PYTHONPATH.
"""

import pathlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the files that others import: a type checker reads no `__path__`
    from configs import autoencoders as autoencoders
    from configs import celebahq_f as celebahq_f
    from configs import common as common
    from configs import first_stage_kl as first_stage_kl
    from configs import first_stage_vq as first_stage_vq
    from configs import imagenet_f as imagenet_f
    from configs import open_images as open_images
    from configs import small as small

if not pathlib.Path(__file__).with_name("common.py").exists():
    __path__ = [str(pathlib.Path(__file__).parents[2] / "configs")]

# What experiments are made of, and no experiments themselves.
PARTS = {"autoencoders", "common", "open_images"}


class ArgumentError(ValueError):
    """Raised when the text after the colon of --config=NAME:ARGUMENT does not fit.

    Attributes:
      takes: the config's arguments and their defaults, where they are known.
    """

    def __init__(self, message: str, takes: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.takes = takes


def names() -> list[str]:
    """Lists the experiments."""
    return sorted({m.name for m in pkgutil.iter_modules(__path__)} - PARTS)
