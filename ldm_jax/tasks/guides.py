# SPDX-License-Identifier: Apache-2.0
"""Guides of sampling: towards a class, or towards an image."""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ldm_jax.diffusion.guidance import classifier_guidance, image_guidance
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.models.features.lpips import LPIPS, SMALLEST, TRUNKS
from ldm_jax.tasks.classifier import NoisyLatentClassifier
from ldm_jax.types import Array, Batch, Denoiser, PyTree

FORMS = ("eps", "mean")
# (z_0, quantize=) -> images [B, H, W, 3].
Decode = Callable[..., Array]


@runtime_checkable
class Guide(Protocol):
    """Guides a denoiser of x0."""

    def guide(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        params: PyTree,
        y: Batch,
        decode: Decode,
        timesteps: Int[np.ndarray, " grid"],
    ) -> Denoiser:
        """Returns the guided denoiser of x0.

        Args:
          denoiser: of x0.
          schedule: of the model.
          params: of the model and of the guides, by network.
          y: fields of the batch, including those that guides read.
          decode: scaled latents to images.
          timesteps: the S + 1 steps of the sampler, falling, -1 last.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierGuide:
    """Guides samples towards their class with a classifier of noisy latents.

    Reads params["classifier"], and y["guided_label"] [B] int32 in [0, K).

    Attributes:
      classifier: trained for the diffusion model, see `tasks.classifier`.
      scale: factor of the gradient of ln p(y | z_t); 0 is off.
      form: "eps" corrects the predicted noise, for any sampler, as the paper does;
        "mean" moves the mean of the ancestral sampler "ddpm", as guided-diffusion does.

    Raises:
      ValueError: an unknown form.

    Source: Dhariwal & Nichol 2021, Algorithms 2 and 1.
    """

    classifier: NoisyLatentClassifier
    scale: float = 1.0
    form: str = "eps"

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(
                f'unknown form "{self.form}" of classifier guidance; one of: '
                f"{', '.join(FORMS)}."
            )

    def guide(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        params: PyTree,
        y: Batch,
        decode: Decode,
        timesteps: Int[np.ndarray, " grid"],
    ) -> Denoiser:
        """Guides a denoiser of x0 towards y["guided_label"]."""
        del decode

        def log_probability(z_t, t):
            return self.classifier.log_probability(params, z_t, t, y["guided_label"])

        next_step = None
        if self.form == "mean":
            after = np.full(schedule.num_timesteps, -1)
            after[timesteps[:-1]] = timesteps[1:]
            next_step = jnp.asarray(after)
        return classifier_guidance(
            schedule, denoiser, log_probability, self.scale, next_step
        )


# How an image is made smaller before it is compared: name -> divisor of its sides.
TRANSFORMS = {"identity": 1, "down2": 2, "down4": 4}
DISTANCES = ("l2", "lpips")
THROUGH = ("network", "decoder")


@dataclasses.dataclass(frozen=True)
class ImageGuide:
    """Guides samples, or reduced samples, towards an image.

        ln p(y | x0_hat) = -1/2 sum (y - T(D(x0_hat)))^2           distance "l2"
        ln p(y | x0_hat) = -LPIPS(y, T(D(x0_hat)))                 distance "lpips"

    The sum is over pixels and channels, so larger images are guided more strongly. It
    reads y["guided_image"] [B, H / n, W / n, 3] in [-1, 1], and params["guide"], those
    of LPIPS, where that is the distance.

    Attributes:
      distance: one of DISTANCES.
      scale: factor of the gradient; 0 is off. The paper's is not published.
      transform: T, a row of TRANSFORMS: bicubic reduction with antialiasing.
      interval: (first, last) t that is guided; None guides all.
      through: "network": the gradient goes through decoder and denoiser, as in Eq. 18;
        "decoder": only through the decoder, without a backward pass of the denoiser.
      quantize: whether the decoder quantizes (VQ; with a straight-through gradient).
      trunk: of LPIPS.
      at_once: samples that are decoded and compared at once, which bounds the memory
        at large sizes; None compares the complete batch.

    Raises:
      ValueError: an unknown name, an empty interval, or `at_once` below 1.

    Source: Rombach et al. 2022, App. C, Eq. 16 to 18; the perceptual distance Sec. 4.4.
    """

    distance: str = "l2"
    scale: float = 1.0
    transform: str = "identity"
    interval: tuple[int, int] | None = None
    through: str = "network"
    quantize: bool = True
    trunk: str = "vgg"
    at_once: int | None = None

    def __post_init__(self):
        for name, known in (
            ("distance", DISTANCES),
            ("transform", tuple(TRANSFORMS)),
            ("through", THROUGH),
            ("trunk", tuple(TRUNKS)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f'unknown {name} "{getattr(self, name)}" of image guiding; one of: '
                    f"{', '.join(known)}."
                )
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError(
                f"the interval of image guiding is (first, last) t: got "
                f"{self.interval}; swap them."
            )
        if self.at_once is not None and self.at_once < 1:
            raise ValueError(
                f"one sample or more is compared at once: got at_once={self.at_once}."
            )

    def check_size(self, guide: tuple[int, int], image: tuple[int, int]) -> None:
        """Checks the size of the guide against that of the samples.

        Args:
          guide, image: (height, width).

        Raises:
          ValueError: the guide is not as large as the transformed sample, or too small
            for LPIPS.
        """
        divisor = TRANSFORMS[self.transform]
        expected = tuple(side // divisor for side in image)
        if guide != expected or any(side % divisor for side in image):
            raise ValueError(
                f'a guide must be as large as samples after "{self.transform}", '
                f"{expected[0]}x{expected[1]} for samples of {image[0]}x{image[1]}: "
                f"got {guide[0]}x{guide[1]}; choose --guide-transform, or --size."
            )
        if self.distance == "lpips" and min(guide) < SMALLEST[self.trunk]:
            raise ValueError(
                f"LPIPS({self.trunk}) needs guides of {SMALLEST[self.trunk]} pixels at "
                f"least: got {guide[0]}x{guide[1]}; guide by l2."
            )

    def guide(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        params: PyTree,
        y: Batch,
        decode: Decode,
        timesteps: Int[np.ndarray, " grid"],
    ) -> Denoiser:
        """Guides a denoiser of x0 towards y["guided_image"]."""
        del timesteps

        # The decoder's activations are computed again on the way back: at 512 pixels
        # they would not fit into memory with the network's.
        @jax.checkpoint
        def compare(x0_hat, target):
            image = decode(x0_hat, quantize=self.quantize).astype(jnp.float32)
            return self.log_likelihood(image, target, params.get("guide"))

        def compare_one(pair):
            return compare(*(x[None] for x in pair))[0]

        def log_likelihood(x0_hat, t):
            del t
            target = y["guided_image"]
            if self.at_once is None:
                return compare(x0_hat, target)
            pairs = (x0_hat, target)
            return jax.lax.map(compare_one, pairs, batch_size=self.at_once)

        return image_guidance(
            schedule,
            denoiser,
            log_likelihood,
            self.scale,
            interval=self.interval,
            through_network=self.through == "network",
        )

    def log_likelihood(
        self,
        image: Float[Array, "B H W 3"],
        target: Float[Array, "B small_H small_W 3"],
        lpips: PyTree,
    ) -> Float[Array, " B"]:
        """Returns ln p(target | image) up to a constant.

        Args:
          image: in about [-1, 1].
          target: of the size of the transformed image.
          lpips: parameters of LPIPS, for that distance.
        """
        seen = reduce_image(image, TRANSFORMS[self.transform])
        if self.distance == "lpips":
            return -LPIPS(self.trunk).apply({"params": lpips}, target, seen)
        return -0.5 * jnp.square(target - seen).sum((1, 2, 3))


def reduce_image(
    image: Float[Array, "B H W C"], divisor: int
) -> Float[Array, "B small_H small_W C"]:
    """Divides height and width by antialiased bicubic interpolation.

    It is linear in the image, and differs from Pillow's result by at most one
    level of 255.
    """
    batch, height, width, channels = image.shape
    if divisor == 1:
        return image
    shape = (batch, height // divisor, width // divisor, channels)
    return jax.image.resize(image, shape, "cubic", antialias=True)
