# SPDX-License-Identifier: Apache-2.0
"""Sheets that a run draws on request show the right picture in each cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions.registry import make_condition
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.experiment.builders.pictures import draw_pictures
from ldm_jax.metrics.evaluation import PICTURES, Evaluation
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sampling import make_sampling
from ldm_jax.types import Conditioning

SIDE, CELL = 4, 4 * 32 + 2
SAMPLING = make_sampling(num_steps=3, grid="even")


def draw(names, num_timesteps=1000):
    """Draws sheets of a model of pixels that reads a small image, and eight records."""
    model = LatentDiffusion(
        Autoencoder(bottleneck="pixels"),
        unet=UNet(32, (1,), 3, num_res_blocks=1, num_heads=2, in_channels=6),
        conditioner=make_condition("superres", f=1),
        schedule=make_schedule(num_timesteps=num_timesteps),
        prediction="v",
    )
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (10, SIDE, SIDE, 3)).astype(np.float32)
    small = jnp.zeros((1, SIDE, SIDE, 3))
    z, t = jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros(1, int)
    params = jax.jit(model.unet.init)(
        jax.random.key(0), z, t, Conditioning(concat=small)
    )
    batch = {"image": image, "low_res": image[:, ::-1]}
    params = {"unet": params["params"], "autoencoder": {}}
    shape = (SIDE, SIDE, 3)
    return image, draw_pictures(names, model, params, batch, shape, SAMPLING)


@pytest.fixture(scope="module")
def sheets():
    """All but that of all steps."""
    return draw([name for name in PICTURES if name != "progressive"])


def cell(sheet, row, column):
    top, left = 2 + row * CELL, 2 + column * CELL
    return sheet[top : top + 128 : 32, left : left + 128 : 32]


def as_bytes(image):
    return np.clip((image + 1) * 127.5, 0, 255).astype(int)


def test_inputs_are_what_is_learned_and_conditions_what_is_read(sheets):
    """Identity: a first stage of pixels decodes an image to itself."""
    image, drawn = sheets
    assert drawn["inputs"].shape == (2 * CELL + 2, 4 * CELL + 2, 3)
    for i in range(8):
        pixels = cell(drawn["inputs"], *divmod(i, 4)).astype(int)
        assert abs(pixels - as_bytes(image[i])).max() <= 1
        pixels = cell(drawn["conditions"], i, 0).astype(int)
        assert abs(pixels - as_bytes(image[i, ::-1])).max() <= 1


def test_noise_rises_along_a_row_and_denoising_ends_in_a_sample(sheets):
    """Oracle: alpha is 0.9993 at t = 0 and 0.07 at the end."""
    image, drawn = sheets
    assert drawn["noising"].shape[1] == 8 * CELL + 2
    errors = [
        np.mean(
            [abs(cell(drawn["noising"], i, k) - as_bytes(image[i])) for i in range(8)]
        )
        for k in range(8)
    ]
    assert errors[0] < 8 and errors[-1] > 50
    assert drawn["denoising"].shape == (8 * CELL + 2, 4 * CELL + 2, 3)


def test_outpainting_keeps_the_middle_and_inpainting_all_but_it(sheets):
    """Identity: a first stage of pixels keeps what is known, to a level."""
    image, drawn = sheets
    middle = np.zeros((SIDE, SIDE), bool)
    middle[1:3, 1:3] = True
    for name, kept in (("inpainting", ~middle), ("outpainting", middle)):
        assert drawn[name].shape == drawn["inputs"].shape
        for i in range(8):
            pixels = cell(drawn[name], *divmod(i, 4)).astype(int)
            error = abs(pixels - as_bytes(image[i]))
            assert error[kept].max() <= 2 < error[~kept].max()


def test_progressive_rows_take_all_steps_and_pixels_have_no_codebook(sheets):
    _, drawn = draw(["progressive"], num_timesteps=5)
    # Five predictions, then the sample.
    assert drawn["progressive"].shape == (8 * CELL + 2, 6 * CELL + 2, 3)
    assert not {"quantized", "unquantized"} & set(sheets[1])


LAYOUT = dict(num_classes=5, class_names=("cat",), depth=1)


@pytest.mark.parametrize(
    "condition",
    [
        dict(kind="layout", **LAYOUT),
        dict(kind="hybrid", parts=dict(boxes=dict(kind="layout", **LAYOUT))),
    ],
    ids=["alone", "hybrid"],
)
def test_boxes_of_a_layout_are_drawn_in_the_sheet_of_conditions(condition):
    """Oracle: the edges of each record's box, at the size of a cell."""
    model = LatentDiffusion(
        Autoencoder(bottleneck="pixels"),
        unet=UNet(32, (1,), 3, num_res_blocks=1, num_heads=2),
        conditioner=make_condition(**condition),
        schedule=make_schedule(),
    )
    boxes = [[[0.0, 0.5, 0.5, 0.5]], [[0.5, 0.0, 0.5, 0.5]], []]
    rows = [{"boxes": box, "box_labels": [0] * len(box)} for box in boxes]
    tokens = np.stack([model.conditioner.prepare(row)["tokens"] for row in rows])
    batch = {"image": np.zeros((3, SIDE, SIDE, 3), np.float32), "tokens": tokens}
    shape, params = (SIDE, SIDE, 3), {"unet": {}, "autoencoder": {}}
    drawn = draw_pictures(("conditions",), model, params, batch, shape, SAMPLING)
    assert drawn["conditions"].shape == (3 * CELL + 2, CELL + 2, 3)
    ink = (drawn["conditions"] < 255).any(-1)
    first, second, third = (ink[2 + i * CELL :][:128, 2:130] for i in range(3))
    # Corners are rounded to a grid of 90 points: one and a half pixels.
    assert first[62:67, :62].any(0).all() and first[66:, :2].any(1).all()
    assert not first[:62].any() and not first[:, 67:].any()
    assert second[:62, 125:].any(1).all() and not second[67:].any()
    assert not second[:, :62].any() and not third.any()


