# SPDX-License-Identifier: Apache-2.0
"""Plans runs: memory, FLOPs and traffic, by compiling for TPUs that are absent."""
