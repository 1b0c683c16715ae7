# SPDX-License-Identifier: Apache-2.0
"""The task of a first stage: reconstruction, penalty and optionally a discriminator."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.features.lpips import LPIPS, TRUNKS
from ldm_jax.tasks.adversarial import Adversary, GanNetworks, adversarial_losses
from ldm_jax.types import Array, PyTree, RandomKey, Task

PIXEL_LOSSES = {"l1": jnp.abs, "l2": jnp.square}


def first_stage(
    autoencoder: Autoencoder,
    *,
    perceptual: str,
    perceptual_params: PyTree | None = None,
    perceptual_weight: float = 1.0,
    perceptual_dropout: float = 0.0,
    pixel_loss: str = "l1",
    reduction: str | None = None,
    penalty_weight: float | None = None,
    adversary: Mapping[str, Any] | None = None,
) -> Task:
    """Makes the task of learning an autoencoder (Eq. 25 of the paper).

        L = nll + penalty_weight * penalty (+ the adversary's terms, see `adversarial`)
        nll = reduce(|x - x_hat| + perceptual_weight * LPIPS(x, x_hat))

    A batch holds "image", [B, H, W, 3] in [-1, 1].

    Args:
      autoencoder: the model; its bottleneck sets the penalty and two defaults below.
      perceptual: network of LPIPS, "vgg" (the paper's), "alex" or "squeeze"; or "none",
        to train without LPIPS, which must be set explicitly.
      perceptual_params: parameters of `LPIPS(perceptual)`; frozen.
      perceptual_weight: weight of LPIPS for each pixel and channel, so that it does not
        depend on the image size.
      perceptual_dropout: see `LPIPS.dropout`.
      pixel_loss: "l1" or "l2".
      reduction: "sum" over H, W, C and mean over B, or "mean" over all axes; None
        takes that of the original: "sum" for KL, "mean" for VQ.
      penalty_weight: None takes that of the released configs: 1e-6 for KL, whose nll is
        a sum, and 1.0 for VQ, whose nll is a mean.
      adversary: fields of `Adversary`; None trains without a discriminator.

    Returns:
      Task with params {"autoencoder": ..., "discriminator": ... (with an adversary)}.

    Raises:
      ValueError: options that do not fit together.

    Source: Rombach et al. 2022, Sec. 3.1, App. G; the released loss modules.
    """
    check_options(autoencoder, perceptual, perceptual_params)
    fidelity = Fidelity(
        pixel_loss=pixel_loss,
        lpips=None if perceptual == "none" else LPIPS(perceptual, perceptual_dropout),
        lpips_weight=perceptual_weight,
        reduction=reduction or autoencoder.bottleneck_layer.reduction,
    )
    if penalty_weight is None:
        penalty_weight = autoencoder.bottleneck_layer.default_weight
    gan = None if adversary is None else Adversary(**adversary)

    def init(key, batch):
        return _init_networks(autoencoder, gan, key, batch["image"].shape)

    def loss(params, collections, batch, key, step):
        key_z, key_dropout, key_lpips = jax.random.split(key, 3)
        image = batch["image"]
        out = autoencoder.apply(
            {"params": params["autoencoder"]},
            *(image, key_z),
            is_training=True,
            rngs={"dropout": key_dropout},
        )
        lpips = collections["frozen"].get("lpips")

        def nll(x_hat):
            return fidelity.nll(image, x_hat, lpips, key_lpips)

        updated = {}
        if gan is None:
            total, metrics = nll(out.image)
        else:
            networks = GanNetworks(gan, autoencoder, params, collections["batch_stats"])
            total, metrics, stats = adversarial_losses(networks, image, out, nll, step)
            updated = {"batch_stats": stats}
        metrics |= {f"bottleneck/{name}": value for name, value in out.metrics.items()}
        return total + penalty_weight * out.penalty, (metrics, updated)

    frozen = {} if perceptual == "none" else {"lpips": perceptual_params}
    return Task(init, loss, frozen)


def _init_networks(
    autoencoder: Autoencoder,
    gan: Adversary | None,
    key: RandomKey,
    image_shape: tuple[int, ...],
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Draws the parameters of the autoencoder, and of the discriminator if any.

    Args:
      autoencoder: the model.
      gan: the discriminator and its settings; None for none.
      key: a random key.
      image_shape: (B, H, W, C) of a training batch.

    Returns:
      (params, collections), as `Task.init`.

    Raises:
      ValueError: the autoencoder does not take images of this shape.
    """
    autoencoder.latent_shape(image_shape)
    key_autoencoder, key_discriminator = jax.random.split(key)
    image = jnp.zeros((1, *image_shape[1:]))
    params = {"autoencoder": autoencoder.init(key_autoencoder, image)["params"]}
    if gan is None:
        return params, {}
    params["discriminator"], stats = gan.init(key_discriminator, image_shape)
    return params, {"batch_stats": stats}


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """The reconstruction term of the loss.

    Attributes: as the arguments of `first_stage`; `lpips` is the module or None.
    """

    pixel_loss: str
    lpips: LPIPS | None
    lpips_weight: float
    reduction: str

    def __post_init__(self):
        for name, known in (
            ("pixel_loss", PIXEL_LOSSES),
            ("reduction", ("sum", "mean")),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(
                    f'unknown {name} "{value}"; one of: {", ".join(sorted(known))}.'
                )

    def nll(
        self,
        image: Float[Array, "B H W C"],
        x_hat: Float[Array, "B H W C"],
        lpips_params: PyTree | None,
        key: RandomKey,
    ) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
        """Returns the reconstruction term and its metrics.

        The original adds LPIPS to every element before it reduces; this is equivalent.
        """
        elements = image[0].size if self.reduction == "sum" else 1
        pixel = jnp.mean(PIXEL_LOSSES[self.pixel_loss](image - x_hat))
        metrics = {"loss/pixel": pixel}
        error = pixel
        if self.lpips is not None:
            distances = self.lpips.apply(
                {"params": lpips_params}, image, x_hat, rngs={"dropout": key}
            )
            metrics["loss/lpips"] = jnp.mean(distances)
            error = error + self.lpips_weight * metrics["loss/lpips"]
        metrics["loss/nll"] = elements * error
        return elements * error, metrics


def check_options(
    autoencoder: Autoencoder, perceptual: str, perceptual_params: PyTree | None
) -> None:
    """Raises ValueError for arguments of `first_stage` that do not fit together."""
    if autoencoder.bottleneck == "pixels":
        raise ValueError(
            'a first stage with bottleneck="pixels" has nothing to learn: train the '
            "diffusion model directly."
        )
    if perceptual is None:
        raise ValueError(
            f"perceptual must be chosen: got None; it is {', '.join(sorted(TRUNKS))} "
            'or "none", which trains without and blurs.'
        )
    if (perceptual == "none") != (perceptual_params is None):
        given = "none" if perceptual_params is None else "some"
        raise ValueError(
            "perceptual_params are needed for a perceptual loss and only there: got "
            f'perceptual="{perceptual}" and {given}; build them with '
            '`ldm-jax weights lpips`, or set perceptual="none" to train without.'
        )
