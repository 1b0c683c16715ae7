# SPDX-License-Identifier: Apache-2.0
"""Writes pictures: batches to uint8, sheets, PNG files with settings."""

import colorsys
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from ldm_jax.files.paths import PathLike
from ldm_jax.files.writing import write_bytes


def to_uint8(image) -> np.ndarray:
    """Quantizes images in [-1, 1] to [0, 255] by truncation, as the original does.

    Args:
      image: [..., C] float in [-1, 1]; values outside are clamped.

    Returns:
      [..., C] uint8.

    Raises:
      ValueError: an image holds NaN or infinity.

    Source: latent-diffusion, scripts/sample_diffusion.py, custom_to_np. Rounding
      instead would shift the mean by half a level and the FID with it.
    """
    image = np.asarray(image, np.float32)
    if not np.isfinite(image).all():
        raise ValueError(
            "images must be finite: got NaN or infinity; the model that made them "
            "has diverged (look at its loss), or a sampler option is out of range."
        )
    return np.clip((image + 1) * 127.5, 0, 255).astype(np.uint8)


# Sheets are for people: small images are enlarged to about this many pixels.
SHOWN_SIDE = 128
CAPTION_HEIGHT = 14


def enlargement(side: int) -> int:
    """Returns how often a pixel of a small image is repeated, to be seen."""
    return max(1, SHOWN_SIDE // side)


def grid(
    images: np.ndarray,
    num_columns: int,
    row_labels: Sequence[str] = (),
    pad: int = 2,
    enlarge: int = 1,
    captions: Sequence[str] = (),
) -> np.ndarray:
    """Lays images out in rows on white, with labels of rows and captions of images.

    Args:
      images: [N, H, W, 3] uint8, row by row; the last row may be shorter.
      num_columns: images in a row.
      row_labels: one short text per row, or none.
      pad: white pixels around every image.
      enlarge: every pixel becomes enlarge x enlarge pixels.
      captions: a short text below every image, cut to its width; or none.

    Returns:
      [rows * (H * enlarge + pad) + pad, ..., 3] uint8; rows with captions are
      CAPTION_HEIGHT higher.

    Raises:
      ValueError: the number of labels is not the number of rows, or the number of
        captions not that of images.
    """
    if captions:
        images = _with_captions(images, captions, enlarge)
        enlarge = 1
    images = np.repeat(np.repeat(images, enlarge, axis=1), enlarge, axis=2)
    count, height, width, _ = images.shape
    num_rows = -(-count // num_columns)
    if row_labels and len(row_labels) != num_rows:
        raise ValueError(
            f"row_labels must name every row: got {len(row_labels)} labels for "
            f"{num_rows} rows of {num_columns} images."
        )
    margin = _label_width(row_labels)
    shape = (
        num_rows * (height + pad) + pad,
        margin + num_columns * (width + pad) + pad,
        3,
    )
    canvas = np.full(shape, 255, np.uint8)
    for i, image in enumerate(images):
        top = pad + (i // num_columns) * (height + pad)
        left = margin + pad + (i % num_columns) * (width + pad)
        canvas[top : top + height, left : left + width] = image
    return _write_labels(canvas, row_labels, pad, height) if row_labels else canvas


def _with_captions(
    images: np.ndarray, captions: Sequence[str], enlarge: int
) -> np.ndarray:
    """Enlarges images, with a strip below each for its caption."""
    if len(captions) != len(images):
        raise ValueError(
            f"captions must name every image: got {len(captions)} for {len(images)}."
        )
    images = np.repeat(np.repeat(images, enlarge, axis=1), enlarge, axis=2)
    strip = np.full((len(images), CAPTION_HEIGHT, *images.shape[2:]), 255, np.uint8)
    made, font = [], ImageFont.load_default()
    for image, text in zip(np.concatenate([images, strip], 1), captions, strict=True):
        picture = Image.fromarray(image)
        while text and font.getlength(text) > image.shape[1] - 2:
            text = text[:-1]
        draw = ImageDraw.Draw(picture)
        middle = image.shape[0] - CAPTION_HEIGHT // 2
        draw.text((1, middle), text, fill=(0, 0, 0), anchor="lm")
        made.append(np.asarray(picture))
    return np.stack(made)


def draw_boxes(
    boxes: Sequence[tuple[int, str, tuple[float, float, float, float]]],
    size: tuple[int, int],
) -> np.ndarray:
    """Draws the outlines of boxes on white, with their names, one colour per class.

    Args:
      boxes: (class, name, (x, y, width, height) as shares of the image) of each; later
        ones are drawn over earlier ones.
      size: (H, W) of the picture.

    Returns:
      [H, W, 3] uint8.
    """
    picture = Image.new("RGB", (size[1], size[0]), (255, 255, 255))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    height, width = (side - 1 for side in size)
    for number, name, (x, y, w, h) in boxes:
        # Multiples of the golden section: neighbouring numbers get distant hues.
        rgb = colorsys.hsv_to_rgb(0.618 * number % 1, 0.9, 0.7)
        colour = tuple(round(255 * value) for value in rgb)
        left, top = round(x * width), round(y * height)
        corners = [left, top, round((x + w) * width), round((y + h) * height)]
        draw.rectangle(corners, outline=colour, width=2)
        draw.text((left + 4, top + 2), name, fill=colour, font=font)
    return np.asarray(picture)


def _label_width(labels: Sequence[str]) -> int:
    font = ImageFont.load_default()
    return max((int(font.getlength(label)) + 8 for label in labels), default=0)


def _write_labels(canvas, labels, pad, height) -> np.ndarray:
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for row, label in enumerate(labels):
        middle = pad + row * (height + pad) + height // 2
        draw.text((4, middle), label, fill=(0, 0, 0), anchor="lm")
    return np.asarray(picture)


def save_png(path, image: np.ndarray, settings: Mapping[str, object] = {}) -> None:
    """Writes a PNG file atomically, with `settings` as its text fields.

    Args:
      path: file to write, may be a URL; its directory is made.
      image: [H, W, 3] uint8.
      settings: name -> value; a reader shows them (`Image.open(path).text`).
    """
    write_bytes(path, png_bytes(image, settings), is_one_of_many=True)


def save_pngs(
    pictures: Iterable[tuple[PathLike, np.ndarray, Mapping[str, object]]],
) -> None:
    """Writes many PNGs with `save_png`, as many at once as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda picture: save_png(*picture), pictures))


def png_bytes(image: np.ndarray, settings: Mapping[str, object]) -> bytes:
    """Returns a PNG file as bytes; arguments as of `save_png`."""
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    for name, value in settings.items():
        info.add_text(f"ldm_jax:{name}", str(value))
    Image.fromarray(image).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def plot_losses(path, runs: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Draws the loss of each run over its steps, side by side, into one PNG.

    Args:
      path: file to write.
      runs: name -> rows with "step" and "loss", as metrics.jsonl holds them.
    """
    # Imported here: a second of start-up that only this picture needs.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(runs), 3.2), layout="constrained")
    for axes, (name, rows) in zip(
        figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True
    ):
        axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], lw=1)
        axes.set(title=name, xlabel="step", ylabel="loss", yscale="log")
        axes.grid(alpha=0.3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_png(path, np.asarray(canvas.buffer_rgba())[..., :3])
