# SPDX-License-Identifier: Apache-2.0
"""Reads and checks the LPIPS weights that train a first stage."""

from ldm_jax.interop.feature_networks.lpips_file import LpipsFile
from ldm_jax.training.checkpoints.digest import params_fingerprint
from ldm_jax.types import PyTree


def read_lpips(source: LpipsFile, trunk: str) -> tuple[PyTree, str]:
    """Loads the LPIPS weights that a config names.

    Args:
      source: the section `lpips`.
      trunk: of LPIPS; "none" loads nothing.

    Returns:
      (parameters, their fingerprint).

    Raises:
      ValueError: there is no file, it lacks the trunk, or its weights do not have the
        fingerprint `source.fingerprint`.
    """
    params = source.load(trunk)
    actual = params_fingerprint(params)
    if source.fingerprint not in (None, actual):
        raise ValueError(
            f"config.lpips.fingerprint is {source.fingerprint}: {source.file} holds "
            f"LPIPS weights with {actual}; name the file of that run, or leave the "
            "fingerprint out in a new one."
        )
    return params, actual
