# SPDX-License-Identifier: Apache-2.0
"""The checkpoints and configs of CompVis."""
