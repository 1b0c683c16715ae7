# SPDX-License-Identifier: Apache-2.0
"""Tables of settings: every row is read and written consistently."""

import dataclasses

import pytest

from ldm_jax.interop.config_fields import (
    AUTOENCODER,
    CLIP_TEXT,
    TOKEN_TRANSFORMER,
    UNET,
    read_fields,
    taken,
    write_fields,
)
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.clip import ClipText
from ldm_jax.models.conditioners import TokenTransformer
from ldm_jax.models.unet import UNet

STAGE = Autoencoder(
    channels=64,
    channel_mult=(1, 3),
    num_res_blocks=5,
    latent_channels=7,
    in_channels=4,
    out_channels=5,
    dropout=0.25,
    tanh_out=True,
    mid_attention=False,
    num_groups=16,
)
DENOISER = UNet(
    channels=64,
    channel_mult=(1, 3),
    out_channels=5,
    in_channels=9,
    num_res_blocks=5,
    attention_levels=(),
    num_heads=1,
    scale_shift_norm=True,
    resblock_updown=True,
    conv_resample=False,
    dropout=0.25,
    num_classes=11,
)


WORDS = TokenTransformer(
    vocab_size=11, width=8, depth=3, length=5, num_heads=2, head_channels=4
)
CLIP = ClipText(
    vocab_size=11,
    width=8,
    depth=3,
    length=5,
    num_heads=2,
    mlp_width=7,
    activation="gelu",
)
TABLES = {
    "stage": (AUTOENCODER, STAGE),
    "unet": (UNET, DENOISER),
    "words": (TOKEN_TRANSFORMER, WORDS),
    "clip": (CLIP_TEXT, CLIP),
}


@pytest.mark.parametrize("form", ["compvis", "diffusers"])
@pytest.mark.parametrize(("table", "module"), TABLES.values(), ids=TABLES)
def test_fields_come_back(table, module, form):
    """Identity: values that are not default of anybody's."""
    config = write_fields(table, form, module)
    fields = read_fields(table, form, taken(config))
    expected = [row.ours for row in table if getattr(row, form) is not None]
    assert sorted(fields) == sorted(expected)
    for name, value in fields.items():
        ours = getattr(module, name)
        assert value == (list(ours) if isinstance(ours, tuple) else ours), name


@pytest.mark.parametrize(("table", "module"), TABLES.values(), ids=TABLES)
def test_rows_are_fields_of_our_modules(table, module):
    known = {field.name for field in dataclasses.fields(module)}
    assert {row.ours for row in table} <= known
    assert len({row.ours for row in table}) == len(table)


def test_a_default_fills_what_a_config_leaves_out():
    fields = read_fields(AUTOENCODER, "diffusers", taken({}))
    assert fields["latent_channels"] == 4 and fields["mid_attention"] is True
    with pytest.raises(KeyError):
        read_fields(UNET, "diffusers", taken({}))
    assert "num_classes" not in read_fields(
        UNET, "diffusers", taken({"in_channels": 3, "out_channels": 3})
    )
