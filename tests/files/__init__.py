# SPDX-License-Identifier: Apache-2.0
"""The ground floor: paths, reading, writing, pictures."""
