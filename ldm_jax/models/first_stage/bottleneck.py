# SPDX-License-Identifier: Apache-2.0
"""Bottlenecks, which regularise the latent space: KL, VQ, or none (pixels).

Every bottleneck has three methods:

* `sample(moments, key)` draws the latent z of the diffusion model from the encoder's
  output;
* `to_decoder(z, codebook)` computes the decoder's input from z;
* `penalty(moments, indices, codebook)` computes its term of the first stage's loss.

Bottlenecks hold no parameters: the autoencoder declares the codebook of VQ and passes
it as an argument.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int, Int32

from ldm_jax.models.first_stage.codes import code_usage, nearest_code
from ldm_jax.types import Array, RandomKey

# The vectors of VQ, and which of them a latent has; the other bottlenecks have none.
Codes = Float[Array, "num_codes c"]
CodeIndices = Int[Array, "B h w"]

# A penalty and its metrics.
Penalty = tuple[Float[Array, ""], dict[str, Float[Array, ""]]]


@dataclasses.dataclass(frozen=True)
class KL:
    """Diagonal Gaussian posterior with a small penalty on its distance to N(0, I).

    Source: Rombach et al. 2022, Sec. 3.1 and App. G; Kingma & Welling 2014.
    """

    # Weight of the penalty, a sum over the latent, in the published configs.
    default_weight = 1e-6
    # The reconstruction error is summed over pixels and channels, then averaged over B.
    reduction = "sum"

    def moments_channels(self, latent_channels: int) -> int:
        """Returns the channels of mean and log-variance together."""
        return 2 * latent_channels

    def sample(
        self, moments: Float[Array, "B h w two_c"], key: RandomKey | None = None
    ) -> Float[Array, "B h w two_c//2"]:
        """Draws z from the posterior.

            z = mean + exp(log_variance / 2) * noise

        Args:
          moments: mean and log-variance, c channels each.
          key: a random key; None returns the mode.
        """
        mean, log_variance = split_moments(moments)
        if key is None:
            return mean
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + jnp.exp(0.5 * log_variance) * noise

    def to_decoder(
        self, z: Float[Array, "B h w c"], codebook: Codes | None = None
    ) -> tuple[Float[Array, "B h w c"], None]:
        """Returns z unchanged, and no code indices."""
        return z, None

    def penalty(
        self,
        moments: Float[Array, "B h w two_c"],
        indices: CodeIndices | None = None,
        codebook: Codes | None = None,
    ) -> Penalty:
        """Computes the KL divergence to N(0, I), averaged over the batch, as "kl"."""
        kl = jnp.mean(kl_divergence(moments))
        return kl, {"kl": kl}


def split_moments(
    moments: Float[Array, "*n two_c"],
) -> tuple[Float[Array, "*n two_c//2"], Float[Array, "*n two_c//2"]]:
    """Splits moments into mean and log-variance, the latter clipped to [-30, 20]."""
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(log_variance, -30.0, 20.0)


def kl_divergence(moments: Float[Array, "B h w two_c"]) -> Float[Array, " B"]:
    """Computes KL(N(mean, variance) || N(0, I)) in nats, summed over h, w and c."""
    mean, log_variance = split_moments(moments)
    terms = jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance
    return 0.5 * jnp.sum(terms, axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True)
class VQ:
    """Vector quantization: the decoder's input is the nearest entries of a codebook.

    The latent of a VQ model is the vector *before* quantization; the codebook is the
    first layer of the decoder.

    Attributes:
      beta: weight of one of the two terms of the penalty.
      legacy_beta: True applies `beta` to the codebook's term, as in the training of the
        published models (an error of the original code); False to the commitment term
        of the encoder, as in van den Oord et al. The loss has the same value either
        way, its gradients differ.

    Source: van den Oord et al. 2017, Eq. 3; Esser et al. 2021.
    """

    beta: float = 0.25
    legacy_beta: bool = True

    default_weight = 1.0
    # The reconstruction error is averaged over all axes.
    reduction = "mean"

    def moments_channels(self, latent_channels: int) -> int:
        """Returns the channels of the vector before quantization."""
        return latent_channels

    def sample(
        self, moments: Float[Array, "B h w c"], key: RandomKey | None = None
    ) -> Float[Array, "B h w c"]:
        """Returns the vectors before quantization: nothing is random."""
        return moments

    def to_decoder(
        self, z: Float[Array, "B h w c"], codebook: Codes | None = None
    ) -> tuple[Float[Array, "B h w c"], Int32[Array, "B h w"]]:
        """Quantizes with a straight-through gradient.

        Returns:
          The nearest entries of the codebook, whose gradient is passed to z unchanged,
          and their indices.
        """
        assert codebook is not None  # the autoencoder of a VQ declares it
        indices = nearest_code(z, codebook)
        z_q = codebook[indices]
        return z + lax.stop_gradient(z_q - z), indices

    def penalty(
        self,
        moments: Float[Array, "B h w c"],
        indices: CodeIndices | None = None,
        codebook: Codes | None = None,
    ) -> Penalty:
        """Computes the squared distance of vectors and their codes, in two terms.

            mean |sg(z_q) - z|^2 + beta * mean |z_q - sg(z)|^2          (legacy_beta)
            beta * mean |sg(z_q) - z|^2 + mean |z_q - sg(z)|^2          (otherwise)

        Metrics are "codebook" (the penalty again) and those of `code_usage`.
        """
        assert indices is not None and codebook is not None
        z_q = codebook[indices]
        commitment = jnp.mean(jnp.square(lax.stop_gradient(z_q) - moments))
        follow = jnp.mean(jnp.square(z_q - lax.stop_gradient(moments)))
        if self.legacy_beta:
            penalty = commitment + self.beta * follow
        else:
            penalty = self.beta * commitment + follow
        return penalty, {"codebook": penalty, **code_usage(indices, len(codebook))}


@dataclasses.dataclass(frozen=True)
class Pixels:
    """No bottleneck: the latent is the image (f = 1, diffusion in pixel space)."""

    default_weight = 0.0
    reduction = "mean"

    def moments_channels(self, latent_channels: int) -> int:
        """Returns the channels of the image."""
        return latent_channels

    def sample(
        self, moments: Float[Array, "B H W C"], key: RandomKey | None = None
    ) -> Float[Array, "B H W C"]:
        """Returns the pixels."""
        return moments

    def to_decoder(
        self, z: Float[Array, "B H W C"], codebook: Codes | None = None
    ) -> tuple[Float[Array, "B H W C"], None]:
        """Returns the pixels, and no code indices."""
        return z, None

    def penalty(
        self,
        moments: Float[Array, "B H W C"],
        indices: CodeIndices | None = None,
        codebook: Codes | None = None,
    ) -> Penalty:
        """Returns 0."""
        return jnp.zeros(()), {}


BOTTLENECKS = {"kl": KL, "vq": VQ, "pixels": Pixels}
