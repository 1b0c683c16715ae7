# SPDX-License-Identifier: Apache-2.0
"""Attention kernels and the choice between them."""
