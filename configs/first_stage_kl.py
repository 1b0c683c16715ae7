# SPDX-License-Identifier: Apache-2.0
r"""KL first stages, f = 1 to 32 (Rombach et al. 2022, Sec. 3.1, Tab. 8, App. G).

    ldm-jax weights lpips --download vgg --out weights/lpips.safetensors
    ldm-jax train --config=first_stage_kl:f=8 --workdir=runs/kl-f8 \
        --config.images.manual_dir=OPENIMAGES

    f, variant  at 256         parameters   device's batch  steps    paper: PSNR, R-FID
    1           the image      0            -               -        -
    2           128x128x2      13,314,465   10              200,000  32.47  0.086
    4           64x64x3        55,312,063   10              176,991  27.53  0.27
    8           32x32x4        83,653,863   4               246,803  24.19  0.90
    16          16x16x16       69,610,963   6               442,998  24.08  0.87
    16, c8      16x16x8        69,499,371   6               442,998  21.94  2.63
    32          8x8x64         103,880,131  6               406,763  22.27  2.04
    32, c16     8x8x16         103,197,139  6               406,763  20.38  7.3

Released: f = 4, 8, 16, 32 without a variant. Their batch sizes are those of the
released configs, their steps those of the checkpoints. The others are inferred from the
nearest released model, at f=2 the widths (1, 2) too. The number of GPUs is not
published: devices=8 is our choice. The learning rate follows the original's rule,
4.5e-6 times the batch size.

Cost: not published for KL; VQ took 29 (f=4) and 66 (f=8) V100-days for more steps.
Images: windows of 256x256 from images whose shorter side is 384, that is, 2/3 of it.
The original resizes by OpenCV's bicubic, which does not antialias; this package does.
f=1 has nothing to learn: see imagenet_f.py:f=1.
"""

from ldm_jax.configs import autoencoders, common

# model -> images per device, steps.
RECIPES = {
    "kl-f2": (10, 200_000),
    "kl-f4": (10, 176_991),
    "kl-f8": (4, 246_803),
    "kl-f16": (6, 442_998),
    "kl-f16-c8": (6, 442_998),
    "kl-f32": (6, 406_763),
    "kl-f32-c16": (6, 406_763),
}


def get_config(arg: str = ""):
    """Returns the experiment of one f."""
    name, devices = model_of(arg, RECIPES)
    if name == "pixels":
        return pixels()
    config = published(name, devices, RECIPES)
    config.objective.adversary = dict(disc_start=50_001, disc_weight=0.5, num_layers=3)
    return config


def model_of(arg: str, recipes) -> tuple[str, int]:
    """Reads "f=16,variant=c8,devices=8": (name of the autoencoder, devices).

    Raises:
      ValueError: unknown f or variant; the error lists the known ones.
    """
    values = common.parse(arg, f=8, variant="", devices=8)
    variants: dict[int, dict[str, str]] = {1: {"": "pixels"}}
    for name in recipes:
        _, f, *variant = name.split("-")
        variants.setdefault(int(f[1:]), {})["".join(variant)] = name
    known = common.choose("f", values.f, variants)
    return common.choose("variant", values.variant, known), values.devices


def pixels():
    """Returns f = 1, which `ldm-jax train` answers with what to do instead."""
    config = common.first_stage()
    config.autoencoder = autoencoders.autoencoder("pixels")
    config.objective = dict(perceptual="none")
    return config


def published(name: str, devices: int, recipes, window: float | str = 2 / 3):
    """Makes the part of a config that all of the paper's first stages share.

    Args:
      name: a row of `recipes`.
      devices: of the run.
      recipes: name -> (images per device, steps).
      window: of the image's shorter side that is a part of 256x256.
    """
    per_device, num_steps = recipes[name]
    config = common.first_stage()
    config.images = common.images("openimages")
    config.transform = dict(
        image_size=256, crop="random", min_scale=window, max_scale=window, flip=False
    )
    config.held_out = "validation[:512]"
    config.autoencoder = autoencoders.autoencoder(name)
    config.objective = dict(perceptual="vgg", perceptual_weight=1.0, pixel_loss="l1")
    config.lpips.file = "weights/lpips.safetensors"
    config.batch_size = per_device * devices
    config.optimizer.learning_rate = 4.5e-6 * config.batch_size
    config.train.num_steps = num_steps
    return config
