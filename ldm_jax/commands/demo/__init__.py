# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax demo`: a page on this machine on which a model can be tried."""
