# SPDX-License-Identifier: Apache-2.0
"""Samplers against exact denoisers, the original, and diffusers."""
