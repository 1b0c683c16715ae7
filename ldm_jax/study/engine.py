# SPDX-License-Identifier: Apache-2.0
"""Runs the stages of a study one after the other, and resumes interrupted ones.

A failed stage is recorded and does not stop stages that do not depend on it. The same
command runs the missing stages. Several processes may run one study: each stage is
locked by the process that runs it, and the others run other stages meanwhile.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from ldm_jax.files.formats.structured import read_json_object
from ldm_jax.files.lock import Unusable, lock_output
from ldm_jax.files.moving import remove
from ldm_jax.files.outputs import check_writable
from ldm_jax.files.paths import is_remote, resolve
from ldm_jax.files.stores.lease import Lease
from ldm_jax.files.writing import write_json
from ldm_jax.parallel.hosts import agreed, in_main_process, is_main_process
from ldm_jax.study import report
from ldm_jax.study.budget import ResolvedArm, resolve_arms
from ldm_jax.study.config import Study
from ldm_jax.study.images import check_images
from ldm_jax.study.rows import FAILURE, RESULT, SUMMARY, summary_of
from ldm_jax.study.stages import Stage, make_stages, select
from ldm_jax.training.checkpoints.differences import differences, shorten
from ldm_jax.training.monitoring.divergence import Diverged

# Errors that end a stage and not the study: the last is memory that a device lacks.
FAILURES = (
    *(ValueError, TypeError, OSError, Unusable, Diverged),
    jax.errors.JaxRuntimeError,
)


WAITS = "waiting for stages that are not done"
# Stages that an error lists for each reason.
NUM_NAMED = 3
# Between two attempts at a stage that another process runs.
POLL_SECONDS = 2.0


class StudyFailed(ValueError):
    """Raised at the end of a study if stages failed."""


def run_study(study: Study, out: str, only: Sequence[str] = (), kind: str = "") -> None:
    """Runs the missing stages of a study, and writes its report.

    Args:
      study: what is compared.
      out: directory of the study.
      only: names of arms; () runs all.
      kind: of stages ("first_stage"); "" runs all.

    Raises:
      ValueError, OSError: an arm does not fit, a finished stage had other settings, or
        images cannot be opened: before anything is run.
      StudyFailed: stages failed, or wait for those that did; the others are done.
    """
    check_writable(out)
    arms = resolve_arms(study)
    stages = select(make_stages(study, arms, out), _known(only, arms), kind)
    for stage in stages:
        check_unchanged(stage, out)
    check_images(study, arms, [s for s in stages if not is_done(s.name, out)])
    _write_summary(study, arms, out)
    failed = _run_missing(stages, out)
    report.write_study_report(out)
    if failed:
        raise StudyFailed(_describe_failures(failed, len(stages)))


def _run_missing(stages: Sequence[Stage], out: str) -> dict[str, list[str]]:
    """Runs the stages that are not done; waits for those that other processes run.

    Returns:
      {reason: names} of the stages that failed, or need the result of one that did.
    """
    failed: dict[str, list[str]] = {}
    places = {s.name: f"[{n}/{len(stages)}] {s.name}" for n, s in enumerate(stages, 1)}
    left = [stage for stage in stages if not _is_done_for_all(stage.name, out)]
    owners: dict[str, str] = {}
    waits: dict[str, str] = {}
    while left:
        before, left, is_any_in_use = left, [], False
        for stage in before:
            place = places[stage.name]
            missing = [n for n in stage.needs if not _is_done_for_all(n, out)]
            if missing:
                waits[stage.name] = f"{place}: waits for {', '.join(missing)}"
                left.append(stage)
            elif owner := _attempt(stage, place, out, failed):
                if owner != owners.get(stage.name):
                    print(f"{place}: {owner}", flush=True)
                owners[stage.name], is_any_in_use = owner, True
                left.append(stage)
        if not is_any_in_use:
            break
        time.sleep(POLL_SECONDS)
    for stage in left:
        print(waits[stage.name], flush=True)
        failed.setdefault(WAITS, []).append(stage.name)
    return failed


def _attempt(stage: Stage, place: str, out: str, failed: dict[str, list[str]]) -> str:
    """Runs a stage and records a failure; if another process runs it, says which."""
    try:
        with _reserved(stage, out) as owner:
            if not owner and not _is_done_for_all(stage.name, out):
                print(f"{place}: {stage.note}", flush=True)
                run_stage(stage, out)
            return owner
    except FAILURES as error:
        failed.setdefault(_in_a_line(error), []).append(stage.name)
        print(f"{place} FAILED: {error}", flush=True)
        return ""


@contextlib.contextmanager
def _reserved(stage: Stage, out: str) -> Iterator[str]:
    """Locks a stage; yields "", or a sentence on the process that runs it already."""
    owner = ""

    def take():
        nonlocal owner
        try:
            if is_remote(out):  # not in the folder of the stage: training leases it
                return Lease(f"{out}/.locks/{stage.name}", "choose another --out")
            return lock_output(resolve(out) / stage.name)
        except Unusable as error:
            owner = str(error)

    lock = in_main_process(take)
    try:
        if agreed(bool(owner)):
            yield owner or f"{stage.name} is in use by another process."
        else:
            yield ""
    finally:
        if lock is not None:
            lock.release()


def run_one(study: Study, out: str, name: str) -> None:
    """Runs one stage by its name; workflow engines call it.

    Raises:
      ValueError: there is no such stage, its settings changed, or what it needs is
        not done.
      OSError: nothing can be written to `out`.
      Unusable: another process runs it.
    """
    check_writable(out)
    if name == "report":
        report.write_study_report(out)
        return
    arms = resolve_arms(study)
    stages = {stage.name: stage for stage in make_stages(study, arms, out)}
    if name not in stages:
        raise ValueError(f'there is no stage "{name}"; one of: {", ".join(stages)}.')
    stage = stages[name]
    check_unchanged(stage, out)
    _write_summary(study, arms, out)
    if is_done(name, out):
        return
    missing = [other for other in stage.needs if not is_done(other, out)]
    if missing:
        raise ValueError(
            f"{name} reads the result of {', '.join(missing)}: got none; run it before."
        )
    with _reserved(stage, out) as owner:
        if owner:
            raise Unusable(owner)
        if not is_done(name, out):
            run_stage(stage, out)


def run_stage(stage: Stage, out: str) -> None:
    """Does a stage's work in its folder; writes result.json, or failed.json."""
    folder = resolve(out) / stage.name
    started = time.monotonic()
    try:
        result = stage.run(folder)
    except FAILURES as error:
        if is_main_process():
            with contextlib.suppress(OSError):  # the disk may be full
                write_json(folder / FAILURE, dict(error=_in_a_line(error)))
        raise
    if not is_main_process():
        return
    remove(folder / FAILURE)
    seconds = time.monotonic() - started
    content = {"settings": stage.settings, "seconds": seconds, "result": result}
    write_json(folder / RESULT, content, indent=1)


