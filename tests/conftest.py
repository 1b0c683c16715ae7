# SPDX-License-Identifier: Apache-2.0
"""Settings every test runs under: CPU, 8 devices, no silent broadcasting."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is XLA compiling programs that run once: unoptimized code
# takes a quarter less of it. Flags of one's own come last and win.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        os.environ.get("XLA_FLAGS", ""),
    )
)

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
