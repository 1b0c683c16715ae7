# SPDX-License-Identifier: Apache-2.0
"""Mutated files are read or refused with the file named; see `harness`."""

import os
import time

import pytest

from tests.fuzz.harness import fuzz
from tests.fuzz.readers import READERS

# Of the short run: a minute in all. The slow readers get fewer.
SHORT = 60
FEWER = {"BERT vocabulary": 10, "CLIP vocabulary": 6, "own model": 20, "diffusers": 20}
LONG_SECONDS = float(os.environ.get("LDM_JAX_FUZZ_SECONDS", "60"))
LONG_SEED = int(os.environ.get("LDM_JAX_FUZZ_SEED", "1"))


def check(counts) -> None:
    listed = "\n".join(f"{i}: {what}" for i, what in counts.failures[:20])
    assert not counts.failures, f"{len(counts.failures)} failures\n{listed}"
    assert counts.read


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_read_or_refused_by_name(name, tmp_path):
    check(fuzz(name, 0, FEWER.get(name, SHORT), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_mutated_files_are_read_or_refused_by_name(name, tmp_path):
    """For LDM_JAX_FUZZ_SECONDS each, from LDM_JAX_FUZZ_SEED on; prints the counts."""
    end, seed, inputs = time.monotonic() + LONG_SECONDS, LONG_SEED, 0
    while time.monotonic() < end:
        counts = fuzz(name, seed, 500, tmp_path)
        inputs, seed = inputs + 500, seed + 1
        check(counts)
    print(f"{name}: {inputs} inputs")
