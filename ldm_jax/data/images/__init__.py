# SPDX-License-Identifier: Apache-2.0
"""Opens image sets and decodes their files."""
