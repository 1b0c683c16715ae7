# SPDX-License-Identifier: Apache-2.0
"""What the commands do: each job takes a config or a model directory, and writes one.

Run again after an interruption, a job goes on where it was.
"""
