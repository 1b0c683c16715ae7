# SPDX-License-Identifier: Apache-2.0
"""Draws optional sheets during training: inputs, conditions, noising, denoising ...

Source: the pictures that the original logs (latent-diffusion, `LatentDiffusion.
log_images`): "inputs", "conditioning", "diffusion_row", "denoise_row",
"progressive_row", "samples_x0_quantized", "samples_inpainting" and
"samples_outpainting". The original forgets to invert the mask of the last one. The
sheet "unquantized" shows "sample_noquant" and "sample_diff" of its notebook.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions.kinds.layout import Layout
from ldm_jax.data.transforms.pixels import resize
from ldm_jax.diffusion.process import add_noise
from ldm_jax.files.formats import png
from ldm_jax.tasks.model import LatentDiffusion
from ldm_jax.tasks.sample_images import sample_images
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.types import Array, PyTree

# Records that are shown, and columns of the sheets with a row for each.
NUM_RECORDS, NUM_COLUMNS = 8, 8


def draw_pictures(
    names: tuple[str, ...],
    model: LatentDiffusion,
    params: PyTree,
    batch: Mapping[str, np.ndarray],
    shape: tuple[int, int, int],
    sampling: Sampling,
) -> dict[str, np.ndarray]:
    """Draws sheets of a few records.

    Args:
      names: of `metrics.evaluation.PICTURES`. The sheet "conditions" is left out if
        the condition contains neither images nor boxes, "quantized" and "unquantized"
        if the first stage has no codebook.
      model: the diffusion model.
      params: of all its networks.
      batch: "moments" or "image", and the condition's fields.
      shape: (h, w, c) of a latent.
      sampling: for all sheets with samples except "progressive".

    Returns:
      Sheets uint8 [H, W, 3] by name:
        "inputs": the training latents, decoded.
        "conditions": images, label maps and boxes.
        "noising": a row for each record, from t = 0 to T - 1.
        "denoising": the predictions of x0 during sampling, then the sample.
        "progressive": the same for ancestral sampling with all T steps.
        "quantized": samples; each prediction of x0 is replaced by its nearest codes.
        "unquantized": samples, the same latents decoded without quantization, and the
          absolute difference.
        "inpainting": samples that replace the middle of the decoded inputs, half as
          high and wide. "outpainting": samples that keep only this middle.
    """
    batch = {name: array[:NUM_RECORDS] for name, array in batch.items()}
    z_0 = _latents(model, params, batch)
    fields = {name: batch[name] for name in model.conditioner.fields}

    @functools.cache
    def decoded() -> np.ndarray:
        return np.asarray(_compiled(model).decode(params, z_0))

    def draw(how: Sampling, **options) -> np.ndarray:
        count = len(z_0)
        drawn = sample_images(
            *(model, params, fields, np.arange(count), shape, how), count, **options
        )
        return np.concatenate(list(drawn), axis=-4)

    sheets = {
        "inputs": lambda: _sheet(png.to_uint8(decoded()), 4),
        "conditions": lambda: _conditions(model, batch, shape),
        "noising": lambda: _noising(model, params, z_0),
        "denoising": lambda: _previews(draw, sampling),
        "progressive": lambda: _previews(draw, _all_steps(model, sampling)),
        "quantized": lambda: _quantized(model, draw, sampling),
        "unquantized": lambda: _unquantized(model, draw, sampling),
    }
    for name, hole in _holes(model, shape).items():
        sheets[name] = lambda hole=hole: _painted(draw, sampling, decoded(), hole)
    drawn = {name: sheets[name]() for name in names}
    return {name: sheet for name, sheet in drawn.items() if sheet is not None}


def _noising(model: LatentDiffusion, params: PyTree, z_0: Array) -> np.ndarray:
    """Draws a row for each record, noised up to t = 0, ..., T - 1."""
    last = model.schedule.num_timesteps - 1
    eps = jax.random.normal(jax.random.key(0), z_0.shape)
    columns = []
    for step in np.linspace(0, last, NUM_COLUMNS).round().astype(int):
        z_t = add_noise(model.schedule, z_0, jnp.full(len(z_0), step), eps)
        columns.append(png.to_uint8(_compiled(model).decode(params, z_t)))
    return _rows(np.stack(columns, axis=1))


def _previews(draw: Callable[..., np.ndarray], sampling: Sampling) -> np.ndarray:
    """Draws a row for each sample: predictions of x0 on the way, and the sample."""
    previews = min(NUM_COLUMNS - 1, sampling.num_steps)
    return _rows(np.moveaxis(draw(sampling, num_previews=previews), 0, 1))


def _quantized(
    model: LatentDiffusion, draw: Callable[..., np.ndarray], sampling: Sampling
) -> np.ndarray | None:
    """Draws samples whose estimates are replaced by codes; None without a codebook."""
    if model.autoencoder.bottleneck != "vq":
        return None
    return _sheet(draw(dataclasses.replace(sampling, snap_to_codebook=True)), 4)


def _unquantized(
    model: LatentDiffusion, draw: Callable[..., np.ndarray], sampling: Sampling
) -> np.ndarray | None:
    """Draws samples with and without quantization, and the absolute difference."""
    if model.autoencoder.bottleneck != "vq":
        return None
    both = [
        draw(dataclasses.replace(sampling, unquantized=flag)).astype(np.int16)
        for flag in (False, True)
    ]
    columns = np.stack([*both, abs(both[0] - both[1])], axis=1)
    return _rows(columns.astype(np.uint8))


def _painted(
    draw: Callable[..., np.ndarray],
    sampling: Sampling,
    decoded: np.ndarray,
    hole: np.ndarray,
) -> np.ndarray:
    """Draws samples that keep the decoded inputs outside of a hole [H, W, 1]."""
    holes = np.repeat(hole[None], len(decoded), axis=0)
    known = np.clip(decoded, -1, 1)
    return _sheet(draw(sampling, images={"known": known, "hole": holes}), 4)


def _all_steps(model: LatentDiffusion, sampling: Sampling) -> Sampling:
    """Returns ancestral sampling with all steps of the schedule and equal guidance."""
    number = model.schedule.num_timesteps
    return dataclasses.replace(
        sampling, sampler="ddpm", num_steps=number, grid="even", options=()
    )


def _holes(model: LatentDiffusion, shape: tuple[int, int, int]) -> dict:
    """Returns masks [H, W, 1], 1 where samples are painted: the middle, or the rest."""
    f = model.autoencoder.f
    height, width = f * shape[0], f * shape[1]
    middle = np.zeros((height, width, 1), np.float32)
    middle[height // 4 : -(height // 4), width // 4 : -(width // 4)] = 1
    return {"inpainting": middle, "outpainting": 1 - middle}


class _Compiled(NamedTuple):
    """Functions of a first stage; see `LatentDiffusion`."""

    moments: Callable
    decode: Callable


@functools.lru_cache(maxsize=4)
def _compiled(model: LatentDiffusion) -> _Compiled:
    """Compiles the first stage once, not in every evaluation."""
    return _Compiled(jax.jit(model.moments), jax.jit(model.decode))


def _latents(model: LatentDiffusion, params: PyTree, batch) -> Array:
    """Returns the scaled training latents, the mean of their distribution."""
    if "moments" in batch:
        return model.latent(jnp.asarray(batch["moments"], jnp.float32))
    image = jnp.asarray(batch["image"])
    return model.latent(_compiled(model).moments(params, image))


def _conditions(
    model: LatentDiffusion, batch, shape: tuple[int, int, int]
) -> np.ndarray | None:
    """Draws layouts, and fields that are laid out like images; None if there are none.

    A label map is shown with a random colour for each class, the same in every call.
    """
    parts = [
        _layouts(part, batch["tokens"], [model.autoencoder.f * n for n in shape[:2]])
        for part in model.conditioner.parts.values()
        if isinstance(part, Layout)
    ]
    for name, field in model.conditioner.fields.items():
        if not field.is_mirrored:
            continue
        values = batch[name]
        if np.issubdtype(values.dtype, np.integer):
            colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
            values = colours[values % 256]
        else:
            is_mask = values.shape[-1] == 1
            values = png.to_uint8(2 * values - 1 if is_mask else values)
            values = np.repeat(values, 3, axis=-1) if is_mask else values
        parts.append(values)
    if not parts:
        return None
    size = max(part.shape[1:3] for part in parts)
    shown = [[resize(image, size, "nearest") for image in part] for part in parts]
    return _rows(np.swapaxes(np.array(shown), 0, 1))


def _layouts(layout: Layout, tokens: np.ndarray, size) -> np.ndarray:
    """Draws the boxes of tokens [N, M] with their names; [N, H, W, 3] uint8.

    H and W are the size at which a sheet shows an image of `size`.
    """
    height, width = (side * png.enlargement(size[1]) for side in size)
    names = layout.class_names
    pictures = []
    for row in tokens:
        boxes, _ = layout.box_tokens.decode(row)
        shown = [
            (
                box.label,
                names[box.label] if box.label < len(names) else str(box.label),
                (box.x, box.y, box.width, box.height),
            )
            for box in boxes
        ]
        pictures.append(png.draw_boxes(shown, (height, width)))
    return np.stack(pictures)


def _rows(images: np.ndarray) -> np.ndarray:
    """Lays out [rows, columns, H, W, 3]."""
    return _sheet(np.concatenate(images), images.shape[1])


def _sheet(images: np.ndarray, num_columns: int) -> np.ndarray:
    return png.grid(images, num_columns, enlarge=png.enlargement(images.shape[2]))
