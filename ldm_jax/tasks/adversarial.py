# SPDX-License-Identifier: Apache-2.0
"""Adds a discriminator to the first stage: gradients of both from one scalar."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from ldm_jax.models.autoencoder import Autoencoder, Reconstruction
from ldm_jax.models.first_stage.discriminator import Discriminator
from ldm_jax.types import Array, PyTree, RandomKey

# Largest ratio of gradient norms, and the guard against a vanishing denominator.
MAX_WEIGHT = 1e4
EPS = 1e-4


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A PatchGAN discriminator and the settings of its training.

    Attributes:
      loss: "hinge" or "vanilla", the discriminator's.
      disc_start: first step with the adversarial terms.
      disc_weight: factor on the adaptive weight of the generator's term.
      disc_factor: factor on the terms of both networks.
      num_layers, channels, batch_groups: see `Discriminator`.

    Source: Esser et al. 2021, Eq. 6 and 7; values of the released configs.
    """

    loss: str = "hinge"
    disc_start: int = 50_001
    disc_weight: float = 0.5
    disc_factor: float = 1.0
    num_layers: int = 3
    channels: int = 64
    batch_groups: int = 1

    def __post_init__(self):
        if self.loss not in DISCRIMINATOR_LOSSES:
            raise ValueError(
                f'unknown adversary loss "{self.loss}"; one of: '
                f"{', '.join(sorted(DISCRIMINATOR_LOSSES))}."
            )
        if self.disc_factor <= 0:
            raise ValueError(
                f"disc_factor must be positive: got {self.disc_factor}; for a first "
                "stage without an adversary set adversary=None."
            )

    @property
    def discriminator(self) -> Discriminator:
        """The discriminator module, without parameters."""
        return Discriminator(self.num_layers, self.channels, self.batch_groups)

    def init(
        self, key: RandomKey, image_shape: tuple[int, ...]
    ) -> tuple[PyTree, PyTree]:
        """Makes the discriminator's parameters and running statistics.

        Args:
          key: a random key.
          image_shape: (B, H, W, C) of a training batch.
        """
        image = jnp.zeros((self.batch_groups, *image_shape[1:]))
        variables = self.discriminator.init(key, image, is_training=True)
        return variables["params"], variables["batch_stats"]

    def apply_discriminator(
        self, params: PyTree, stats: PyTree, image: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B patch_h patch_w 1"], PyTree]:
        """Returns logits of patches and the updated running statistics."""
        variables = {"params": params, "batch_stats": stats}
        logits, moved = self.discriminator.apply(
            variables, image, is_training=True, mutable=["batch_stats"]
        )
        return logits, moved["batch_stats"]


def hinge_loss(
    real: Float[Array, "*patches"], fake: Float[Array, "*patches"]
) -> Float[Array, ""]:
    """Computes the hinge loss on logits of real and reconstructed patches."""
    return 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))


def vanilla_loss(
    real: Float[Array, "*patches"], fake: Float[Array, "*patches"]
) -> Float[Array, ""]:
    """Computes the cross-entropy on logits of real and reconstructed patches."""
    softplus = jax.nn.softplus
    return 0.5 * (jnp.mean(softplus(-real)) + jnp.mean(softplus(fake)))


DISCRIMINATOR_LOSSES = {"hinge": hinge_loss, "vanilla": vanilla_loss}


class Players(NamedTuple):
    """The functions and outputs of the networks that the adversarial losses need.

    Attributes:
      adversary: the settings.
      autoencoder: the generator's module.
      params: {"autoencoder": ..., "discriminator": ...}.
      stats: running statistics of the discriminator.
    """

    adversary: Adversary
    autoencoder: Autoencoder
    params: PyTree
    stats: PyTree


