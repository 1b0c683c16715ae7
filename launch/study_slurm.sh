#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A study under Slurm: an array of jobs for each kind of stage, each after the one before.
#
#     launch/study_slurm.sh --config=study_f --out=/shared/runs/study_f
#
# Run from the checkout, on a file system that all nodes see. A job is one node (NODES=2
# for two); an arm that fails does not stop the others. Run it again and only what is
# missing does any work. The report is the last job.
set -euo pipefail
[[ $# -gt 0 ]] || { echo "usage: launch/study_slurm.sh --config=STUDY --out=OUT" >&2; exit 2; }
kinds=(reference first_stage reconstructions latents speed denoiser evaluate report)
stages=$(ldm-jax study "$@" --list)
after=''
for kind in "${kinds[@]}"; do
  count=$(grep -cE "^$kind(/|\$)" <<<"$stages" || true)
  [[ $count -gt 0 ]] || continue
  job=$(sbatch --parsable --job-name="study-$kind" --array="0-$((count - 1))" \
    --nodes="${NODES:-1}" ${after:+--dependency="afterany:$after"} \
    launch/slurm.sbatch launch/study_stage.sh "$kind" "$@")
  echo "$kind: $count in job $job"
  after=$job
done
