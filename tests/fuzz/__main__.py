# SPDX-License-Identifier: Apache-2.0
"""Fuzzes readers for a while and prints the counts and every kind of failure.

JAX_PLATFORMS=cpu python -m tests.fuzz --inputs 1000 --seed 7 lmdb parquet
"""

import argparse
import collections
import pathlib
import re
import tempfile
import time

from tests.fuzz.harness import fuzz

parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
parser.add_argument("readers", nargs="*", help="default: all")
parser.add_argument("--inputs", type=int, default=500, help="per reader")
parser.add_argument("--seed", type=int, default=0)


def main() -> None:
    """Prints a line for each reader, and below it its failures by kind."""
    from tests.fuzz.readers import READERS

    args = parser.parse_args()
    for name in args.readers or READERS:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            counts = fuzz(name, args.seed, args.inputs, pathlib.Path(folder))
        seconds = time.monotonic() - begin
        print(
            f"{name}: {args.inputs} inputs, {counts.read} read, {counts.refused} "
            f"refused, {len(counts.failures)} failures, {seconds:.0f} s",
            flush=True,
        )
        kinds = collections.defaultdict(list)
        for index, what in counts.failures:
            kinds[re.sub(r"\d+|/tmp\S*", "N", what)[:160]].append((index, what))
        for failures in sorted(kinds.values(), key=len, reverse=True):
            index, what = failures[0]
            print(f"  {len(failures)} like input {index}: {what[:400]}", flush=True)


if __name__ == "__main__":
    main()
