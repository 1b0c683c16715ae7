# SPDX-License-Identifier: Apache-2.0
"""Words and boxes to token ids, and boxes back again.

Tokenizers come from transformers; the byte-level default needs no file and no network.
transformers 5 answers a missing or misnamed vocabulary with a tokenizer of a few
entries that maps every word to "unknown", so each is checked when it is made.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

# Ids of the BERT vocabulary that the published text models were trained with.
BERT_SIZE = 30522
CLIP_SIZE = 49408
# 256 bytes, 3 special ids, 125 sentinels.
BYTES_SIZE = 384
PROBE = "a photo of a cat"
# transformers warns on import that it has no PyTorch; tokenizers need none.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Turns texts into rows of ids of one length.

    Attributes:
      name: "bytes", "bert" or "clip".
      vocab_size: ids are in [0, vocab_size).
      length: M, ids per text; longer texts are cut, shorter ones padded.
      encode: (texts) -> int32 [B, length].
    """

    name: str
    vocab_size: int
    length: int
    encode: Callable[[Sequence[str]], np.ndarray]


def make_tokenizer(
    name: str = "bytes",
    length: int = 77,
    vocab: str | None = None,
    merges: str | None = None,
) -> Tokenizer:
    """Makes a tokenizer by name.

    Args:
      name: "bytes" (UTF-8, ids of ByT5), "bert" (uncased word pieces, [CLS] ... [SEP]
        [PAD] ...) or "clip" (byte pairs).
      length: ids per text.
      vocab: local file: vocab.txt of BERT, vocab.json of CLIP.
      merges: local file: merges.txt of CLIP.

    Raises:
      ValueError: the name is unknown, a file is missing or is not needed, or the
        tokenizer made from it does not know a plain English phrase.
    """
    needs = {"bytes": (), "bert": ("vocab",), "clip": ("vocab", "merges")}
    if name not in needs:
        raise ValueError(
            f'unknown tokenizer "{name}"; one of: {", ".join(sorted(needs))}.'
        )
    files = {"vocab": vocab, "merges": merges}
    for field, path in files.items():
        if path is not None and field not in needs[name]:
            raise ValueError(f'tokenizer "{name}" takes no {field} file: got {path}.')
        if field in needs[name] and (path is None or not pathlib.Path(path).is_file()):
            raise ValueError(
                f'tokenizer "{name}" needs {field}=, a local file: got {path}; copy it '
                'from the published model, or use the tokenizer "bytes".'
            )
    source, size = MAKERS[name](**{field: files[field] for field in needs[name]})
    check_tokenizer(name, source, size, vocab)

    def encode(texts):
        ids = source(
            list(texts), padding="max_length", truncation=True, max_length=length
        )
        return np.asarray(ids["input_ids"], np.int32)

    return Tokenizer(name, size, length, encode)


def make_bytes():
    """Makes the ByT5 tokenizer: pure rules, nothing to load."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(), BYTES_SIZE


def make_bert(vocab: str):
    """Makes the uncased BERT tokenizer from its vocab.txt."""
    from transformers import BertTokenizer

    # `vocab_file=` of transformers 4 is ignored by 5.
    return BertTokenizer(vocab=str(vocab), do_lower_case=True), BERT_SIZE


def make_clip(vocab: str, merges: str):
    """Makes the CLIP tokenizer from vocab.json and merges.txt."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=str(vocab), merges=str(merges)), CLIP_SIZE


MAKERS = {"bytes": make_bytes, "bert": make_bert, "clip": make_clip}


def check_tokenizer(name: str, source, size: int, vocab: str | None) -> None:
    """Raises ValueError when a tokenizer lacks entries or calls known words unknown."""
    # Sizes first: a tokenizer without its special tokens cannot even be asked.
    if name != "bytes" and len(source) != size:
        raise ValueError(
            f'tokenizer "{name}" must have {size} entries: got {len(source)} (from '
            f"{vocab}); give it the published vocabulary."
        )
    ids = source(PROBE, add_special_tokens=False)["input_ids"]
    if ids.count(source.unk_token_id) == len(ids):
        raise ValueError(
            f'tokenizer "{name}" must know "{PROBE}": got ids {ids} (from {vocab}); '
            "give it the published vocabulary."
        )


@dataclasses.dataclass(frozen=True)
class Box:
    """An object of a layout.

    Attributes:
      label: class in [0, num_classes).
      x, y, width, height: as shares of the image, from its top left corner.
      is_group, is_occluded, is_depiction, is_inside: attributes of Open Images.
    """

    label: int
    x: float
    y: float
    width: float
    height: float
    is_group: bool = False
    is_occluded: bool = False
    is_depiction: bool = False
    is_inside: bool = False


