# SPDX-License-Identifier: Apache-2.0
"""Random holes for inpainting, as LaMa draws them: strokes and boxes.

Lengths are given for a reference side and grow with the image's shorter side, so that
the same kind serves every resolution.

Source: Suvorov et al. 2022 (LaMa), its configs/data_gen and training configs. There a
range "1 to 5 strokes" draws up to 6: the code adds one. We follow the code.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw


@dataclasses.dataclass(frozen=True)
class Holes:
    """Settings of random holes; lengths are pixels of an image of side `reference`.

    Attributes:
      strokes: (least, most) of strokes.
      length: of a segment is 10 to 10 + this.
      width: of a stroke is 5 to 5 + this.
      boxes: (least, most) of boxes.
      box_sizes: (least, most) of a box's sides.
      margin: of boxes to the border.
      box_share: of masks that are boxes; the others are strokes.
      reference: side.
    """

    strokes: tuple[int, int]
    length: int
    width: int
    boxes: tuple[int, int] = (1, 1)
    box_sizes: tuple[int, int] = (1, 1)
    margin: int = 0
    box_share: float = 0.0
    reference: int = 256


# Angles of segments are 0.01 plus 0 to 3 radians, whole numbers.
NUM_ANGLES = 4
# In the configs the weights are 1 : 0.3, or 1 : 1 in training.
FEW_BOXES = 0.3 / 1.3

KINDS = {
    "train": Holes((1, 6), 200, 100, (1, 4), (30, 150), 10, 0.5),
    "thin": Holes((4, 51), 40, 10),
    "medium": Holes((4, 6), 100, 50, (1, 5), (10, 50), 0, FEW_BOXES),
    "thick": Holes((1, 6), 200, 100, (1, 3), (30, 150), 10, FEW_BOXES),
    "thick_512": Holes((1, 6), 450, 250, (1, 4), (30, 300), 10, FEW_BOXES, 512),
}


def draw_mask(kind: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws a hole.

    Args:
      kind: a row of KINDS.
      size: (height, width).
      rng: the record's own.

    Returns:
      float32 [height, width, 1]: 1 in the hole, 0 where the image is kept.

    Raises:
      ValueError: unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f'unknown mask "{kind}"; one of: {", ".join(KINDS)}.')
    holes, canvas = KINDS[kind], Image.new("L", (size[1], size[0]))
    draw, scale = ImageDraw.Draw(canvas), min(size) / holes.reference
    if rng.random() < holes.box_share:
        _draw_boxes(draw, canvas.size, scale, holes, rng)
    else:
        _draw_strokes(draw, canvas.size, scale, holes, rng)
    return np.asarray(canvas, np.float32)[:, :, None]


def _draw_strokes(draw, size, scale: float, holes: Holes, rng) -> None:
    for stroke in range(rng.integers(*holes.strokes, endpoint=True)):
        point = rng.integers(0, size).astype(float)
        for _ in range(rng.integers(1, 6)):
            angle = 0.01 + rng.integers(NUM_ANGLES)
            if stroke % 2 == 0:
                angle = 2 * np.pi - angle
            length = scale * (10 + rng.integers(holes.length))
            # OpenCV draws a line of width 5 or 6 with 7 pixels across, and so on.
            width = 2 * int(scale * (6 + rng.integers(holes.width)) / 2) + 1
            end = point + length * np.array([np.sin(angle), np.cos(angle)])
            end = np.floor(end).clip(0, size)
            draw.line([*point, *end], fill=1, width=width)
            for x, y in (point, end):  # thick lines have round ends, as OpenCV's have
                r = (width - 1) / 2
                draw.ellipse([x - r, y - r, x + r, y + r], fill=1)
            point = end


def _draw_boxes(draw, size, scale: float, holes: Holes, rng) -> None:
    margin = round(scale * holes.margin)
    most = min(holes.box_sizes[1] * scale, *(side - 2 * margin for side in size))
    least = min(holes.box_sizes[0] * scale, most)
    for _ in range(rng.integers(*holes.boxes, endpoint=True)):
        width, height = rng.integers(
            max(1, round(least)), round(most), 2, endpoint=True
        )
        left = rng.integers(margin, size[0] - margin - width, endpoint=True)
        top = rng.integers(margin, size[1] - margin - height, endpoint=True)
        # Both corners belong to a rectangle of Pillow's.
        draw.rectangle([left, top, left + width - 1, top + height - 1], fill=1)
