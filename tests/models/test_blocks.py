# SPDX-License-Identifier: Apache-2.0
"""Parts of a UNet: the time embedding, and heads that divide the channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.blocks import timestep_embedding
from ldm_jax.models.unet import UNet
from tests.models.tiny_unet import TINY, example


def test_time_embedding_is_cosines_then_sines():
    """Golden: d=8, t=1 of the original."""
    expected = [0.54030, 0.99500, 0.99995, 1.0, 0.84147, 0.099833, 0.0099998, 0.0010]
    np.testing.assert_allclose(
        timestep_embedding(jnp.array([1]), 8)[0], expected, atol=5e-6
    )
    assert timestep_embedding(jnp.array([7]), 5)[0, 4] == 0


@pytest.mark.parametrize("head_channels", [24, 256])
def test_heads_that_do_not_divide_the_channels_are_refused(head_channels):
    unet = UNet(**(TINY | dict(head_channels=head_channels)))
    with pytest.raises(ValueError, match="must divide the channels"):
        jax.eval_shape(unet.init, jax.random.key(0), *example(unet))
