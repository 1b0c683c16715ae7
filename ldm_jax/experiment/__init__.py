# SPDX-License-Identifier: Apache-2.0
"""Reads configs and builds what they describe; the only reader of configs."""
