# SPDX-License-Identifier: Apache-2.0
"""MobileNetV2 against torchvision, and its depthwise convolution against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models.features import mobilenet
from tests.metrics.features import published_tensors
from tests.models.features.reference import an_image, features


@pytest.mark.torch
def test_mobilenet_agrees_with_torchvision():
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    net = models.mobilenet_v2(weights=None).eval()
    tensors = {n: torch.tensor(x) for n, x in published_tensors("mobilenet").items()}
    missing, unexpected = net.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    image = an_image(224, 224)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    x = (image / 255 - np.array(mean)) / np.array(std)
    with torch.inference_mode():
        expected = net(torch.tensor(x, dtype=torch.float32).permute(0, 3, 1, 2)).numpy()
    actual = features("mobilenet", image)["logits"]
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("stride", "pads"), [(1, (1, 1)), (2, (1, 1)), (2, (0, 1))])
def test_depthwise_is_the_grouped_convolution(stride, pads):
    """Oracle: lax.conv_general_dilated with a group for each channel."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 7, 6, 5)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 5)), jnp.float32)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (pads, pads),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=5,
    )
    out = mobilenet.depthwise(x, kernel, stride, (pads, pads))
    # Nine products of numbers near 1.
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("origin", "logits"), [("tensorflow", 1001), ("torchvision", 1000)]
)
def test_classes_and_padding_are_those_of_the_origin(origin, logits):
    """Paper: 1,280 features; TensorFlow's first class is the background."""
    network = mobilenet.MobileNetV2(origin)
    image = jax.ShapeDtypeStruct((2, 60, 40, 3), jnp.uint8)
    out, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), image)
    assert out["pool"].shape == (2, 1280) and out["logits"].shape == (2, logits)
