# SPDX-License-Identifier: Apache-2.0
"""The kinds of condition: their fields, and how they enter the denoiser."""