@dataclasses.dataclass(frozen=True)
class Layout:
    """Boxes to tokens and back: (class, top left, bottom right) each, then the crop.

        token of a point = round(y * (n - 1)) * n + round(x * (n - 1)),
        n = floor(sqrt(vocab_size))

    Attributes:
      num_classes: classes of boxes.
      vocab_size: ids are in [0, vocab_size); the last one means "no object".
      max_objects: boxes told; length M is 3 * max_objects + 2.
      has_attributes: whether the four attributes are told in the class token.

    Source: conditional_builder of the released code of Esser et al. 2021.
    """

    num_classes: int
    vocab_size: int = 8192
    max_objects: int = 30
    has_attributes: bool = False

    def __post_init__(self):
        needed = self.num_classes * (16 if self.has_attributes else 1)
        if needed >= self.vocab_size:
            raise ValueError(
                f"a layout's classes (with attributes) must fit below the last id: got "
                f"{needed} for vocab_size={self.vocab_size}; raise vocab_size."
            )

    @property
    def length(self) -> int:
        """M, tokens per layout."""
        return 3 * self.max_objects + 2

    @property
    def side(self) -> int:
        """n, points per side of the grid: 90 for 8192 ids."""
        return int(self.vocab_size**0.5)

    def point_token(self, x: float, y: float) -> int:
        """Names the grid point next to x, y in [0, 1]; halves round to even."""
        last = self.side - 1
        return round(y * last) * self.side + round(x * last)

    def token_point(self, token: int) -> tuple[float, float]:
        """Inverse of `point_token`, to within half a cell."""
        y, x = divmod(token, self.side)
        return x / (self.side - 1), y / (self.side - 1)

    def encode(
        self,
        boxes: Sequence[Box],
        crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    ) -> np.ndarray:
        """Writes boxes down as tokens.

        Args:
          boxes: in the order in which they are told; those past `max_objects` are
            dropped.
          crop: x, y, width, height of the part of the image that is shown.

        Returns:
          [length] int32.

        Raises:
          ValueError: a class is unknown, or a box leaves the image.
        """
        tokens = []
        for box in boxes[: self.max_objects]:
            self.check(box)
            tokens += [self.class_token(box), *self.corners(box)]
        empty = 3 * self.max_objects - len(tokens)
        tokens += [self.vocab_size - 1] * empty + list(self.corners(Box(0, *crop)))
        return np.asarray(tokens, np.int32)

    def decode(self, tokens: Sequence[int]) -> tuple[list[Box], tuple]:
        """Inverse of `encode`: boxes and crop, corners to within half a cell."""
        *triples, first, last = (int(token) for token in tokens)
        boxes = []
        for label, a, b in zip(triples[::3], triples[1::3], triples[2::3], strict=True):
            if label == self.vocab_size - 1:
                continue
            attributes, label = divmod(label, self.num_classes)
            bits = [bool(attributes & 1 << i) for i in range(4)]
            boxes.append(Box(label, *self.rectangle(a, b), *bits))
        return boxes, self.rectangle(first, last)

    def class_token(self, box: Box) -> int:
        """Names a class and, if told, its attributes."""
        if not self.has_attributes:
            return box.label
        bits = (box.is_group, box.is_occluded, box.is_depiction, box.is_inside)
        return box.label + self.num_classes * sum(b << i for i, b in enumerate(bits))

    def corners(self, box: Box) -> tuple[int, int]:
        """Names the top left and the bottom right corner."""
        return (
            self.point_token(box.x, box.y),
            self.point_token(box.x + box.width, box.y + box.height),
        )

    def rectangle(self, first: int, last: int) -> tuple[float, float, float, float]:
        """x, y, width, height between two corners."""
        (x0, y0), (x1, y1) = self.token_point(first), self.token_point(last)
        return x0, y0, x1 - x0, y1 - y0

    def check(self, box: Box) -> None:
        """Raises ValueError unless a box has a known class and lies in the image."""
        if not 0 <= box.label < self.num_classes:
            raise ValueError(
                f"a box's class must be in [0, {self.num_classes}): got {box.label}."
            )
        # Boxes in pixels, rounded by whoever annotated them, may end a hair outside.
        low, high = -1e-3, 1 + 1e-3
        ends = (box.x, box.y, box.x + box.width, box.y + box.height)
        if min(ends) < low or max(ends) > high or min(box.width, box.height) < 0:
            raise ValueError(
                "a box must lie in the image, x, y, width, height as shares of it: got "
                f"{box.x, box.y, box.width, box.height} for class {box.label}; divide "
                "pixels by the image's size, and clip."
            )


def add_caption(record: dict, words: Tokenizer) -> dict:
    """Adds tokens int32 [M] to a record with a caption."""
    return {**record, "tokens": words.encode([record["caption"]])[0]}


def add_layout(record: dict, layout: Layout) -> dict:
    """Adds tokens int32 [M] to a record with boxes [N, 4] and box_labels [N].

    A negative label holds the place of a box that is not there.
    """
    pairs = zip(record["box_labels"], record["boxes"], strict=True)
    boxes = [Box(int(label), *map(float, box)) for label, box in pairs if label >= 0]
    return {**record, "tokens": layout.encode(boxes)}
