# SPDX-License-Identifier: Apache-2.0
"""What keeps the latent space tame: KL, VQ, or nothing (pixels).

Every bottleneck answers the same three questions about the encoder's output:

* `sample(moments, key)`: which z does the diffusion model see?
* `to_decoder(z, codebook)`: what does the decoder get for that z?
* `penalty(moments, indices, codebook)`: what does it cost, in the first stage's loss?

They hold no parameters: the autoencoder declares the codebook of VQ and hands it in.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from ldm_jax.types import Array

# Rows of distances held at once, in codes: 512 codes x 8 latents of 64x64 is 64 MiB.
CODES_PER_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class KL:
    """Diagonal Gaussian posterior, pulled slightly towards N(0, I).

    Source: Rombach et al. 2022, Sec. 3.1 and App. G; Kingma & Welling 2014.
    """

    # Shipped weight of the penalty, which is a sum over the latent.
    default_weight = 1e-6
    # The reconstruction error is summed over pixels and channels, then averaged over B.
    reduction = "sum"

    def moments_channels(self, latent_channels: int) -> int:
        """Mean and log-variance."""
        return 2 * latent_channels

    def sample(self, moments: Array, key: Array | None = None) -> Array:
        """Draws z from the posterior.

            z = mean + exp(log_variance / 2) * noise

        Args:
          moments: [B, h, w, 2c], mean and log-variance.
          key: a random key; None returns the mode.

        Returns:
          [B, h, w, c].
        """
        mean, log_variance = split_moments(moments)
        if key is None:
            return mean
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + jnp.exp(0.5 * log_variance) * noise

    def to_decoder(self, z: Array, codebook: None = None) -> tuple[Array, None]:
        """Hands z on as it is; there are no code indices."""
        return z, None

    def penalty(self, moments, indices=None, codebook=None):
        """KL divergence to N(0, I): summed over a latent, averaged over the batch.

        Returns:
          [] the penalty and {"kl": penalty}.
        """
        kl = jnp.mean(kl_divergence(moments))
        return kl, {"kl": kl}


def split_moments(moments: Array) -> tuple[Array, Array]:
    """Splits [B, h, w, 2c] into mean and log-variance; the latter in [-30, 20]."""
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(log_variance, -30.0, 20.0)


def kl_divergence(moments: Array) -> Array:
    """KL(N(mean, variance) || N(0, I)) in nats, summed over h, w, c: [B]."""
    mean, log_variance = split_moments(moments)
    terms = jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance
    return 0.5 * jnp.sum(terms, axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True)
class VQ:
    """Vector quantization: the decoder sees the nearest entries of a codebook.

    The latent of a VQ model is the vector *before* quantization; the codebook is the
    first layer of the decoder.

    Attributes:
      beta: weight of one of the two terms of the penalty.
      legacy_beta: True puts `beta` on the codebook's term, as the published models were
        trained (a slip of the original code); False on the encoder's commitment, as the
        paper of van den Oord et al. has it. The loss has the same value either way.

    Source: van den Oord et al. 2017, Eq. 3; Esser et al. 2021.
    """

    beta: float = 0.25
    legacy_beta: bool = True

    default_weight = 1.0
    # The reconstruction error is averaged over everything.
    reduction = "mean"

    def moments_channels(self, latent_channels: int) -> int:
        """The vector before quantization."""
        return latent_channels

    def sample(self, moments: Array, key: Array | None = None) -> Array:
        """Returns the vectors before quantization: there is nothing to draw."""
        return moments

    def to_decoder(self, z: Array, codebook: Array) -> tuple[Array, Array]:
        """Quantizes with a straight-through gradient.

        Args:
          z: [B, h, w, c] float32.
          codebook: [num_codes, c].

        Returns:
          [B, h, w, c] entries of the codebook, whose gradient goes to z unchanged, and
          [B, h, w] int32 their indices.
        """
        indices = nearest_code(z, codebook)
        z_q = codebook[indices]
        return z + lax.stop_gradient(z_q - z), indices

    def penalty(self, moments: Array, indices: Array, codebook: Array):
        """Pulls codes and vectors together.

            mean |sg(z_q) - z|^2 + beta * mean |z_q - sg(z)|^2          (legacy_beta)
            beta * mean |sg(z_q) - z|^2 + mean |z_q - sg(z)|^2          (otherwise)

        Returns:
          [] the penalty and its metrics: "codebook" (the penalty again), and those of
          `code_usage`.
        """
        z_q = codebook[indices]
        commitment = jnp.mean(jnp.square(lax.stop_gradient(z_q) - moments))
        follow = jnp.mean(jnp.square(z_q - lax.stop_gradient(moments)))
        if self.legacy_beta:
            penalty = commitment + self.beta * follow
        else:
            penalty = self.beta * commitment + follow
        return penalty, {"codebook": penalty, **code_usage(indices, len(codebook))}


def nearest_code(z: Array, codebook: Array) -> Array:
    """Finds the entry of the codebook nearest to each vector; the first one on ties.

    In float32 at full precision whatever the model computes in, since rounding flips
    codes. The codebook is walked in blocks, so that B*h*w x num_codes distances never
    exist at once, and the batch stays sharded as it is.

    Args:
      z: [..., c].
      codebook: [num_codes, c].

    Returns:
      [...] int32 in [0, num_codes); no gradient.
    """
    z = lax.stop_gradient(z).astype(jnp.float32)
    codebook = lax.stop_gradient(codebook).astype(jnp.float32)
    num_codes, width = codebook.shape
    block = min(CODES_PER_BLOCK, num_codes)
    missing = -num_codes % block
    # |z - e|^2 without |z|^2, which is the same for every code; padding is never near.
    square = jnp.pad(
        jnp.sum(jnp.square(codebook), -1), (0, missing), constant_values=jnp.inf
    ).reshape(-1, block)
    blocks = jnp.pad(codebook, ((0, missing), (0, 0))).reshape(-1, block, width)

    def visit(best, xs):
        codes, square, first = xs
        product = jnp.einsum("...c,kc->...k", z, codes, precision=lax.Precision.HIGHEST)
        distance = jnp.expand_dims(square, range(z.ndim - 1)) - 2.0 * product
        index = jnp.argmin(distance, axis=-1).astype(jnp.int32)
        distance = jnp.min(distance, axis=-1)
        # Strictly nearer: an equal code of a later block does not win.
        nearer = distance < best[0]
        return (
            jnp.where(nearer, distance, best[0]),
            jnp.where(nearer, first + index, best[1]),
        ), None

    # Derived from z, so that the carry is sharded as z is.
    start = jnp.full_like(z[..., 0], jnp.inf), jnp.zeros_like(z[..., 0], jnp.int32)
    firsts = jnp.arange(len(blocks), dtype=jnp.int32) * block
    (_, indices), _ = lax.scan(visit, start, (blocks, square, firsts))
    return indices


def code_usage(indices: Array, num_codes: int) -> dict[str, Array]:
    """Measures how evenly the codes of a batch are used.

    Returns:
      "perplexity", exp(-sum p ln p) in [1, num_codes], and "codes_used", a count.
    """
    counts = jnp.zeros(num_codes, jnp.float32).at[indices.reshape(-1)].add(1.0)
    share = counts / indices.size
    perplexity = jnp.exp(-jnp.sum(share * jnp.log(share + 1e-10)))
    return {"perplexity": perplexity, "codes_used": jnp.sum(counts > 0, dtype=float)}


@dataclasses.dataclass(frozen=True)
class Pixels:
    """No first stage: the latent is the image (f = 1, diffusion in pixel space)."""

    default_weight = 0.0
    reduction = "mean"

    def moments_channels(self, latent_channels: int) -> int:
        """The image itself."""
        return latent_channels

    def sample(self, moments: Array, key: Array | None = None) -> Array:
        """Returns the pixels."""
        return moments

    def to_decoder(self, z: Array, codebook: None = None) -> tuple[Array, None]:
        """Hands z on as it is."""
        return z, None

    def penalty(self, moments, indices=None, codebook=None):
        """Nothing to pay."""
        return jnp.zeros(()), {}


def remap_indices(indices: Array, used: Array, unknown: int) -> Array:
    """Renumbers code indices to positions in a list of used codes.

    A transformer over codes is smaller when it knows only those that occur.

    Args:
      indices: [...] int32 in [0, num_codes).
      used: [n] distinct codes.
      unknown: what a code outside `used` becomes; n makes it an extra id.

    Returns:
      [...] int32 positions in `used`, or `unknown`.
    """
    match = indices[..., None] == jnp.expand_dims(used, range(indices.ndim))
    position = jnp.argmax(match, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.any(match, axis=-1), position, unknown)


def restore_indices(positions: Array, used: Array) -> Array:
    """Inverts `remap_indices`; an extra id (n or more) becomes the first used code."""
    return used[jnp.where(positions < len(used), positions, 0)]


BOTTLENECKS = {"kl": KL, "vq": VQ, "pixels": Pixels}
