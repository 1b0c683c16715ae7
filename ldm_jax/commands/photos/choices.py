# SPDX-License-Identifier: Apache-2.0
"""Chooses the settings of a first stage and a denoiser for a folder and a device.

The choices are the arguments of `ldm_jax.configs.photos.choose`, and are stored as a
config file that can be edited.
"""

import dataclasses
import pprint
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.data.images.survey import Survey
from ldm_jax.files.paths import printable

# Fewer pictures make no model; more classes than this, or fewer pictures of each, are
# not learned in a quickstart.
MIN_IMAGES, MAX_CLASSES, MIN_PER_CLASS = 16, 1000, 8
MIN_SIDE = 16
# f is as large as leaves latents of 16x16: with 8x8, for pictures of 32x32, the first
# stage blurs petals (21.6 dB instead of 27.9 on 600 photographs of flowers).
LATENT_SIDE, MIN_F, MAX_F = 16, 2, 8


class DeviceBudget(NamedTuple):
    """The work that a kind of device can do in half an hour to an hour.

    Attributes:
      sizes: image sizes that are chosen, the largest first.
      stage_channels: of the first stage's finest level.
      channels: of the denoiser's finest level.
      stage_steps, stage_batch_size: of the first stage.
      num_steps, batch_size: of the denoiser.
    """

    sizes: tuple[int, ...]
    stage_channels: int
    channels: int
    stage_steps: int
    stage_batch_size: int
    num_steps: int
    batch_size: int


BUDGETS = dict(
    cpu=DeviceBudget((32, 16), 24, 64, 4000, 8, 5000, 16),
    # Not measured: as much work as these chips do in half an hour at a third of peak.
    gpu=DeviceBudget((256, 128, 64, 32, 16), 64, 128, 10_000, 16, 20_000, 64),
    tpu=DeviceBudget((256, 128, 64, 32, 16), 64, 128, 10_000, 32, 20_000, 128),
)


@dataclasses.dataclass(frozen=True)
class Choices:
    """Settings, with the reason for each that is not a default.

    Attributes:
      settings: arguments of `ldm_jax.configs.photos.choose`.
      reasons: name of a line -> what was chosen and why.
    """

    settings: dict[str, Any]
    reasons: dict[str, str]


def choose_settings(
    pictures: Survey, platform: str, size: int | None = None
) -> Choices:
    """Chooses settings for a folder of pictures.

    Args:
      pictures: the folder.
      platform: "cpu", "gpu" or "tpu".
      size: side of the images; None takes one that fits pictures and device.

    Raises:
      ValueError: too few pictures, too small ones, or a size that f does not divide.
    """
    _check(pictures)
    budget = BUDGETS.get(platform, BUDGETS["gpu"])
    size = _check_size(size) if size else _image_size(pictures, budget)
    f = min(MAX_F, max(size // LATENT_SIDE, MIN_F))
    condition, why = _condition(pictures)
    held_out = "test" if pictures.num_held_out >= 4 else ""
    small = int((pictures.short_sides < size).sum())
    settings = dict(
        images=pictures.folder,
        image_size=size,
        f=f,
        latent_channels=4,
        stage_channels=budget.stage_channels,
        stage_steps=budget.stage_steps,
        stage_batch_size=budget.stage_batch_size,
        channels=budget.channels,
        num_steps=budget.num_steps,
        batch_size=budget.batch_size,
        condition=condition,
        classes=tuple(pictures.classes) if condition == "class" else (),
        captions=(pictures.captions or "") if condition == "text" else "",
        held_out=held_out,
    )
    enlarged = f"; {small} smaller pictures are enlarged" if small else ""
    reasons = {
        "image size": f"{size}x{size}, for a {platform}{enlarged}",
        "latents": f"{size // f}x{size // f}x4, f = {f}",
        "condition": why,
        "held out": f"{pictures.num_held_out} pictures, one in ten"
        if held_out
        else f"none: one in ten of {pictures.count} is too few to measure",
    }
    return Choices(settings, reasons)


def config_file(settings: dict[str, Any]) -> str:
    """Writes the text of a config file with these choices."""
    arguments = "".join(
        f"        {name}={pprint.pformat(value, width=70, compact=True)},\n"
        for name, value in settings.items()
    )
    return f'''"""Choices of `ldm-jax quickstart --images`: edit them and run it again.

The command reads this file as long as it is there. One stage by itself:

    ldm-jax train --config=THIS_FILE:stage=first_stage --workdir=...
"""

from ldm_jax.configs import photos


def get_config(arg=""):
    """Returns one stage's experiment, or all of them."""
    return photos.choose(
        arg,
{arguments}    )
'''


def _check(pictures: Survey) -> None:
    """Raises ValueError where a folder has too few or too small pictures."""
    if pictures.count < MIN_IMAGES:
        raise ValueError(
            f"a model needs at least {MIN_IMAGES} pictures, better some hundreds: "
            f"{printable(pictures.folder)} has {pictures.count} that can be read "
            f"({len(pictures.left_out)} files were left out); add some."
        )
    middle = int(np.median(pictures.short_sides))
    if middle < MIN_SIDE:
        raise ValueError(
            f"pictures must have sides of at least {MIN_SIDE} pixels: half of those in "
            f"{printable(pictures.folder)} have {middle} or fewer; give larger ones."
        )


def _check_size(size: int) -> int:
    """Returns a size that was requested; raises ValueError where it does not fit."""
    if size not in BUDGETS["gpu"].sizes:
        sizes = ", ".join(map(str, sorted(BUDGETS["gpu"].sizes)))
        raise ValueError(f"--size must be one of {sizes}: got {size}.")
    return size


def _image_size(pictures: Survey, budget: DeviceBudget) -> int:
    """Chooses the largest size of the device that nine of ten pictures have."""
    side = np.percentile(pictures.short_sides, 10)
    return next((size for size in budget.sizes if size <= side), budget.sizes[-1])


def _condition(pictures: Survey) -> tuple[str, str]:
    """Chooses the kind of condition: (kind, why)."""
    if pictures.captions:
        return "text", f"text: captions in {pictures.captions}"
    count = len(pictures.classes)
    if count < 2:
        folders = "is only one class folder" if count else "are no class folders"
        return "none", f"none: there {folders} and no captions"
    each = pictures.count / count
    if count > MAX_CLASSES or each < MIN_PER_CLASS:
        return "none", (
            f"none: {count:,} class folders, on average with {each:.3g} pictures, "
            f"cannot be learned here (at most {MAX_CLASSES:,} with {MIN_PER_CLASS} or "
            "more); to use fewer classes, give a folder with some of them"
        )
    return "class", f"class: {count} folders"
