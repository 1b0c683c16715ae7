# SPDX-License-Identifier: Apache-2.0
"""Answers the requests of the demo page: description, samples, reconstructions."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.commands.demo.turns import Turns
from ldm_jax.commands.sampling.sample_inputs import check_sample_size
from ldm_jax.data.transforms.image_transform import ImageTransform
from ldm_jax.diffusion.samplers import SAMPLERS
from ldm_jax.experiment import model_directory
from ldm_jax.experiment.model_settings import read_settings
from ldm_jax.files.formats import png
from ldm_jax.files.formats.pictures import decode_image
from ldm_jax.tasks.model import FirstStage
from ldm_jax.tasks.sample_images import sample_images
from ldm_jax.tasks.sampling import Sampling
from ldm_jax.types import Array

MAX_IMAGES, MAX_STEPS, MAX_SIDE = 16, 1000, 2048
MAX_UPLOAD_PIXELS = 2**24
# Inputs that are pictures, and those of which one channel counts.
PICTURES, PLANES = ("image", "low_res"), ("mask", "segmentation")
# Inputs that the page has a control for.
CONTROLS = (*PICTURES, *PLANES, "class_label", "text", "boxes")
# Inputs that are written below samples, and their names there.
SHOWN_INPUTS = {"class_label": "class", "text": "text"}


class Studio:
    """Samples from one model, one request at a time.

    A program is compiled once for each number of images, size and sampler.
    """

    def __init__(self, directory: str, turns: Turns):
        """Loads the model.

        Args:
          directory: of a diffusion model.
          turns: shared by the models of a page.

        Raises:
          ValueError: it is not a diffusion model that makes images, or the page has no
            control for one of its inputs.
        """
        self._name = directory
        self._trained = read_settings(directory, "latent_diffusion")
        self._model, self._params = model_directory.load(
            directory, task="latent_diffusion"
        )
        channels = self._model.autoencoder.out_channels
        if channels != 3:
            raise ValueError(
                f"a demo shows images of 3 channels: {directory} makes {channels}; "
                "give a model with its first stage."
            )
        if unknown := [name for name in self.inputs if name not in CONTROLS]:
            raise ValueError(
                f"the page has controls for {', '.join(CONTROLS)}: {directory} takes "
                f"{', '.join(unknown)}; use ldm-jax sample, whose flags it lists."
            )
        self._turns = turns

    @property
    def inputs(self) -> list[str]:
        """The arguments of the condition's `from_user`."""
        return [field.argument for field in self._model.conditioner.fields.values()]

    def describe(self) -> dict[str, Any]:
        """Describes the model to the page: inputs, classes, sizes, samplers."""
        condition = self._model.conditioner
        f = self._model.autoencoder.f
        size = self._side()
        sampling = self._sampling({})
        scale = getattr(condition, "f", 1)
        return {
            "name": self._name,
            "kind": condition.kind,
            "inputs": self.inputs,
            "classes": _class_names(condition),
            "size": size,
            "step": f,
            "low_res_side": size // scale,
            "reconstructs": self._model.autoencoder.bottleneck != "pixels",
            "samplers": sorted(SAMPLERS),
            "sampling": {
                "sampler": sampling.sampler,
                "num_steps": sampling.num_steps,
                "guidance_scale": sampling.guidance_scale,
            },
        }

    def sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Samples images.

        Args:
          request: "inputs" by argument of the condition's `from_user`, pictures as data
            URLs; "sampling", fields of `Sampling`; "num", "seed" and "size".

        Returns:
          "images", PNG files as data URLs, and "settings" in words.

        Raises:
          ValueError: a value is out of its range, or an upload is not a picture.
        """
        num = _whole(request, "num", 1, MAX_IMAGES)
        seed = _whole(request, "seed", 0, 2**31 - 1 - MAX_IMAGES)
        sampling = self._sampling(request.get("sampling", {}))
        if sampling.num_steps > MAX_STEPS:
            raise ValueError(
                f"num_steps must be at most {MAX_STEPS}: got {sampling.num_steps}."
            )
        condition = self._model.conditioner
        given = {name: _read(name, request.get("inputs", {})) for name in self.inputs}
        y = condition.from_user(**given) if given else {}
        side = _whole(request, "size", 1, MAX_SIDE)
        size = condition.image_size(y) or (side, side)
        check_sample_size(self._model, size, bool(sampling.tile))
        autoencoder = self._model.autoencoder
        shape = autoencoder.latent_shape((*size, autoencoder.in_channels))
        with self._turns:
            images = sample_images(
                self._model,
                self._params,
                {name: np.repeat(x[:1], num, axis=0) for name, x in y.items()},
                seed + np.arange(num),
                shape,
                sampling,
                num,
            )
            made = np.concatenate(list(images))
        words = request.get("inputs", {}).items()
        shown = [f"{SHOWN_INPUTS[n]} {v}" for n, v in words if n in SHOWN_INPUTS]
        settings = ", ".join(
            [
                *shown,
                f"{sampling.sampler}, {sampling.num_steps} steps",
                f"guidance {sampling.guidance_scale:g}, seed {seed}",
            ]
        )
        about = {"model": self._name, "settings": settings}
        files = [
            png.png_bytes(image, {**about, "seed": seed + i})
            for i, image in enumerate(made)
        ]
        return {"images": [_url(file) for file in files], "settings": settings}

    def reconstruct(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Encodes and decodes a picture; returns both as `sample` does.

        Raises:
          ValueError: the upload is not a picture, or a too large one.
        """
        picture = _picture(str(request.get("image", "")))
        rng = np.random.default_rng(0)
        image = ImageTransform(self._side())({"image": picture}, rng)["image"][None]
        with self._turns:
            again = np.asarray(_reconstruct(self._model, self._params, image))
        both = png.to_uint8(np.concatenate([image, again]))
        return {"images": [_url(png.png_bytes(x, {})) for x in both], "settings": ""}

    def _side(self) -> int:
        """Returns the side of the images that the model was trained on."""
        size = self._trained.image_size
        assert size is not None  # that of training is always known
        return min(size)

    def _sampling(self, changes: Mapping[str, Any]) -> Sampling:
        sampling = self._trained.sampling(changes)
        assert sampling is not None  # a diffusion model has it
        return sampling


