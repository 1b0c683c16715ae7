# SPDX-License-Identifier: Apache-2.0
"""Noise, time, samplers and guidance against closed forms and golden values."""
