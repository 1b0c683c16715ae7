# SPDX-License-Identifier: Apache-2.0
"""CLIP's image encoder: its size, and the length of its vectors."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.models.features.clip_image import ClipImage


def test_the_image_encoder_has_the_published_number_of_parameters():
    """Golden: 303,179,776 and the projection of OpenAI's ViT-L/14."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(ClipImage().init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == 303_179_776 + 786_432


def test_vectors_have_unit_length_and_depend_on_every_patch():
    """Identity: length 1; a changed corner changes the vector of that image alone."""
    network = ClipImage(8, patch=4, width=16, depth=1, num_heads=2, pooled=6)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.integers(0, 256, (2, 8, 8, 3)), jnp.uint8)
    params = network.init(jax.random.key(0), image)
    vectors = network.apply(params, image)
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1, rtol=1e-6)
    changed = network.apply(params, image.at[0, -1, -1].set(255 - image[0, -1, -1]))
    assert np.abs(changed[0] - vectors[0]).max() > 1e-4
    np.testing.assert_array_equal(changed[1], vectors[1])
