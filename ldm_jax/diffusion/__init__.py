# SPDX-License-Identifier: Apache-2.0
"""Knows noise and time; sees a denoiser as a function, never a network."""
