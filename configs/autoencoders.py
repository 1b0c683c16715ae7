# SPDX-License-Identifier: Apache-2.0
"""Contains the paper's autoencoders (Tab. 8), in one table for all configs.

    name            f   latent at 256   codes    released as
    kl-f2           2   128x128x2                no
    kl-f4           4   64x64x3                  kl-f4
    kl-f8           8   32x32x4                  kl-f8
    kl-f16         16   16x16x16                 kl-f16
    kl-f16-c8      16   16x16x8                  no
    kl-f32         32   8x8x64                   kl-f32
    kl-f32-c16     32   8x8x16                   no
    vq-f2           2   128x128x2       2048     no
    vq-f2-n64       2   128x128x2       64       no
    vq-f4           4   64x64x3         8192     vq-f4
    vq-f4-noattn    4   64x64x3         8192     vq-f4-noattn
    vq-f4-n256      4   64x64x3         256      no
    vq-f8           8   32x32x4         16384    vq-f8
    vq-f8-n256      8   32x32x4         256      vq-f8-n256
    vq-f16         16   16x16x8         16384    vq-f16
    vq-f32         32   8x8x16          16384    no
    vq-f32-c32     32   8x8x32          16384    no; Tab. 13 and 14 have 32 channels
    pixels          1   256x256x3                no network

The level widths of models that were not released are inferred: one level for each
halving, (1, 2) at f = 2, and for VQ at f = 32 those of the released KL model.
"""

from typing import Any


def _levels(f: int, mult: tuple[int, ...], attention: tuple[int, ...] = ()):
    """Makes the levels; `attention` lists grid sides for images of 256 pixels."""
    assert 2 ** (len(mult) - 1) == f, (f, mult)
    levels = tuple((256 // side).bit_length() - 1 for side in attention)
    return dict(channel_mult=mult, attention_levels=levels)


F2 = _levels(2, (1, 2))
F4 = _levels(4, (1, 2, 4))
F8_KL = _levels(8, (1, 2, 4, 4))
F8_VQ = _levels(8, (1, 2, 2, 4), (32,))
F16 = _levels(16, (1, 1, 2, 2, 4), (16,))
F32 = _levels(32, (1, 1, 2, 2, 4, 4), (16, 8))


def _kl(levels: dict[str, Any], c: int) -> dict[str, Any]:
    return dict(bottleneck="kl", latent_channels=c, channels=128, **levels)


def _vq(levels: dict[str, Any], c: int, num_codes: int) -> dict[str, Any]:
    return {**_kl(levels, c), "bottleneck": "vq", "num_codes": num_codes}


AUTOENCODERS: dict[str, dict[str, Any]] = {
    "kl-f2": _kl(F2, 2),
    "kl-f4": _kl(F4, 3),
    "kl-f8": _kl(F8_KL, 4),
    "kl-f16": _kl(F16, 16),
    "kl-f16-c8": _kl(F16, 8),
    "kl-f32": _kl(F32, 64),
    "kl-f32-c16": _kl(F32, 16),
    "vq-f2": _vq(F2, 2, 2048),
    "vq-f2-n64": _vq(F2, 2, 64),
    "vq-f4": _vq(F4, 3, 8192),
    "vq-f4-noattn": {**_vq(F4, 3, 8192), "mid_attention": False},
    "vq-f4-n256": _vq(F4, 3, 256),
    "vq-f8": _vq(F8_VQ, 4, 16384),
    "vq-f8-n256": _vq(F8_VQ, 4, 256),
    "vq-f16": _vq(F16, 8, 16384),
    "vq-f32": _vq(F32, 16, 16384),
    "vq-f32-c32": _vq(F32, 32, 16384),
    "pixels": dict(bottleneck="pixels"),
}


def autoencoder(name: str) -> dict[str, Any]:
    """Returns the fields of an autoencoder of the table.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in AUTOENCODERS:
        raise ValueError(
            f'unknown autoencoder "{name}"; one of: {", ".join(AUTOENCODERS)}.'
        )
    return dict(AUTOENCODERS[name])
