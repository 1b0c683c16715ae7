# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax sample`."""

import argparse


def add(commands) -> None:
    """Adds the command that samples images."""
