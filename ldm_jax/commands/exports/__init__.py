# SPDX-License-Identifier: Apache-2.0
"""The parts of `ldm-jax export`: programs, the model card, the check."""
