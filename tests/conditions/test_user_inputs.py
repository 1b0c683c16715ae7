# SPDX-License-Identifier: Apache-2.0
"""What users pass, right and wrong, for each kind of condition."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.conditions import user_inputs
from ldm_jax.conditions.layout import Layout
from ldm_jax.conditions.tokens import make_tokenizer

LAYOUT = Layout(num_classes=3, max_objects=2)
NAMES = ("cat", "dog", "bird")
WORDS = make_tokenizer("bytes", length=5)


def save(path, array, mode=None):
    Image.fromarray(np.asarray(array, np.uint8), mode).save(path)
    return path


@pytest.mark.parametrize("said", ["cat, 2", ["cat", 2], ("0", "bird")])
def test_classes_are_told_by_number_or_name(said):
    assert user_inputs.labels(said, 3, NAMES)["label"].tolist() == [0, 2]


@pytest.mark.parametrize("said", ["3", "-1", "fish", 7, 1.5])
def test_unknown_class_is_answered_with_the_known_ones(said):
    with pytest.raises(ValueError, match=r"in 0\.\.2, or a name, one of: cat, dog"):
        user_inputs.labels(said, 3, NAMES)


def test_prompts_are_told_one_by_one_or_in_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a\n\n b \n")
    expected = [[100, 1, 0, 0, 0], [101, 1, 0, 0, 0]]
    for said in (["a", "b"], file, str(file)):
        assert user_inputs.prompts(said, WORDS)["tokens"].tolist() == expected


def test_empty_and_missing_prompt_files_are_refused(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n")
    with pytest.raises(ValueError, match="must be a prompt"):
        user_inputs.prompts(file, WORDS)
    with pytest.raises(ValueError, match=r"no .*other\.txt"):
        user_inputs.prompts("other.txt", WORDS)
    with pytest.raises(ValueError, match="a prompt is a text"):
        user_inputs.prompts([3], WORDS)


def test_layout_is_read_from_json(tmp_path):
    file = tmp_path / "boxes.json"
    one = [{"label": "dog", "box": [0, 0, 1, 1]}, {"label": 2, "box": [0, 0, 0.5, 0.5]}]
    file.write_text(json.dumps(one))
    tokens = user_inputs.layouts(file, LAYOUT, NAMES)["tokens"]
    assert tokens.shape == (1, 8) and tokens[0, :4].tolist() == [1, 0, 8099, 2]
    assert user_inputs.layouts([one, one[:1]], LAYOUT, NAMES)["tokens"].shape == (2, 8)


def test_attributes_of_a_box_are_read_where_the_model_is_told_them():
    """Golden: class + classes x bits, occluded is 2."""
    box = {"label": 1, "box": [0, 0, 1, 1], "is_occluded": True}
    layout = Layout(num_classes=3, max_objects=2, has_attributes=True)
    assert user_inputs.layouts([box], layout)["tokens"][0, 0] == 1 + 3 * 2
    with pytest.raises(ValueError, match=r"told no attributes.*is_occluded"):
        user_inputs.layouts([box], LAYOUT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "must be JSON"),
        ('{"label": 0}', "is a list of boxes"),
        ('[{"label": 0}]', "a box is"),
        ('[{"label": 9, "box": [0, 0, 1, 1]}]', r"in 0\.\.2"),
        ('[{"label": 0, "box": [0.5, 0, 1, 1]}]', "must lie in the image"),
        (json.dumps([{"label": 0, "box": [0, 0, 1, 1]}] * 3), "2 boxes at most"),
    ],
)
def test_bad_layouts_are_refused(tmp_path, text, message):
    file = tmp_path / "boxes.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        user_inputs.layouts(file, LAYOUT, NAMES)


def test_label_map_is_read_from_a_grey_or_palette_png(tmp_path):
    labels = np.array([[0, 1, 2, 3]] * 2, np.uint8)
    file = save(tmp_path / "map.png", labels)
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.save(tmp_path / "palette.png")
    for said in (file, tmp_path / "palette.png", labels):
        read = user_inputs.label_maps(said, 3, 2)["label_map"]
        np.testing.assert_array_equal(read, labels[None])


def test_bad_label_maps_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"labels of a map are in 0\.\.2 .*got \[7\]"):
        user_inputs.label_maps(np.full((2, 2), 7), 3, 2)
    with pytest.raises(ValueError, match="crop it to 2x2"):
        user_inputs.label_maps(np.zeros((3, 2)), 3, 2)
    rgb = save(tmp_path / "rgb.png", np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="save it with one channel"):
        user_inputs.label_maps(rgb, 3, 2)
    with pytest.raises(ValueError, match="must have one size"):
        user_inputs.label_maps([np.zeros((2, 2)), np.zeros((4, 2))], 3, 2)


def test_small_image_is_read_into_minus_one_to_one(tmp_path):
    file = save(tmp_path / "small.png", [[[0, 255, 0]]])
    assert user_inputs.images(file)["low_res"].tolist() == [[[[-1, 1, -1]]]]


def test_files_that_are_no_images_are_refused(tmp_path):
    file = tmp_path / "broken.png"
    file.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="must be readable"):
        user_inputs.images(file)
    with pytest.raises(ValueError, match=r"no nowhere\.png"):
        user_inputs.images("nowhere.png")
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        user_inputs.images(np.zeros((2, 2, 3)))


def test_mask_is_one_where_the_file_is_white(tmp_path):
    image = save(tmp_path / "image.png", np.zeros((2, 2, 3)))
    mask = save(tmp_path / "mask.png", [[0, 127], [128, 255]])
    fields = user_inputs.holes(image, mask, 2)
    assert fields["mask"][0, ..., 0].tolist() == [[0, 0], [1, 1]]
    assert fields["image"].shape == (1, 2, 2, 3)


def test_masks_that_do_not_fit_are_refused():
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((2, 4), bool)
    with pytest.raises(ValueError, match=r"size of its image: got 2x4 .* of 4x4"):
        user_inputs.holes(image, mask, 2)
    with pytest.raises(ValueError, match="1 images and 2 masks"):
        user_inputs.holes(image, [mask, mask], 2)
    with pytest.raises(ValueError, match="255 in the hole, or bool"):
        user_inputs.holes(image, np.zeros((4, 4, 3), np.uint8), 2)
    with pytest.raises(ValueError, match="multiples of 8"):
        user_inputs.holes(image, np.zeros((4, 4), bool), 8)


def test_a_folder_of_pictures_is_read_in_sorted_order(tmp_path):
    for name, label in (("b.png", 2), ("a.png", 1)):
        save(tmp_path / name, np.full((4, 4), label))
    maps = user_inputs.label_maps(tmp_path, num_classes=3, f=2)["label_map"]
    assert maps[:, 0, 0].tolist() == [1, 2]
    # Of texts only files are read, whatever else is called so.
    tokens = user_inputs.prompts(str(tmp_path), WORDS)["tokens"]
    assert tokens.shape == (1, WORDS.length)
