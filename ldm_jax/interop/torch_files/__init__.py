# SPDX-License-Identifier: Apache-2.0
"""The files of `torch.save`, read and written without PyTorch."""
