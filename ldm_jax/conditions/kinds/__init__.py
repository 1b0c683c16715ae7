# SPDX-License-Identifier: Apache-2.0
"""The kinds of condition, one class each."""
