# SPDX-License-Identifier: Apache-2.0
"""Samples on request: every kind of input, bounds, and errors in one line."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands.demo import studio as module
from ldm_jax.commands.demo.studio import Studio
from ldm_jax.commands.demo.turns import Turns
from ldm_jax.experiment import model_directory
from ldm_jax.files.formats import png
from ldm_jax.tasks.sample_images import sample_images
from ldm_jax.tasks.sampling import make_sampling

SAMPLING = {"sampler": "ddim", "num_steps": 2, "guidance_scale": 1.0}
REQUEST = {"inputs": {"class_label": "7"}, "num": 2, "seed": 5, "size": 16}
REQUEST |= {"sampling": SAMPLING}


def url(image):
    return (
        "data:image/png;base64," + base64.b64encode(png.png_bytes(image, {})).decode()
    )


def picture(source):
    opened = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    return np.asarray(opened), opened.text


@pytest.fixture(scope="module")
def digits():
    return Studio("digits", Turns())


def test_a_model_is_described(digits):
    about = digits.describe()
    assert about["inputs"] == ["class_label"] and about["size"] == 16
    assert about["classes"] == [str(i) for i in range(10)] and about["reconstructs"]


def test_every_input_of_a_model_needs_a_control(monkeypatch):
    """As of retrieval, whose embeddings cannot be drawn."""
    monkeypatch.setattr(module, "CONTROLS", ("text",))
    with pytest.raises(ValueError, match=r"digits takes class_label; use ldm-jax samp"):
        Studio("digits", Turns())


def test_a_sample_is_that_of_the_command(digits):
    """Identity: the same pixels as `sample_images`, and the settings in the file."""
    answer = digits.sample(REQUEST)
    model, params = model_directory.load("digits")
    y = {"label": np.array([7, 7], np.int32)}
    settings = make_sampling(**SAMPLING)
    expected = sample_images(model, params, y, np.array([5, 6]), (8, 8, 2), settings, 2)
    images, texts = zip(*map(picture, answer["images"]), strict=True)
    np.testing.assert_array_equal(np.stack(images), np.concatenate(list(expected)))
    assert texts[1]["ldm_jax:seed"] == "6"
    assert answer["settings"] == "class 7, ddim, 2 steps, guidance 1, seed 5"


def test_a_picture_is_reconstructed(digits):
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:40] = 255
    shown = [
        picture(source)[0]
        for source in digits.reconstruct({"image": url(image)})["images"]
    ]
    assert shown[0].shape == shown[1].shape == (16, 16, 3)
    assert np.abs(shown[0].astype(int) - shown[1]).mean() < 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"class_label": "11"}}, "a class is in 0..9"),
        ({"inputs": {}}, "needs the input class_label"),
        ({"num": 1000}, "num must be a whole number in 1..16"),
        ({"seed": -1}, "seed must be"),
        ({"size": 15}, "15"),
        ({"sampling": {**SAMPLING, "num_steps": 10**6}}, "at most 1000"),
        ({"sampling": {**SAMPLING, "sampler": "dimm"}}, "unknown sampler"),
    ],
)
def test_requests_out_of_range_are_refused(digits, change, message):
    with pytest.raises(ValueError, match=message):
        digits.sample({**REQUEST, **change})


@pytest.mark.parametrize(
    ("upload", "message"),
    [
        ("file:///etc/passwd", "must be a picture"),
        ("data:image/png;base64,AAAA", "upload"),
        ("data:image/png;base64,%%%", "complete picture"),
    ],
)
def test_bad_uploads_are_refused(digits, upload, message):
    with pytest.raises(ValueError, match=message):
        digits.reconstruct({"image": upload})


def test_large_uploads_are_refused_by_their_header(digits, monkeypatch):
    monkeypatch.setattr(module, "MAX_UPLOAD_PIXELS", 100)
    with pytest.raises(ValueError, match="pixels"):
        digits.reconstruct({"image": url(np.zeros((20, 20, 3), np.uint8))})


def test_texts_are_never_paths():
    """A prompt that is named like a file is a prompt."""
    assert module._read("text", {"text": "/etc/hostname.txt"}) == ["/etc/hostname.txt"]


def test_painted_inputs_become_what_conditions_read():
    plane = np.zeros((8, 8, 3), np.uint8) + 3
    assert (module._read("segmentation", {"segmentation": url(plane)}) == 3).all()
    assert module._read("low_res", {"low_res": url(plane)}).shape == (8, 8, 3)
    plane[0, 0, 1] = 4
    for name in ("segmentation", "mask"):
        with pytest.raises(ValueError, match=f"{name} must be a grey picture.*colours"):
            module._read(name, {name: url(plane)})
    boxes = [{"label": 1, "box": [0, 0, 0.5, 0.5]}]
    assert module._read("boxes", {"boxes": boxes}) == boxes
    with pytest.raises(ValueError, match="must be a list"):
        module._read("boxes", {"boxes": "/etc/passwd"})
