# SPDX-License-Identifier: Apache-2.0
"""Rematerialisation by policy name: activations traded for a second forward pass."""

import flax.linen as nn
import jax

# What the backward pass keeps of each block; the rest is computed again.
POLICIES = {
    "none": None,
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
}


def rematerialize(module: type[nn.Module], policy: str, static_argnums=()):
    """Makes a module class whose activations are recomputed in the backward pass.

    Parameter names and numbers are those of `module`.

    Args:
      module: class of the block.
      policy: "none" keeps every activation; "blocks" keeps only what goes into a
        block; "dots" also keeps the results of matrix products.
      static_argnums: positions of arguments of `__call__` that are Python values;
        `self` is 0.

    Raises:
      ValueError: the policy is unknown.
    """
    if policy not in POLICIES:
        raise ValueError(
            f'unknown remat policy "{policy}"; one of: {", ".join(sorted(POLICIES))}.'
        )
    if policy == "none":
        return module
    return nn.remat(module, policy=POLICIES[policy], static_argnums=static_argnums)
