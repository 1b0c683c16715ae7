# SPDX-License-Identifier: Apache-2.0
"""Noise schedules, the forward process, guidance and samplers; no networks."""
