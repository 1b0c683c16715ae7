# SPDX-License-Identifier: Apache-2.0
"""Every byte that comes in or goes out: paths, reading, writing, pictures."""
