# SPDX-License-Identifier: Apache-2.0
"""Options of an Autoencoder that cannot work are refused when it is built."""

import pytest

from ldm_jax.models.autoencoder import Autoencoder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(bottleneck="gumbel"), "unknown bottleneck"),
        (dict(attn_type="none"), "unknown attn_type"),
        (dict(remat="some"), "unknown remat"),
        (dict(attention_levels=(4,)), "attention_levels"),
        (dict(num_groups=24), r"\[128, 256, 512, 512\].*num_groups: got 24"),
        (dict(num_groups=0), "num_groups: got 0"),
        (dict(bottleneck="vq"), "num_codes"),
        (dict(num_codes=8), "num_codes"),
        (dict(code_range=0.5), "code_range"),
        (dict(bottleneck="vq", num_codes=8, code_range=0.0), "code_range"),
        (dict(bottleneck="pixels", in_channels=1), "pixels"),
    ],
)
def test_options_that_do_not_fit_are_refused_when_built(fields, message):
    with pytest.raises(ValueError, match=message):
        Autoencoder(**fields)
