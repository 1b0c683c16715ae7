# SPDX-License-Identifier: Apache-2.0
"""Prints the graph of a study with its cost, or writes it for a workflow engine."""

import shlex
from collections.abc import Sequence

from ldm_jax.parallel.chips import chip_by_name
from ldm_jax.study.config import Study
from ldm_jax.study.engine import is_done
from ldm_jax.study.rows import RESULT
from ldm_jax.study.stages import Stage

# A share of the peak that training reaches; for a first estimate of time.
UTILIZATION = 0.4
# In the first line of the rules: of files without it none is replaced.
MARK = b"Written by ldm-jax study --snakefile"


def describe_graph(
    study: Study, stages: Sequence[Stage], out: str, chip: str = ""
) -> str:
    """Writes the stages of a study as lines of text, with FLOPs, disk and time.

    Args:
      study: what is compared.
      stages: of `make_stages`.
      out: directory of the study.
      chip: of `chip_by_name`, "h100", for the estimate of time; "" makes none.

    Raises:
      ValueError: the chip is unknown.
    """
    limits = chip_by_name(chip) if chip else None
    lines = [f"budget of every arm: {study.budget}"]
    width = max(len(stage.name) for stage in stages)
    for stage in stages:
        cost = f"{stage.flops:.3g} FLOPs" if stage.flops else ""
        state = "done" if is_done(stage.name, out) else "    "
        lines.append(f"{state} {stage.name:{width}}  {cost:16} {stage.note}".rstrip())
    left = [stage for stage in stages if not is_done(stage.name, out)]
    flops, disk = (sum(getattr(s, name) for s in left) for name in ("flops", "disk"))
    lines.append(
        f"{len(left)} of {len(stages)} stages are left: {flops:.3g} FLOPs of training, "
        f"about {disk / 1e9:.2g} GB of disk"
    )
    if limits is not None:
        hours = flops / (UTILIZATION * limits.flops) / 3600
        lines.append(
            f"training: about {hours:.3g} device-hours of {chip} at {UTILIZATION:.0%} "
            "of its peak; sampling is not counted"
        )
    return "\n".join(lines)


def snakefile(stages: Sequence[Stage], config: str, out: str) -> str:
    """Writes the graph as rules of Snakemake, one for each stage.

    Args:
      stages: of `make_stages`.
      config, out: of the command line.
    """
    names = [stage.name for stage in stages]
    rules = [
        f'"""{MARK.decode()}; run it with: snakemake --cores 2"""',
        "",
        "rule all:",
        f"    input: {f'{out}/index.html'!r}",
        "",
        _rule(
            "report", f"{out}/index.html", [_result(out, n) for n in names], config, out
        ),
    ]
    for stage in stages:
        needs = [_result(out, name) for name in stage.needs]
        rules.append(_rule(stage.name, _result(out, stage.name), needs, config, out))
    return "\n".join(rules)


def _result(out: str, name: str) -> str:
    return f"{out}/{name}/{RESULT}"


def _rule(name: str, output: str, needs: list[str], config: str, out: str) -> str:
    """Writes one rule; its name is that of the stage in letters that Python takes."""
    label = "".join(c if c.isalnum() else "_" for c in name)
    words = ["ldm-jax", "study", f"--config={config}", f"--out={out}", f"--run={name}"]
    command = shlex.join(words).replace("{", "{{").replace("}", "}}")
    lines = [f"rule {label}:"]
    if needs:
        lines.append(f"    input: {', '.join(map(repr, needs))}")
    lines += [f"    output: {output!r}", f"    shell: {command!r}", ""]
    return "\n".join(lines)
