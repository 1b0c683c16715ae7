# SPDX-License-Identifier: Apache-2.0
"""Opens what guides samples: a classifier, or images."""
