# SPDX-License-Identifier: Apache-2.0
"""Tasks: the loss that is minimised, for first stages, denoisers and classifiers."""
