# SPDX-License-Identifier: Apache-2.0
"""Declares every parameter; knows no mesh, no noise schedule and no dataset."""