def play(
    players: Players,
    image: Float[Array, "B H W C"],
    reconstruction: Reconstruction,
    fidelity: Callable[
        [Float[Array, "B H W C"]], tuple[Float[Array, ""], dict[str, jax.Array]]
    ],
    step: Int[Array, ""] | int,
) -> tuple[Float[Array, ""], dict[str, Array], PyTree]:
    """Adds the losses of generator and discriminator into one scalar.

        L_G = nll + weight * active * g,    g = -mean D(reconstruction)
        L_D = active * loss(D(image), D(reconstruction))

    The gradient of the sum is that of each loss for its own network, because the
    discriminator's parameters are constants in L_G, and the reconstruction is one in
    L_D. The original updates the generator first and computes L_D with a second
    reconstruction; here both losses use the same one.

    The weight balances the gradients of the two terms with respect to the decoder's
    last kernel. It is computed from the gradients with respect to the reconstruction,
    whose weighted sum is then propagated through the decoder in one backward pass.

    Args:
      players: networks and settings.
      image: real images.
      reconstruction: of the autoencoder, with its gradient.
      fidelity: reconstruction -> (nll, metrics).
      step: before `disc_start` active is 0: the discriminator's gradient is zero, but
        its optimizer counts steps and its running statistics are updated, as in the
        original.

    Returns:
      L_G + L_D, metrics, and the updated running statistics.

    Source: Esser et al. 2021, Eq. 7; `contperceptual.py` of the released code.
    """
    adversary, _, params, stats = players
    opponent = lax.stop_gradient(params["discriminator"])
    x_hat = lax.stop_gradient(reconstruction.image)

    def deception(x):
        logits, moved = adversary.apply_discriminator(opponent, stats, x)
        return -jnp.mean(logits), moved

    nll, pull_nll, metrics = jax.vjp(fidelity, x_hat, has_aux=True)
    g, pull_g, stats = jax.vjp(deception, x_hat, has_aux=True)
    (by_nll,), (by_g,) = pull_nll(jnp.ones_like(nll)), pull_g(jnp.ones_like(g))

    norm_nll, norm_g = last_layer_norms(players, reconstruction, (by_nll, by_g))
    balance = jnp.clip(norm_nll / (norm_g + EPS), 0.0, MAX_WEIGHT)
    weight = adversary.disc_weight * balance
    active = jnp.where(step >= adversary.disc_start, adversary.disc_factor, 0.0)

    # Zero in value; its gradient by the reconstruction is the bracket.
    carrier = jnp.sum(
        (by_nll + weight * active * by_g) * (reconstruction.image - x_hat)
    )
    generator = nll + weight * active * g + carrier

    # The original's passes: fake (above), real, fake; each moves the statistics.
    real, stats = adversary.apply_discriminator(params["discriminator"], stats, image)
    fake, stats = adversary.apply_discriminator(params["discriminator"], stats, x_hat)
    loss = active * DISCRIMINATOR_LOSSES[adversary.loss](real, fake)

    correct = jnp.mean(real > 0, dtype=float) + jnp.mean(fake < 0, dtype=float)
    metrics = metrics | {
        "gan/weight": weight,
        "gan/active": active,
        "gan/generator": g,
        "gan/discriminator": loss,
        "gan/logits_real": jnp.mean(real),
        "gan/logits_fake": jnp.mean(fake),
        "gan/accuracy": 0.5 * correct,
        "gan/norm_nll": norm_nll,
        "gan/norm_generator": norm_g,
    }
    return generator + loss, metrics, stats


def last_layer_norms(
    players: Players,
    reconstruction: Reconstruction,
    cotangents: tuple[Float[Array, "B H W C"], ...],
) -> list[Float[Array, ""]]:
    """Computes norms of the gradients of the last kernel, without a backward pass.

    Args:
      players: networks.
      reconstruction: has the last layer's input.
      cotangents: gradients with respect to the reconstruction.

    Returns:
      A norm for each, over the whole batch on all devices.
    """
    params = lax.stop_gradient(players.params["autoencoder"])
    features = lax.stop_gradient(reconstruction.features)

    def image_of(kernel):
        conv_out = params["decoder"]["conv_out"] | {"kernel": kernel}
        decoder = params["decoder"] | {"conv_out": conv_out}
        return players.autoencoder.apply(
            {"params": params | {"decoder": decoder}}, features, method="to_image"
        )

    _, pull = jax.vjp(image_of, params["decoder"]["conv_out"]["kernel"])
    return [jnp.sqrt(jnp.sum(jnp.square(pull(ct)[0]))) for ct in cotangents]
