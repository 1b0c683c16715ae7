# SPDX-License-Identifier: Apache-2.0
"""Pretrained networks whose features losses and metrics compare."""
