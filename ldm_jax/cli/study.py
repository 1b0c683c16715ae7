# SPDX-License-Identifier: Apache-2.0
"""`ldm-jax study`."""

import os

from ldm_jax.cli import values

DETAILS = """
--config=NAME[:ARGUMENT] or FILE.py[:ARGUMENT] has a function get_study, which returns
the models to compare ("arms"), seeds, a budget and metrics; configs/study_f.py is an
example. A study consists of stages: each runs one of the other commands in a separate
folder, and is finished when its result.json exists. If the study was interrupted, run
the same command again: it runs the stages that are missing.
"""
WRITES = """
  OUT/index.html, a report for the browser, with table.md, table.csv, results.jsonl and
  plots/; and a folder for every kind of stage: first_stage/, reconstructions/,
  latents/, reference/, denoiser/, evaluate/.
"""
EXAMPLES = """
  ldm-jax study --config=study_f --out=runs/study_f --dry-run
  ldm-jax study --config=study_toy:images=./photos --out=runs/study
  ldm-jax study --config=study_f --out=runs/study_f --only=f=4,f=8
  ldm-jax study --out=runs/study_f --report-only
  ldm-jax study --config=study_f --out=gs://BUCKET/study_f
  ldm-jax study --config=study_f --out=runs/study_f --snakefile=Snakefile
"""


def add(commands) -> None:
    """Adds the command."""
    command = values.add_command(
        commands,
        "study",
        _run,
        "Compare models at equal compute: train, sample, evaluate and report.",
        details=DETAILS,
        writes=WRITES,
        examples=EXAMPLES,
    )
    command.add_argument("--config", help="the study, see above")
    command.add_argument(
        "--out", required=True, help="directory of the study, or gs://..."
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="print the stages with parameters, steps, FLOPs and disk; run nothing",
    )
    command.add_argument(
        "--chip",
        default="",
        help="device for which --dry-run estimates the time: h100, b200, v5e ...",
    )
    command.add_argument(
        "--only",
        default="",
        help="names of the arms to run, comma-separated; default: all",
    )
    command.add_argument(
        "--stage", default="", help="run only stages of this kind: first_stage ..."
    )
    command.add_argument(
        "--report-only",
        action="store_true",
        help="write the report of the finished stages; needs no --config",
    )
    command.add_argument(
        "--run",
        dest="one",
        metavar="STAGE",
        help="run one stage, by the name of its folder",
    )
    command.add_argument(
        "--list",
        action="store_true",
        dest="lists",
        help="print the names of the stages in order, one per line, for scripts",
    )
    command.add_argument(
        "--snakefile", help="write the stages as rules of Snakemake into this file"
    )


def _run(args, overrides) -> None:
    from ldm_jax.files.outputs import check_holds_checkpoints, check_writable_file
    from ldm_jax.files.paths import is_remote, resolve
    from ldm_jax.files.writing import write_text
    from ldm_jax.study import engine, graph, report
    from ldm_jax.study.budget import resolve_arms
    from ldm_jax.study.config import load_study
    from ldm_jax.study.stages import make_stages, select

    check_holds_checkpoints(args.out)
    if is_remote(args.out):
        args.out = os.fspath(resolve(args.out))
        if args.snakefile:
            raise ValueError(
                f"the rules of --snakefile name local files: got --out={args.out}; "
                "give a mounted bucket, or let the workflow engine run ldm-jax study "
                "--run=STAGE for every line of --list."
            )
    if args.snakefile:
        check_writable_file(args.snakefile, "--snakefile", graph.MARK)
    only = tuple(filter(None, args.only.split(",")))
    if args.report_only:
        report.write_study_report(args.out)
    elif args.config is None:
        raise ValueError(
            "a study needs --config, NAME or FILE.py with get_study; --report-only "
            "does without."
        )
    elif args.one:
        engine.run_one(load_study(args.config), args.out, args.one)
        return
    elif args.dry_run or args.snakefile or args.lists:
        study = load_study(args.config)
        arms = resolve_arms(study, only)
        stages = select(make_stages(study, arms, args.out), kind=args.stage)
        if args.snakefile:
            text = graph.snakefile(stages, args.config, args.out)
            write_text(args.snakefile, text)
            values.echo(f"{len(stages) + 1} rules in {args.snakefile}")
        elif args.lists:
            values.echo("\n".join([*(stage.name for stage in stages), "report"]))
        else:
            values.echo(graph.describe_graph(study, stages, args.out, args.chip))
        return
    else:
        engine.run_study(load_study(args.config), args.out, only, args.stage)
    values.echo(f"report: {args.out}/index.html")
