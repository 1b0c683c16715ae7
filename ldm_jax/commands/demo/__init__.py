# SPDX-License-Identifier: Apache-2.0
"""Implements `ldm-jax demo`: a local web page for trying out a model."""
