# SPDX-License-Identifier: Apache-2.0
"""Code that is copied into exported folders and run there by diffusers."""
