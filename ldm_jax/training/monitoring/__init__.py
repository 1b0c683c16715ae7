# SPDX-License-Identifier: Apache-2.0
"""Records metrics, timing and pictures of a run, and ends a run that fails."""