def _reconstruct(model: FirstStage, params: Any, image: np.ndarray) -> Array:
    return model.decode(params, model.encode(params, image))


def _class_names(condition: Any) -> list[str]:
    """Lists the names of a condition's classes, or their numbers."""
    names: list[str] = list(getattr(condition, "class_names", ()))
    count = getattr(condition, "num_classes", 0) or 0
    return names or [str(i) for i in range(count)]


def _whole(request: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = request.get(name)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(
            f"{name} must be a whole number in {low}..{high}: got {value!r}."
        )
    return value


def _read(name: str, inputs: Mapping[str, Any]) -> Any:
    """Reads one input of a condition; never a path of this machine."""
    if name not in inputs:
        raise ValueError(f"this model needs the input {name}: got none.")
    value = inputs[name]
    if name in PICTURES:
        return _picture(str(value))
    if name in PLANES:
        return _plane(name, _picture(str(value)))
    if name == "text":
        return [str(value)]
    if name == "class_label":
        return [str(value)]
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list: got a {type(value).__name__}.")
    return value


def _picture(url: str) -> np.ndarray:
    """Decodes a picture [H, W, 3] uint8 from a data URL.

    Raises:
      ValueError: no picture, or one of too many pixels.
    """
    head, _, data = url.partition(",")
    if not head.startswith("data:image/"):
        raise ValueError(
            "an upload must be a picture: got another file; send a PNG or JPEG file."
        )
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(
            "an upload must be a complete picture: got a part; send it again."
        ) from error
    return decode_image(content, "the upload", MAX_UPLOAD_PIXELS)


def _plane(name: str, picture: np.ndarray) -> np.ndarray:
    """Returns the grey values [H, W] of a picture [H, W, 3].

    Raises:
      ValueError: it has colours, which are no class numbers and no mask.
    """
    if (picture != picture[..., :1]).any():
        raise ValueError(
            f"{name} must be a grey picture, whose values are its meaning: got one of "
            "colours; draw it on the page, or save it with one channel."
        )
    return np.ascontiguousarray(picture[..., 0])


def _url(file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(file).decode()
