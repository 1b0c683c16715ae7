# SPDX-License-Identifier: Apache-2.0
r"""VQ first stages, f = 1 to 32 (Rombach et al. 2022, Sec. 3.1, Tab. 8, App. G).

    ldm-jax weights lpips --download vgg --out weights/lpips.safetensors
    ldm-jax train --config=first_stage_vq:f=8 --workdir=runs/vq-f8 \
        --config.images.manual_dir=OPENIMAGES

    f, variant  at 256     codes   parameters   batch  steps      PSNR   R-FID
    1           the image  -       0            -      -          -      -
    2           128x128x2  2,048   13,313,937   8      500,000    30.85  0.16
    2, n64      128x128x2  64      13,309,969   8      500,000    29.13  0.40
    4           64x64x3    8,192   55,322,782   8      533,066    27.43  0.58
    4, noattn   64x64x3    8,192   53,219,486   8      658,131    25.21  1.06
    4, n256     64x64x3    256     55,298,974   8      533,066    26.43  0.47
    8           32x32x4    16,384  67,717,295   10     971,043    23.07  1.14
    8, n256     32x32x4    256     67,652,783   10     1,608,649  22.35  1.49
    16          16x16x8    16,384  69,593,371   14     1,101,166  20.83  5.15
    32          8x8x16     16,384  103,384,755  14     1,100,000  17.45  31.83
    32, c32     8x8x32     16,384  103,795,939  14     1,100,000  -      -

Released: f = 4, noattn, 8, n256 at 8, 16. The others are inferred as in
first_stage_kl.py, which also describes the data and the learning rate. Tab. 13 and 14
give the latents of f = 32 the 32 channels of c32, Tab. 8 gives them 16.

Windows: f = 4 and noattn cut 256 pixels out of the image without resizing it (a smaller
image is enlarged), and so do f = 2 and n256 at 4 (inferred); the others take 2/3 of the
shorter side. The original trained these models with its VQGAN code, which has a bug in
the penalty; `legacy_beta` reproduces it. The adversary starts at step 0 at f = 4 and 8,
and after 250,000 steps at n256 and f = 16; at f = 8 and 16 its patches have 34 pixels,
not 70.

The batch is per device. PSNR and R-FID are the paper's, as is the cost of 29 V100-days
at f = 4 and 66 at f = 8 (Tab. 18).
"""

from ldm_jax.configs import first_stage_kl

# model -> images per device, steps.
RECIPES = {
    "vq-f2": (8, 500_000),
    "vq-f2-n64": (8, 500_000),
    "vq-f4": (8, 533_066),
    "vq-f4-noattn": (8, 658_131),
    "vq-f4-n256": (8, 533_066),
    "vq-f8": (10, 971_043),
    "vq-f8-n256": (10, 1_608_649),
    "vq-f16": (14, 1_101_166),
    "vq-f32": (14, 1_100_000),
    "vq-f32-c32": (14, 1_100_000),
}
# model -> fields of its adversary that differ from disc_start=0, disc_weight=0.75,
# num_layers=3.
ADVERSARIES = {
    "vq-f4-noattn": dict(disc_start=11),
    "vq-f8": dict(disc_start=1, disc_weight=0.6, num_layers=2),
    "vq-f8-n256": dict(disc_start=250_001),
    "vq-f16": dict(disc_start=250_001, num_layers=2),
    "vq-f32": dict(disc_start=250_001, num_layers=2),
    "vq-f32-c32": dict(disc_start=250_001, num_layers=2),
}


def get_config(arg: str = ""):
    """Returns the experiment of one f."""
    name, devices = first_stage_kl.model_of(arg, RECIPES)
    if name == "pixels":
        return first_stage_kl.pixels()
    window = "native" if name.startswith(("vq-f2", "vq-f4")) else 2 / 3
    config = first_stage_kl.published(name, devices, RECIPES, window)
    adversary = dict(disc_start=0, disc_weight=0.75, num_layers=3)
    config.objective.adversary = {**adversary, **ADVERSARIES.get(name, {})}
    return config
