# SPDX-License-Identifier: Apache-2.0
"""What is recorded about a run, and what ends a run that fails."""
