# SPDX-License-Identifier: Apache-2.0
"""Parts of `ldm-jax sample`: inputs, sheets and the measured speed."""
