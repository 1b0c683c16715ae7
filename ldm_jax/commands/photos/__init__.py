# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax quickstart --images`: from a folder of pictures to a model of them."""
