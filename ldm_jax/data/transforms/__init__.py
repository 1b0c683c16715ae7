# SPDX-License-Identifier: Apache-2.0
"""Turns decoded images into training inputs."""
