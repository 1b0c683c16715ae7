# SPDX-License-Identifier: Apache-2.0
"""A folder that runs a model in plain PyTorch: weights, config and one file of code."""
