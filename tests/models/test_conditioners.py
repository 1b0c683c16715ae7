# SPDX-License-Identifier: Apache-2.0
"""Networks of the conditions: golden contexts, parameter counts, oracles."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.clip import ClipText
from ldm_jax.models.conditioners import ClassToken, SpatialRescaler, TokenTransformer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "denoiser.py"
spec = importlib.util.spec_from_file_location("golden_denoiser", GOLDEN)
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)


def shapes(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def test_token_transformer_gives_the_golden_context():
    """Golden: the original BERTEmbedder with the same weights, two texts and nulls."""
    arrays, record = golden.load("tiny-text2img256")
    network = TokenTransformer(vocab_size=97, width=48, depth=2)
    expected = shapes(network, jnp.asarray(arrays["tokens"]))
    params = golden.fill(expected, golden.transformer_weight, record["keys"])
    context = jax.jit(network.apply)({"params": params}, arrays["tokens"])
    error = np.linalg.norm(context - arrays["context"])
    assert error / np.linalg.norm(arrays["context"]) < 1e-5  # float32 sums


def test_class_token_gives_the_golden_context():
    """Golden: the original ClassEmbedder with the same weights."""
    arrays, record = golden.load("tiny-cin256")
    name = "cond_stage_model.embedding.weight"
    table = jnp.asarray(golden.tensor(name, record["keys"]))
    params = {"params": {"embedding": table}}
    context = ClassToken(*table.shape).apply(params, jnp.asarray(arrays["class_label"]))
    np.testing.assert_array_equal(context, arrays["context"])


@pytest.mark.parametrize(
    ("width", "depth", "vocab", "length", "published"),
    [
        (1280, 32, 30522, 77, 581_994_042),
        (640, 32, 30522, 77, 186_154_682),
        (512, 16, 8192, 92, 58_858_496),
    ],
)
def test_text_models_have_the_published_number_of_parameters(
    width, depth, vocab, length, published
):
    """Golden: the original's count, less its unused output layer `to_logits`."""
    network = TokenTransformer(vocab, width, depth, length)
    tree = shapes(network, jnp.zeros((1, length), jnp.int32))
    to_logits = width * vocab + vocab
    assert sum(x.size for x in jax.tree.leaves(tree)) == published - to_logits


@pytest.mark.parametrize(("classes", "published"), [(1000, 512_000), (1001, 512_512)])
def test_class_tokens_have_the_published_number_of_parameters(classes, published):
    """Golden: cin256, and cin256-v2 with its null class."""
    tree = shapes(ClassToken(classes, 512), jnp.zeros(1, jnp.int32))
    assert tree["embedding"].size == published


def test_token_transformer_refuses_another_length():
    network = TokenTransformer(vocab_size=9, width=8, depth=1, length=5)
    with pytest.raises(ValueError, match=r"takes tokens \[B, 5\]"):
        shapes(network, jnp.zeros((1, 6), jnp.int32))


def test_label_map_is_its_one_hot_image_resized():
    """Oracle: one-hot vectors, averaged 2x2 twice, times the mixing matrix."""
    rescaler = SpatialRescaler(num_stages=2, num_classes=5, out_channels=3)
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 5, (2, 8, 12)))
    params = rescaler.init(jax.random.key(0), labels)
    one_hot = np.eye(5, dtype=np.float32)[labels]
    pooled = one_hot.reshape(2, 2, 4, 3, 4, 5).mean(axis=(2, 4))
    expected = pooled @ params["params"]["mapper"]["kernel"]
    np.testing.assert_allclose(rescaler.apply(params, labels), expected, atol=1e-6)
    from_image = rescaler.apply(params, jnp.asarray(one_hot))
    np.testing.assert_allclose(from_image, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "kernel", "bias"),
    [
        (dict(out_channels=None), np.eye(5), np.zeros(5)),
        (
            dict(out_channels=2, use_bias=True),
            np.arange(10.0).reshape(5, 2),
            (3.0, 4.0),
        ),
    ],
)
def test_the_rescaler_has_no_linear_map_or_a_bias_on_request(fields, kernel, bias):
    """Oracle: pooled one-hot vectors; a label of no class says the bias alone."""
    rescaler = SpatialRescaler(num_stages=1, num_classes=5, **fields)
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 6, (2, 4, 6)))
    mapper = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    params = {"params": {"mapper": mapper} if fields["out_channels"] else {}}
    one_hot = np.eye(6, 5)[labels]
    pooled = one_hot.reshape(2, 2, 2, 3, 2, 5).mean(axis=(2, 4))
    result = rescaler.apply(params, labels)
    np.testing.assert_allclose(result, pooled @ kernel + bias, atol=1e-5)
    drawn = rescaler.init(jax.random.key(0), labels).get("params", {})
    assert jax.tree.structure(drawn) == jax.tree.structure(params["params"])


def test_rescaler_of_the_published_semantic_model_has_546_parameters():
    """Golden: 182 classes to 3 channels, no bias."""
    tree = shapes(SpatialRescaler(2, 182, 3), jnp.zeros((1, 8, 8), jnp.int32))
    assert sum(x.size for x in jax.tree.leaves(tree)) == 546


def test_label_outside_of_the_classes_is_a_zero_vector():
    rescaler = SpatialRescaler(0, 4, 3)
    labels = jnp.array([[[4, -1, 255, 0]]])
    params = rescaler.init(jax.random.key(0), labels)
    out = rescaler.apply(params, labels)
    assert not out[0, 0, :3].any() and out[0, 0, 3].all()


def test_rescaler_refuses_sizes_and_channels_that_do_not_fit():
    rescaler = SpatialRescaler(2, 4, 3)
    with pytest.raises(ValueError, match="multiples of 4"):
        shapes(rescaler, jnp.zeros((1, 6, 8), jnp.int32))
    with pytest.raises(ValueError, match="takes 4 channels"):
        shapes(rescaler, jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize(
    "module",
    [
        ClassToken(3, 8),
        TokenTransformer(vocab_size=9, width=8, depth=0, length=2),
        ClipText(vocab_size=9, width=8, depth=0, length=2, num_heads=1),
    ],
)
def test_numpy_parameters_may_be_closed_over_in_a_jit(module):
    """Identity: `ldm_jax.load` gives NumPy arrays, which take no traced index."""
    tokens = (
        jnp.array([1, 2]) if isinstance(module, ClassToken) else jnp.array([[1, 2]])
    )
    variables = module.init(jax.random.key(0), tokens)
    plain = jax.tree.map(np.asarray, variables)
    result = jax.jit(lambda y: module.apply(plain, y))(tokens)
    np.testing.assert_allclose(result, module.apply(variables, tokens), rtol=1e-6)
