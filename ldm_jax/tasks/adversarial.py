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
        logits, updated = self.discriminator.apply(
            variables, image, is_training=True, mutable=["batch_stats"]
        )
        return logits, updated["batch_stats"]


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


class GanNetworks(NamedTuple):
    """The two networks of an adversarial first stage, with their parameters.

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


def adversarial_losses(
    networks: GanNetworks,
    image: Float[Array, "B H W C"],
    reconstruction: Reconstruction,
    fidelity: Callable[
        [Float[Array, "B H W C"]], tuple[Float[Array, ""], dict[str, jax.Array]]
    ],
    step: Int[Array, ""] | int,
) -> tuple[Float[Array, ""], dict[str, Array], PyTree]:
    """Computes the losses of autoencoder (generator) and discriminator as one scalar.

        L_G = nll + weight * active * g,    g = -mean D(reconstruction)
        L_D = active * loss(D(image), D(reconstruction))

    One gradient of the sum L_G + L_D trains both networks: L_G treats the
    discriminator's parameters as constants, and L_D the reconstruction, so each network
    gets the gradient of its own loss. The original updates the generator first and
    computes L_D with a second reconstruction; here both losses use the same one.

    The weight balances the gradients of the two terms with respect to the decoder's
    last kernel. It is computed from the gradients with respect to the reconstruction,
    whose weighted sum is then propagated through the decoder in one backward pass.

    Args:
      networks: the two networks and their settings.
      image: real images.
      reconstruction: of the autoencoder, with its gradient.
      fidelity: reconstruction -> (nll, metrics).
      step: of the training. Before `disc_start`, active is 0 and the discriminator's
        gradient zero; its optimizer counts these steps all the same and its running
        statistics are updated, as in the original.

    Returns:
      L_G + L_D, metrics, and the updated running statistics.

    Source: Esser et al. 2021, Eq. 7; `contperceptual.py` of the released code.
    """
    adversary, _, params, stats = networks
    constant = lax.stop_gradient(params["discriminator"])
    x_hat = lax.stop_gradient(reconstruction.image)

    def generator_term(x):
        logits, new_stats = adversary.apply_discriminator(constant, stats, x)
        return -jnp.mean(logits), new_stats

    # Gradients of both terms with respect to the reconstruction, [B, H, W, C].
    nll, vjp_nll, metrics = jax.vjp(fidelity, x_hat, has_aux=True)
    g, vjp_g, stats = jax.vjp(generator_term, x_hat, has_aux=True)
    (grad_nll,), (grad_g,) = vjp_nll(jnp.ones_like(nll)), vjp_g(jnp.ones_like(g))

    norm_nll, norm_g = last_layer_norms(networks, reconstruction, (grad_nll, grad_g))
    balance = jnp.clip(norm_nll / (norm_g + EPS), 0.0, MAX_WEIGHT)
    weight = adversary.disc_weight * balance
    active = jnp.where(step >= adversary.disc_start, adversary.disc_factor, 0.0)

    # A surrogate term: 0, with the gradient of nll + weight * active * g with respect
    # to the reconstruction. nll and g themselves have none, as x_hat is a constant.
    grad = grad_nll + weight * active * grad_g
    surrogate = jnp.sum(grad * (reconstruction.image - x_hat))
    generator = nll + weight * active * g + surrogate

    # The original's passes: fake (above), real, fake; each updates the statistics.
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
    networks: GanNetworks,
    reconstruction: Reconstruction,
    cotangents: tuple[Float[Array, "B H W C"], ...],
) -> list[Float[Array, ""]]:
    """Computes the norm of the gradient of the decoder's last kernel, for each term.

    Only the last layer is differentiated, not the whole decoder.

    Args:
      networks: networks and parameters.
      reconstruction: of the autoencoder; its `features` are the last layer's input.
      cotangents: gradient of each term with respect to the reconstruction.

    Returns:
      A float32 scalar for each term, over the batch of all devices.
    """
    params = lax.stop_gradient(networks.params["autoencoder"])
    features = lax.stop_gradient(reconstruction.features)

    def image_of(kernel):
        conv_out = params["decoder"]["conv_out"] | {"kernel": kernel}
        decoder = params["decoder"] | {"conv_out": conv_out}
        return networks.autoencoder.apply(
            {"params": params | {"decoder": decoder}}, features, method="to_image"
        )

    _, vjp = jax.vjp(image_of, params["decoder"]["conv_out"]["kernel"])
    return [jnp.sqrt(jnp.sum(jnp.square(vjp(ct)[0]))) for ct in cotangents]
