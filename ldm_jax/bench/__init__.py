# SPDX-License-Identifier: Apache-2.0
"""Measures; each module is a command `ldm-jax bench <name>`."""
