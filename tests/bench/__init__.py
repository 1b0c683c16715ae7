# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run; what they measure is read by people."""
