# SPDX-License-Identifier: Apache-2.0
"""Sets of latents: written by an encoder, read for training."""
