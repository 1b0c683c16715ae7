# SPDX-License-Identifier: Apache-2.0
"""A small first stage for tests, and random variables for it."""

import jax
import jax.numpy as jnp
import numpy as np

TINY = dict(channels=32, channel_mult=(1, 1), num_res_blocks=1)


def init(model, shape=(1, 16, 24, 3)):
    """Random variables made without compiling the initializers, and an image."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    draw = lambda x: jnp.asarray(rng.normal(0, x.size**-0.25, x.shape), x.dtype)  # noqa: E731
    return jax.tree.map(draw, shapes), image
