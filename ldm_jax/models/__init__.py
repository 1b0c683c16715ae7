# SPDX-License-Identifier: Apache-2.0
"""Networks: all modules with parameters, independent of mesh, noise and data sets."""
