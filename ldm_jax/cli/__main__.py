# SPDX-License-Identifier: Apache-2.0
"""`python -m ldm_jax.cli` is `ldm-jax`."""

import sys

from ldm_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
