# SPDX-License-Identifier: Apache-2.0
"""Counts that would take hours are refused before anything is built."""

import pytest

from ldm_jax.diffusion.schedule import make_betas
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet
from tests.counting import few_lines

UNET = dict(
    in_channels=4, out_channels=4, channels=32, channel_mult=(1, 2), num_heads=1
)
HUGE = 10**7
# Lines of Python: about ten times those of a check of all fields.
FEW = 5_000


def test_work_that_grows_with_a_count_is_noticed():
    with pytest.raises(AssertionError, match="still at work"), few_lines(FEW):
        sum(n for n in range(HUGE))


@pytest.mark.parametrize(
    "fields",
    [
        {"num_res_blocks": HUGE},
        {"num_res_blocks": -1},
        {"num_res_blocks": float("nan")},
        {"num_res_blocks": "2"},
        {"num_res_blocks": 1.5},
        {"channels": 64.0},
        {"dropout": 2},
        {"dropout": -0.1},
        {"dropout": float("nan")},
        {"transformer_depth": HUGE},
        {"channels": HUGE * 32},
        {"channel_mult": (1, HUGE)},
        {"channel_mult": (1,) * 10**6},
        {"context_dim": HUGE, "transformer_depth": 1},
        {"num_classes": 10**12},
    ],
    ids=str,
)
def test_a_unet_without_bounds_is_refused_at_once(fields, unchecked_shapes):
    with pytest.raises((ValueError, TypeError)), few_lines(FEW):
        UNet(**{**UNET, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"num_res_blocks": HUGE},
        {"channels": HUGE * 32},
        {"channel_mult": (1,) * 10**6},
        {"latent_channels": HUGE},
        {"channel_mult": ()},
        {"channel_mult": (1, 0)},
        {"channels": 0},
        {"dropout": 1.0},
        {"in_channels": 0},
        {"bottleneck": "vq", "num_codes": 10**12},
    ],
    ids=str,
)
def test_a_first_stage_without_bounds_is_refused_at_once(fields, unchecked_shapes):
    with pytest.raises(ValueError, match=r"Autoencoder\."), few_lines(FEW):
        Autoencoder(**fields)


def test_a_schedule_of_too_many_steps_is_refused_at_once(unchecked_shapes):
    with pytest.raises(ValueError, match="at most 100000"), few_lines(FEW):
        make_betas("linear", 10**8, 1e-4, 2e-2, None)
