# SPDX-License-Identifier: Apache-2.0
"""Reads configs and builds runs and models from them; no other folder reads configs."""
