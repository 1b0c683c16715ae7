# SPDX-License-Identifier: Apache-2.0
"""Neighbours of a query in a database of images, the condition of retrieval models."""
