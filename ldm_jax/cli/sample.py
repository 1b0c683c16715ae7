# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax sample`."""



def add(commands) -> None:
    """Adds the command that samples images."""
