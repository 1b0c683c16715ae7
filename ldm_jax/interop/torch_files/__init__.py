# SPDX-License-Identifier: Apache-2.0
"""Reads and writes files of `torch.save` without PyTorch."""
