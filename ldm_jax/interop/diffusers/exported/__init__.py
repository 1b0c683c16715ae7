# SPDX-License-Identifier: Apache-2.0
"""Code that is copied into exported folders, where diffusers runs it."""
