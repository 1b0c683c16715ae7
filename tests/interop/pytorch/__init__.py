# SPDX-License-Identifier: Apache-2.0
"""Models that run in plain PyTorch, against our own programs."""
