# SPDX-License-Identifier: Apache-2.0
"""Touches datasets; knows no network (an encoder comes in as a function)."""
