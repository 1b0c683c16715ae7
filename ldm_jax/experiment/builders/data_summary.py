# SPDX-License-Identifier: Apache-2.0
"""Describes a data set in one line, for the summary of a run."""

from ldm_jax.data.records import Source


def describe_source(source: Source, what: str) -> str:
    """Returns "540 images of ./photos, 5 classes (daisy, ...), 2 files left out".

    Args:
      source: the set.
      what: what its records are and where they are.
    """
    parts = [f"{len(source):,} {what}"]
    names = getattr(source, "class_names", ())
    count = getattr(source, "num_classes", None)
    if names:
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        parts.append(f"{len(names)} classes ({shown})")
    elif count:
        parts.append(f"{count} classes")
    if refused := getattr(source, "refused", ()):
        parts.append(f"{len(refused)} files left out")
    return ", ".join(parts)
