# SPDX-License-Identifier: Apache-2.0
"""What a user passes for each kind of condition, checked and turned into fields.

Files are read with PIL; every error names the file or the value and the way out.
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from ldm_jax.conditions.layout import ATTRIBUTES, Box, Layout
from ldm_jax.conditions.tokens import Tokenizer


def labels(said, num_classes: int, class_names: Sequence[str] = ()) -> dict:
    """Reads classes: numbers, names, or a comma-separated list of either.

    Returns:
      {"label": int32 [B]}.

    Raises:
      ValueError: a class is unknown.
    """
    if isinstance(said, str):
        said = [word.strip() for word in said.split(",")]
    numbers = [class_number(word, num_classes, class_names) for word in as_list(said)]
    return {"label": np.asarray(numbers, np.int32)}


def class_number(word, num_classes: int, class_names: Sequence[str]) -> int:
    """Finds the number of a class given by number or name."""
    if word in class_names:
        return class_names.index(word)
    if isinstance(word, (int, np.integer)) or str(word).lstrip("-").isdigit():
        number = int(word)
        if 0 <= number < num_classes:
            return number
    names = f", or a name, one of: {', '.join(class_names)}" if class_names else ""
    raise ValueError(f"a class is in 0..{num_classes - 1}{names}: got {word!r}.")


def prompts(said, words: Tokenizer) -> dict:
    """Reads prompts: a text, a list of texts, or a path to a .txt file, one per line.

    Returns:
      {"tokens": int32 [B, M]}.

    Raises:
      ValueError: there is no prompt, or a file is missing.
    """
    texts, where = as_list(said), "the arguments"
    if isinstance(said, pathlib.Path) or (
        isinstance(said, str) and said.endswith(".txt")
    ):
        path = existing(said)
        texts, where = path.read_text(encoding="utf-8").splitlines(), path
        texts = [line.strip() for line in texts if line.strip()]
    if not texts:
        raise ValueError(
            f'there must be a prompt: got none in {where}; write one per line ("" on '
            "the command line is the empty prompt)."
        )
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"a prompt is a text: got {text!r} in {where}.")
    return {"tokens": words.encode(texts)}


def layouts(said, layout: Layout, class_names: Sequence[str] = ()) -> dict:
    """Reads boxes: a JSON file, or the objects it would hold.

    One layout is a list of {"label": number or name, "box": [x, y, width, height]},
    shares of the image from its top left corner; a file holds one layout or a list of
    them. Where the model is told attributes, a box may have them too, "is_group": true
    and the like.

    Returns:
      {"tokens": int32 [B, M]}.

    Raises:
      ValueError: not JSON, a class is unknown, a box leaves the image, or there are
        more boxes than the model takes.
    """
    where = "the arguments"
    if isinstance(said, (str, pathlib.Path)):
        where = existing(said)
        try:
            said = json.loads(where.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"a layout must be JSON: {where} is not ({error})."
            ) from error
    if not isinstance(said, list):
        raise ValueError(
            f"a layout is a list of boxes: got {type(said).__name__} in {where}."
        )
    if not said or isinstance(said[0], dict):
        said = [said]
    rows = [layout.encode(boxes(one, layout, class_names, where)) for one in said]
    return {"tokens": np.stack(rows)}


def boxes(said, layout: Layout, class_names, where) -> list[Box]:
    """Reads the boxes of one layout."""
    if len(said) > layout.max_objects:
        raise ValueError(
            f"a layout holds {layout.max_objects} boxes at most: got {len(said)} in "
            f"{where}; leave the smallest out."
        )
    result = []
    for entry in said:
        is_box = isinstance(entry, dict) and {"label", "box"} <= set(entry)
        if not is_box or len(entry["box"]) != 4:
            raise ValueError(
                'a box is {"label": class, "box": [x, y, width, height]}: got '
                f"{entry!r} in {where}."
            )
        number = class_number(entry["label"], layout.num_classes, class_names)
        told = {name: bool(entry[name]) for name in ATTRIBUTES if name in entry}
        if told and not layout.has_attributes:
            raise ValueError(
                f"this model is told no attributes of a box: got {', '.join(told)} in "
                f"{where}; leave them out."
            )
        result.append(Box(number, *map(float, entry["box"]), **told))
    return result


def label_maps(said, num_classes: int, f: int) -> dict:
    """Reads label maps: PNG files of class numbers, a folder of them, or int [H, W].

    Returns:
      {"label_map": int32 [B, H, W]}.

    Raises:
      ValueError: a file is no index or grey PNG, a label is unknown, a size is not a
        multiple of f, or the maps differ in size.
    """
    maps = []
    for item in pictures(said):
        where = "the arguments"
        if isinstance(item, (str, pathlib.Path)):
            where = existing(item)
            picture = open_picture(where)
            if picture.mode not in ("L", "P", "I", "I;16", "1"):
                raise ValueError(
                    "a label map is a PNG of class numbers (grey or palette): got mode "
                    f"{picture.mode} in {where}; save it with one channel."
                )
            item = np.asarray(picture)
        one = np.asarray(item, np.int32)
        unknown = sorted(set(np.unique(one).tolist()) - set(range(num_classes + 1)))
        if unknown:
            raise ValueError(
                f"labels of a map are in 0..{num_classes - 1} ({num_classes} says "
                f"nothing): got {unknown[:8]} in {where}."
            )
        check_sides(one.shape, f, where)
        maps.append(one)
    return {"label_map": stack(maps, "label maps")}


def images(said) -> dict:
    """Reads small images for super-resolution: files, a folder, or uint8 [h, w, 3].

    Returns:
      {"low_res": float32 [B, h, w, 3] in [-1, 1]}.
    """
    return {"low_res": stack([to_image(item) for item in pictures(said)], "images")}


def holes(said_images, said_masks, f: int) -> dict:
    """Reads images and masks for inpainting: files, folders or uint8 arrays.

    A mask is white where the image is to be painted, split at half grey.

    Returns:
      {"image": f32 [B, H, W, 3] in [-1, 1], "mask": f32 [B, H, W, 1], 1 in the hole}.

    Raises:
      ValueError: there are not as many masks as images, or their sizes differ.
    """
    shown, masks = pictures(said_images), pictures(said_masks)
    if len(shown) != len(masks):
        raise ValueError(
            f"every image takes one mask: got {len(shown)} images and {len(masks)} "
            "masks."
        )
    shown = [to_image(item) for item in shown]
    masks = [to_mask(item) for item in masks]
    for picture, mask in zip(shown, masks, strict=True):
        if picture.shape[:2] != mask.shape[:2]:
            raise ValueError(
                f"a mask must have the size of its image: got {size(mask)} for an "
                f"image of {size(picture)}; resize the mask (nearest)."
            )
        check_sides(picture.shape, f, "the image")
    return {"image": stack(shown, "images"), "mask": stack(masks, "masks")}


def to_image(item) -> np.ndarray:
    """Reads an image as float32 [H, W, 3] in [-1, 1]."""
    if isinstance(item, (str, pathlib.Path)):
        item = np.asarray(open_picture(existing(item)).convert("RGB"))
    item = np.asarray(item)
    if item.ndim != 3 or item.shape[2] != 3 or item.dtype != np.uint8:
        raise ValueError(
            f"an image is a file, or uint8 [H, W, 3]: got {item.dtype} {item.shape}; "
            "bring it to bytes in [0, 255] and three channels."
        )
    return item.astype(np.float32) / 127.5 - 1


def to_mask(item) -> np.ndarray:
    """Reads a mask as float32 [H, W, 1], 1 in the hole."""
    if isinstance(item, (str, pathlib.Path)):
        item = np.asarray(open_picture(existing(item)).convert("L"))
    item = np.asarray(item)
    if item.dtype == bool:
        item = item.astype(np.uint8) * 255
    if item.ndim != 2 or item.dtype != np.uint8:
        raise ValueError(
            f"a mask is uint8 [H, W], 255 in the hole, or bool: got {item.dtype} "
            f"{item.shape}."
        )
    return (item >= 128).astype(np.float32)[..., None]


def as_list(said) -> list:
    """Makes one thing a list of one."""
    if isinstance(said, (list, tuple)):
        return list(said)
    return [said]


def pictures(said) -> list:
    """Lists pictures: one, a list of them, or the files of a folder in sorted order."""
    if isinstance(said, (str, pathlib.Path)) and pathlib.Path(said).is_dir():
        files = sorted(path for path in pathlib.Path(said).iterdir() if path.is_file())
        if not files:
            raise ValueError(f"a folder of pictures must hold some: {said} is empty.")
        return files
    return as_list(said)


def existing(path) -> pathlib.Path:
    """Raises ValueError unless there is a file."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(
            f"there must be a file to read: no {path} (from {pathlib.Path.cwd()}); "
            "check its name."
        )
    return path


def open_picture(path: pathlib.Path) -> Image.Image:
    """Opens an image file, or says that it is none."""
    try:
        picture = Image.open(path)
        picture.load()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(
            f"an image file must be readable: {path} ({error})."
        ) from error
    return picture


def check_sides(shape, f: int, where) -> None:
    """Raises ValueError unless height and width are multiples of f."""
    if shape[0] % f or shape[1] % f:
        raise ValueError(
            f"height and width must be multiples of {f}: got {shape[0]}x{shape[1]} in "
            f"{where}; crop it to {shape[0] // f * f}x{shape[1] // f * f}."
        )


def stack(items: list[np.ndarray], what: str) -> np.ndarray:
    """Stacks arrays of one shape: [B, ...]."""
    shapes = {item.shape for item in items}
    if len(shapes) != 1:
        raise ValueError(
            f"the {what} of one batch must have one size: got {sorted(shapes)}; pass "
            "them one by one."
        )
    return np.stack(items)


def size(x: np.ndarray) -> str:
    """Height x width, for error messages."""
    return f"{x.shape[0]}x{x.shape[1]}"
