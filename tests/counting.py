# SPDX-License-Identifier: Apache-2.0
"""Bounds the work of a block by what it does, without a clock."""

import contextlib
import sys


@contextlib.contextmanager
def few_lines(most):
    """Fails as soon as more than `most` lines of Python are run in the block."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        count += event == "line"
        assert count <= most, f"still at work after {most} lines"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
