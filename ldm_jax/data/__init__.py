# SPDX-License-Identifier: Apache-2.0
"""Reads data sets and makes batches; an encoder is passed in as a function."""
