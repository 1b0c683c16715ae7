# SPDX-License-Identifier: Apache-2.0
"""CLIP's text encoder against transformers, and its published size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.clip import ClipText


def shapes(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def test_clip_tower_of_vit_l_14_has_the_published_number_of_parameters():
    """Golden: 123,060,480 parameters in OpenAI's ViT-L/14 text model."""
    tree = shapes(ClipText(), jnp.zeros((1, 77), jnp.int32))
    assert sum(x.size for x in jax.tree.leaves(tree)) == 123_060_480


@pytest.mark.torch
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_tower_agrees_with_transformers(activation):
    """Golden: CLIPTextModelWithProjection of transformers on random weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from ldm_jax.interop.feature_networks.clip import import_clip

    sizes = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=4, intermediate_size=64, projection_dim=16)
    config = transformers.CLIPTextConfig(
        **sizes, max_position_embeddings=10, hidden_act=activation
    )
    config.eos_token_id = 49
    torch.manual_seed(0)
    other = transformers.CLIPTextModelWithProjection(config).eval()
    tokens = np.array([[3, 7, 9, 49, 0, 0], [1, 2, 49, 0, 0, 0]])
    fields = dict(vocab_size=50, width=32, depth=2, length=10, num_heads=4)
    fields |= dict(mlp_width=64, activation=activation)
    tensors = {k: v.numpy() for k, v in other.state_dict().items()}
    with torch.no_grad():
        out = other(torch.tensor(tokens))
    for pooled, expected in ((None, out.last_hidden_state), (16, out.text_embeds)):
        network = ClipText(**fields, pooled=pooled)
        params = import_clip(shapes(network, jnp.asarray(tokens)), tensors)
        ours = network.apply({"params": params}, jnp.asarray(tokens))
        expected = expected.numpy()
        if pooled:
            norm = np.linalg.norm(expected, axis=-1, keepdims=True)
            expected = (expected / norm)[:, None]
        np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_clip_tower_looks_only_back():
    """Identity: a later token does not change what stands before it."""
    network = ClipText(20, 16, 1, 6, num_heads=2)
    a, b = jnp.array([[1, 2, 3, 4]]), jnp.array([[1, 2, 3, 9]])
    params = network.init(jax.random.key(0), a)
    change = network.apply(params, a) - network.apply(params, b)
    assert not change[:, :3].any() and change[:, 3].any()


def test_clip_tower_refuses_an_unknown_activation():
    with pytest.raises(ValueError, match="one of: gelu, quick_gelu"):
        shapes(ClipText(20, 16, 1, 6, activation="relu"), jnp.zeros((1, 4), int))
