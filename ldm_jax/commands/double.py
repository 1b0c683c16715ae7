# SPDX-License-Identifier: Apache-2.0
"""Samples images twice as large as usual, guided by samples of the usual size."""

from collections.abc import Mapping
from typing import Any

from ldm_jax.commands.sample import write_samples
from ldm_jax.commands.sampling.drawing import Guidance
from ldm_jax.files.formats.structured import read_json

SMALL = "small"


def write_doubled(
    model_dir: str,
    out: str,
    inputs: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    guidance: Guidance,
    image_size: tuple[int, int] | None = None,
    images: Mapping[str, str] | None = None,
    **settings: Any,
) -> None:
    """Samples images into OUT/small, then images twice as large into OUT.

    The large images are sampled by the same network, applied to larger latents, and
    guided so that their reductions resemble the small ones. Interrupted and run again
    it makes the images that are missing.

    Args:
      model_dir: a diffusion model.
      out: directory of the large images.
      inputs, options, settings: of `write_samples`, for both.
      guidance: its images are those of OUT/small, with the transform "down2".
      image_size: (height, width) of the small images; None is that of training.
      images: of `write_samples`; there may be none.

    Raises:
      ValueError: the condition determines the size, or images are given.

    Source: Rombach et al. 2022, App. C, Fig. 14.
    """
    if images:
        raise ValueError(
            f"--double samples at two sizes: got --{', --'.join(sorted(images))}, "
            "which is of one size; leave it out."
        )
    small = f"{out}/{SMALL}"
    of_small = guidance._replace(images=None)
    write_samples(
        model_dir,
        small,
        inputs,
        options,
        image_size=image_size,
        guidance=of_small,
        **settings,
    )
    height, width = read_json(f"{small}/settings.json")["image_size"]
    double = (2 * height, 2 * width)
    write_samples(
        model_dir,
        out,
        inputs,
        options,
        image_size=double,
        guidance=guidance,
        **settings,
    )