@pytest.fixture(scope="module")
def drawn_of_codes():
    """Sheets of a model of a small codebook; of plain samples, and of snapped ones."""
    stage = Autoencoder(
        *(32, (1,)), latent_channels=2, bottleneck="vq", num_codes=4, code_range=1.0
    )
    model = LatentDiffusion(
        stage,
        unet=UNet(32, (1,), 2, num_res_blocks=1, num_heads=2),
        conditioner=make_condition("none"),
        schedule=make_schedule(),
    )
    image, z = jnp.zeros((2, SIDE, SIDE, 3)), jnp.zeros((1, SIDE, SIDE, 2))
    keys = jax.random.split(jax.random.key(0))
    params = {
        "unet": jax.jit(model.unet.init)(keys[0], z, jnp.zeros(1, int))["params"],
        "autoencoder": jax.jit(stage.init)(keys[1], image)["params"],
    }
    snapped = make_sampling(num_steps=3, grid="even", snap_to_codebook=True)
    names, batch = ("quantized", "unquantized"), {"image": np.asarray(image)}
    return [
        draw_pictures(names, model, params, batch, (SIDE, SIDE, 2), sampling)
        for sampling in (SAMPLING, snapped)
    ]


def test_the_third_column_is_what_quantization_changes(drawn_of_codes):
    sheet = drawn_of_codes[0]["unquantized"]
    assert sheet.shape == (2 * CELL + 2, 3 * CELL + 2, 3)
    for i in range(2):
        plain, unquantized, difference = (
            cell(sheet, i, k).astype(int) for k in range(3)
        )
        np.testing.assert_array_equal(difference, abs(plain - unquantized))
        assert difference.max() > 0


def test_quantized_samples_are_codes(drawn_of_codes):
    """Identity: a sample of codes is decoded alike with and without quantization."""
    plain, snapped = drawn_of_codes
    np.testing.assert_array_equal(plain["quantized"], snapped["quantized"])
    for i in range(2):
        shown = cell(plain["quantized"], 0, i)
        np.testing.assert_array_equal(shown, cell(snapped["unquantized"], i, 0))
        assert cell(snapped["unquantized"], i, 2).max() <= 1
        assert (shown != cell(plain["unquantized"], i, 1)).any()


def test_an_unknown_sheet_is_refused_by_name():
    with pytest.raises(ValueError, match="pictures has previews; some of: inputs"):
        Evaluation(pictures=("previews",))