def _describe_failures(failed: dict[str, list[str]], num_stages: int) -> str:
    """Describes in a line which stages are not done: {reason: stages}."""
    reasons = []
    for reason, names in failed.items():
        more = ", ..." if len(names) > NUM_NAMED else ""
        count = f"{len(names)} stage{'s' if len(names) > 1 else ''}"
        named = ", ".join(names[:NUM_NAMED])
        reasons.append(f"{count} ({named}{more}): {reason}")
    total = sum(map(len, failed.values()))
    return (
        f"{total} of {num_stages} stages are not done; the same command tries them "
        f"again: {'; '.join(reasons)}"
    )


def _in_a_line(error: Exception) -> str:
    """Returns the first line of an error; the rest was printed."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def is_done(name: str, out: str) -> bool:
    """Returns whether a stage's result exists."""
    return (resolve(out) / name / RESULT).exists()


def _is_done_for_all(name: str, out: str) -> bool:
    """Returns on every process of a run whether process 0 sees a stage's result."""
    return agreed(is_done(name, out))


def check_unchanged(stage: Stage, out: str) -> None:
    """Refuses a finished stage whose settings changed since.

    Raises:
      ValueError: lists what differs.
    """
    path = resolve(out) / stage.name / RESULT
    if not path.exists():
        return
    before = read_json_object(path, {"settings": dict})["settings"]
    changed = [line for _, line in differences(before, dict(stage.settings))]
    if changed:
        raise ValueError(
            f"{stage.name} is finished with other settings:\n{shorten(changed)}\n"
            f"Undo the change, name another --out, or delete {path.parent}."
        )


def _known(only: Sequence[str], arms: dict[str, ResolvedArm]) -> Sequence[str]:
    """Raises ValueError for unknown names of arms."""
    unknown = [name for name in only if name not in arms]
    if unknown:
        raise ValueError(
            f"there is no arm {', '.join(unknown)}; one of: {', '.join(arms)}."
        )
    return only


def _write_summary(study: Study, arms: dict[str, ResolvedArm], out: str) -> None:
    """Writes the description of the study that the report needs."""
    if is_main_process():
        content: dict[str, Any] = summary_of(study, arms)
        write_json(resolve(out) / SUMMARY, content, indent=1)
