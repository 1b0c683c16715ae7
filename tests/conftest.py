# SPDX-License-Identifier: Apache-2.0
"""Settings of every test: CPU, 8 devices, no silent broadcasting, checked shapes."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from importlib.metadata import version

# A shell starts background jobs with Ctrl-C ignored, and children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Threads of NumPy's linear algebra wait for each other in loops: where every core has
# a worker, two make the linear algebra of a Frechet distance ten times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Most of the suite's time is XLA compiling programs that run once, so they are barely
# optimized. Not at all, level 0, compiles a tenth faster, and whole commands run five
# times slower. Loops that LLVM builds directly compile a quarter faster than those of
# the fusion emitters; an unknown flag ends the process, so it is only given to the
# versions of jaxlib that are known to have it. Flags of one's own come last and win.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=1",
        *(
            (
                "--xla_cpu_use_fusion_emitters=false",
                "--xla_cpu_parallel_codegen_split_count=1",
            )
            if version("jaxlib").startswith("0.10.")
            else ()
        ),
        os.environ.get("XLA_FLAGS", ""),
    )
)
# Runs that are stopped and started again, and processes that do the same, compile the
# same programs: one cache for a session's workers and their children.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="ldm_jax-tests-")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# Packages whose signatures state shapes, `Float[Array, "B h w c"]`: every call of their
# functions is checked. Must come before the first import of the package.
CHECKED_PACKAGES = tuple(
    f"ldm_jax.{folder}"
    for folder in ("conditions", "diffusion", "metrics", "models", "tasks")
)
jaxtyping.install_import_hook(
    CHECKED_PACKAGES,
    # The tower: an int is taken where a float is expected.
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


def pytest_collection_finish(session):
    """Leaves what was imported out of garbage collection, which takes seconds else."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True, scope="module")
def freed_programs():
    """Frees compiled programs after each file: 2 to 3 GB instead of 7 at the end."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def unchecked_shapes():
    """Turns the checks of signatures off, for tests of what users see without them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


pytest_plugins = ["tests.object_store"]
