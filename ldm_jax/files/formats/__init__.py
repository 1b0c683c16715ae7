# SPDX-License-Identifier: Apache-2.0
"""Readers and writers of single formats: pictures, arrays, archives, JSON, YAML."""
