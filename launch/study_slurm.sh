#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a study under Slurm: one job array for each kind of stage, one after the other.
#
#     launch/study_slurm.sh --config=study_f --out=/shared/runs/study_f
#
# Run it from the checkout, on a file system that all nodes share. A job uses one node
# (NODES=2: two). If one arm fails, the others continue. If the script is run again, only
# missing stages are computed. The last job writes the report.
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
